import { useQuery } from "@tanstack/react-query";
import { type FormEvent, useId, useState } from "react";
import type { Trace } from "../api";
import { Empty } from "../components/Empty";
import { Page } from "../components/Page";
import { QueryView } from "../components/QueryView";
import { formatElapsed, parseInstant } from "../format";
import { traceQuery } from "../queries";
import { Link, navigate } from "../router";
import { hasArrived, STATIONS, type Station, type StationName, stationsOf } from "../stations";

const COMMAND = "counterfoil trace ID {at}";

export function TracePage({ identity }: { identity: string }) {
  return (
    <Page title="Trace" lead="One payment, followed from the request to its line in the report.">
      <Search identity={identity} />
      {identity ? (
        <Found identity={identity} />
      ) : (
        <Empty title="Nothing is being followed." command={COMMAND}>
          Enter the id of a payment, or the Idempotency-Key that its request carried.
        </Empty>
      )}
    </Page>
  );
}

function Search({ identity }: { identity: string }) {
  const id = useId();
  const [text, setText] = useState(identity);
  const [followed, setFollowed] = useState(identity);
  if (identity !== followed) {
    setFollowed(identity);
    setText(identity);
  }
  const follow = (event: FormEvent) => {
    event.preventDefault();
    const wanted = text.trim();
    navigate(wanted ? `/trace/${encodeURIComponent(wanted)}` : "/trace");
  };
  return (
    <search>
      <form className="search" onSubmit={follow}>
        <label htmlFor={id}>Id or Idempotency-Key</label>
        <div>
          <input
            id={id}
            type="search"
            value={text}
            onChange={(event) => setText(event.target.value)}
            autoComplete="off"
            autoCapitalize="off"
            spellCheck={false}
          />
          <button type="submit" className="primary">
            Follow
          </button>
        </div>
      </form>
    </search>
  );
}

function Found({ identity }: { identity: string }) {
  const trace = useQuery(traceQuery(identity));
  return (
    <>
      <p role="status" aria-label="Outcome" className="outcome">
        {trace.data && outcomeOf(trace.data)}
      </p>
      <QueryView query={trace} command={COMMAND}>
        {(data) =>
          data.steps.length > 0 ? (
            <>
              <GivenUp trace={data} />
              <Timeline trace={data} />
            </>
          ) : (
            <Empty title={`Nothing is known under ${identity}.`} command={COMMAND}>
              It is looked up again every two seconds, in case it is on its way.
            </Empty>
          )
        }
      </QueryView>
    </>
  );
}

function outcomeOf({ steps }: Trace): string {
  if (steps.length === 0) return "Unknown.";
  if (hasArrived(steps)) return "Reported: it has passed every station.";
  const passed = stationsOf(steps).filter((station) => station.passes.length > 0).length;
  const words = `${passed} of ${STATIONS.length} stations passed`;
  return steps.some((step) => step.letter !== null)
    ? `${words}, and given up on its way:`
    : `Under way: ${words}.`;
}

/** The dead letters that it stands in, where there are some: why it goes no further. */
function GivenUp({ trace }: { trace: Trace }) {
  const letters = trace.steps.filter((step) => step.letter !== null);
  if (letters.length === 0) return null;
  return (
    <ul className="banners" aria-label="Dead letters of this payment">
      {letters.map((step) => (
        <li key={step.letter} className="banner">
          <Link to={`/dead-letters/${step.letter}`}>{step.where}</Link>, {step.time} UTC:{" "}
          {step.what}
        </li>
      ))}
    </ul>
  );
}

const STATION_WORDS: Record<StationName, string> = {
  request: "the gateway answered it",
  row: "the service wrote it",
  outbox: "its event was written with it",
  log: "the relay put the event in its topic",
  ledger: "the pipeline posted it",
  lake: "it was stored in the table",
  report: "its day was published",
};

function Timeline({ trace }: { trace: Trace }) {
  const start = parseInstant(trace.steps[0]?.time ?? "");
  return (
    <ol className="timeline" aria-label="Stations">
      {stationsOf(trace.steps).map((station) => (
        <StationItem key={station.name} station={station} start={start} />
      ))}
    </ol>
  );
}

function StationItem({ station, start }: { station: Station; start: number | null }) {
  const passed = station.passes.length > 0;
  return (
    <li className="station" data-passed={passed}>
      <h2>
        {station.name} <span className="station-words">{STATION_WORDS[station.name]}</span>
      </h2>
      {passed ? (
        station.passes.map((pass) => {
          const moment = parseInstant(pass.time);
          return (
            <dl key={`${pass.time} ${pass.where} ${pass.what}`} className="pass">
              <div>
                <dt className="visually-hidden">Time</dt>
                <dd>
                  {pass.time} UTC
                  {moment !== null && start !== null && moment !== start && (
                    <span className="elapsed">{formatElapsed(moment - start)}</span>
                  )}
                </dd>
              </div>
              <div>
                <dt className="visually-hidden">Where</dt>
                <dd>{pass.where}</dd>
              </div>
              <div>
                <dt className="visually-hidden">What</dt>
                <dd>{pass.what}</dd>
              </div>
            </dl>
          );
        })
      ) : (
        <p className="pending">Not yet.</p>
      )}
    </li>
  );
}
