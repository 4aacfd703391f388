import type { ReactNode } from "react";

interface Props {
  pending: boolean;
  said: ReactNode;
  /** Why nothing was done; empty if all went well. */
  failed: string;
}

/** What became of the last act, told to readers of the screen as well. */
export function Result({ pending, said, failed }: Props) {
  return (
    <p role="status" aria-label="Result" className="result" data-failed={failed !== ""}>
      {pending ? "Under way." : failed || said}
    </p>
  );
}
