import { useQuery } from "@tanstack/react-query";
import type { Saga } from "../api";
import { formatDuration, formatElapsed, formatInstant } from "../format";
import { addressOf, NO_FILTER } from "../letters";
import { sagaQuery } from "../queries";
import { Link } from "../router";
import { outcomeOf, STATUS_WORDS, type Stage, stagesOf } from "../sagas";
import { type Fact, Facts } from "./Facts";
import { Mark } from "./Mark";
import { Section } from "./Page";
import { QueryView } from "./QueryView";

/** The sagas that one event has begun, each with its timeline. */
export function SagaDetail({ id, back }: { id: string; back: string }) {
  const sagas = useQuery(sagaQuery(id));
  return (
    <>
      <p>
        <Link to={back}>All sagas</Link>
      </p>
      <QueryView query={sagas} command={`counterfoil events saga ${id} {at}`}>
        {(found) => found.map((saga) => <OneSaga key={saga.saga} saga={saga} />)}
      </QueryView>
    </>
  );
}

function OneSaga({ saga }: { saga: Saga }) {
  const [tone, words] = STATUS_WORDS[saga.status];
  return (
    <Section title={`${saga.saga} ${saga.id}`} aside={saga.style}>
      <Facts
        facts={[
          [
            "Status",
            <Mark key="status" tone={tone}>
              {words}
            </Mark>,
          ],
          ["Step", saga.step],
          ["Key", saga.key || "–"],
          ["Begun", `${formatInstant(saga.started_us)} UTC`],
          ...endOf(saga),
        ]}
      />
      {saga.status === "stuck" && <Stuck saga={saga} />}
      <h3>Timeline</h3>
      <ol className="timeline" aria-label={`Timeline of ${saga.saga}`}>
        {stagesOf(saga.timeline).map((stage) => (
          <StageItem
            key={`${stage.step} ${stage.direction} ${stage.tries[0]?.at_us}`}
            stage={stage}
            start={saga.started_us}
          />
        ))}
      </ol>
    </Section>
  );
}

/** When it ended, or what it waits for. */
function endOf({
  status,
  started_us,
  ended_us,
  waiting,
  wake_us,
  deadline_us,
  tries,
}: Saga): Fact[] {
  if (ended_us !== null) {
    return [
      ["Ended", `${formatInstant(ended_us)} UTC`],
      ["Took", formatDuration((ended_us - started_us) / 1e6)],
    ];
  }
  const facts: Fact[] = [];
  if (wake_us !== null) {
    const name = waiting ? "Waits for an answer until" : tries > 0 ? "Next try" : "Goes on";
    facts.push([name, `${formatInstant(wake_us)} UTC`]);
  }
  if (deadline_us !== null && status === "running") {
    facts.push(["Taken back if not done by", `${formatInstant(deadline_us)} UTC`]);
  }
  return facts;
}

function Stuck({ saga }: { saga: Saga }) {
  if (saga.style === "choreography") {
    return <p className="error-line">It has not ended in time: nobody has told of its end.</p>;
  }
  const letters = addressOf("", { ...NO_FILTER, pipeline: `saga.${saga.saga}` });
  return (
    <p className="error-line">
      Nothing goes on by itself. When the cause is gone,{" "}
      <Link to={letters}>replay its dead letter</Link>: the step is tried again.
    </p>
  );
}

function StageItem({ stage, start }: { stage: Stage; start: number }) {
  const isUndo = stage.direction === "undo";
  const isDone = stage.tries.some((line) => outcomeOf(line)[0] === "good");
  return (
    <li className="station" data-passed={isDone}>
      <h4>
        {stage.step} {isUndo && <span className="station-words">compensation</span>}
      </h4>
      {stage.tries.map((line, index) => {
        const [tone, words] = outcomeOf(line);
        return (
          // biome-ignore lint/suspicious/noArrayIndexKey: lines are only ever added at the end
          <dl key={index} className="pass">
            <div>
              <dt className="visually-hidden">Time</dt>
              <dd>
                {formatInstant(line.at_us)} UTC
                <span className="elapsed">{formatElapsed(line.at_us - start)}</span>
              </dd>
            </div>
            <div>
              <dt className="visually-hidden">Outcome</dt>
              <dd>
                <Mark tone={tone}>
                  {words}
                  {line.attempt > 1 && `, try ${line.attempt}`}
                </Mark>
              </dd>
            </div>
            <div>
              <dt className="visually-hidden">Error</dt>
              <dd>{line.error}</dd>
            </div>
          </dl>
        );
      })}
    </li>
  );
}
