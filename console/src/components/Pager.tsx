import { Link } from "../router";

interface Props {
  /** What there are pages of. */
  of: string;
  /** Undefined on the newest page. */
  newest: string | undefined;
  /** Undefined on the oldest page. */
  older: string | undefined;
}

/**
 * The ways from a page of a list. Each page has an address, so that the browser's way back leads to
 * the one before; and one page at a time is asked for and drawn, however long the list is.
 */
export function Pager({ of, newest, older }: Props) {
  if (newest === undefined && older === undefined) return null;
  return (
    <nav className="pager" aria-label={`Pages of ${of}`}>
      {newest !== undefined && <Link to={newest}>Newest {of}</Link>}
      {older !== undefined && <Link to={older}>Older {of}</Link>}
    </nav>
  );
}
