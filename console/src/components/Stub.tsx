import { useQuery } from "@tanstack/react-query";
import type { Overview, State } from "../api";
import { formatNumberOf } from "../format";
import { addressOf, NO_FILTER } from "../letters";
import { isWell } from "../processes";
import { waitingLettersQuery } from "../queries";
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

const STATE_SIGNS: Record<State, string> = {
  equal: "=",
  "under way": ">",
  broken: "≠",
  unknown: "?",
};

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
        {overview && <Troubles overview={overview} />}
        {overview?.matches && (
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

/** What needs somebody, told of on every page. */
function Troubles({ overview }: { overview: Overview }) {
  const { data: waiting = [] } = useQuery(waitingLettersQuery);
  const letters = waiting.reduce((sum, each) => sum + each.letters, 0);
  const processes = overview.processes.filter((each) => !isWell(each)).length;
  if (letters === 0 && processes === 0) return null;
  return (
    <ul className="stub-troubles" aria-label="What needs somebody">
      {processes > 0 && (
        <li>
          <Link to="/">{formatNumberOf(processes, "process", "es")} not well</Link>
        </li>
      )}
      {letters > 0 && (
        <li>
          <Link to={addressOf("", { ...NO_FILTER, state: "waiting" })}>
            {formatNumberOf(letters, "dead letter")} waiting
          </Link>
        </li>
      )}
    </ul>
  );
}

function isCurrent(to: string, page: string): boolean {
  if (page === "reports-view") return to === "/reports";
  return to === `/${page === "processes" ? "" : page}`;
}
