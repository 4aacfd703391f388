import type { Overview, State } from "../api";
import { Link, segments, usePath } from "../router";
import { Guilloche } from "./Guilloche";

const PAGES = [
  ["/", "Overview"],
  ["/trace", "Trace"],
  ["/topics", "Topics"],
  ["/sagas", "Sagas"],
  ["/tasks", "Tasks"],
  ["/dead-letters", "Dead letters"],
  ["/reports", "Reports"],
  ["/limits", "Limits and services"],
  ["/coordination", "Coordination"],
  ["/proof", "Proof"],
] as const;

const STATE_SIGNS: Record<State, string> = { equal: "=", "under way": ">", broken: "≠" };

/** The part that stays behind: which application this is, how it stands, and the way to its pages. */
export function Stub({ overview }: { overview: Overview | undefined }) {
  const current = segments(usePath())[0] ?? "";
  return (
    <header className="stub">
      <div className="stub-inner">
        <Guilloche />
        <div className="stub-head">
          <p className="stub-brand">Counterfoil</p>
          {overview && (
            <p className="stub-application">
              <span>{overview.application}</span>
              {overview.read_only && <span className="tag">read-only</span>}
            </p>
          )}
        </div>
        <nav aria-label="Pages">
          <ul>
            {PAGES.map(([to, name]) => (
              <li key={to}>
                <Link to={to} aria-current={isCurrent(to, current) ? "page" : undefined}>
                  {name}
                </Link>
              </li>
            ))}
          </ul>
        </nav>
        {overview && overview.way.length > 0 && (
          <p className="stub-state" data-state={overview.state}>
            <span aria-hidden="true" className="stub-sign">
              {STATE_SIGNS[overview.state]}
            </span>{" "}
            {overview.state}
          </p>
        )}
      </div>
    </header>
  );
}

function isCurrent(to: string, page: string): boolean {
  return to === `/${page}` || (to === "/reports" && page === "reports-view");
}
