import { useRef, useState } from "react";
import { api, type Outcome, type ReplayedPart, saidBy, type Via } from "../api";
import { formatCount } from "../format";
import { isFiltered, type LetterFilter } from "../letters";
import { useLetterAct, useReadOnlyReason } from "../queries";
import { ConfirmDialog } from "./ConfirmDialog";
import { Mark, type Tone } from "./Mark";
import { ViaChoice } from "./ViaChoice";

const TONES: Record<Outcome["result"], Tone> = {
  done: "good",
  failed: "alarm",
  skipped: "waiting",
};

/** Replays every waiting letter that fits the filter, and tells of each. */
export function ReplayAll({ filter }: { filter: LetterFilter }) {
  const reason = useReadOnlyReason();
  const [asking, setAsking] = useState(false);
  const [via, setVia] = useState<Via>("retries");
  const [outcomes, setOutcomes] = useState<Outcome[]>([]);
  const stopped = useRef(false);
  const replay = useLetterAct(async (way: Via) => {
    let part: Partial<ReplayedPart> = {};
    do {
      part = await api.replaySome(filter, way, part);
      const { outcomes: more = [] } = part;
      setOutcomes((found) => [...found, ...more]);
    } while (!part.ended && !stopped.current);
  });
  return (
    <div className="replay-all">
      <button
        type="button"
        disabled={reason !== "" || replay.isPending}
        onClick={() => setAsking(true)}
      >
        {isFiltered(filter) ? "Replay all that fit" : "Replay all that wait"}
      </button>
      {replay.isPending && (
        <button
          type="button"
          onClick={() => {
            stopped.current = true;
          }}
        >
          Stop
        </button>
      )}
      {reason && <p className="note">{reason}</p>}
      <p role="status" aria-label="Progress" className="result" data-failed={replay.isError}>
        {replay.isPending && `${formatCount(outcomes.length)} so far.`}
        {replay.isSuccess && summary(outcomes, stopped.current)}
        {replay.isError && `Stopped. ${saidBy(replay.error)}`}
      </p>
      {outcomes.length > 0 && (
        <details open={outcomes.some((outcome) => outcome.result !== "done")}>
          <summary>A result for each</summary>
          <ul className="outcomes" aria-label="Results">
            {outcomes.map((outcome) => (
              <li key={outcome.letter}>
                <Mark tone={TONES[outcome.result]}>{outcome.result}</Mark> {outcome.letter}:{" "}
                {outcome.detail}
              </li>
            ))}
          </ul>
        </details>
      )}
      {asking && (
        <ConfirmDialog
          title={isFiltered(filter) ? "Replay all that fit?" : "Replay all that wait?"}
          action="Replay"
          onCancel={() => setAsking(false)}
          onConfirm={() => {
            setAsking(false);
            setOutcomes([]);
            stopped.current = false;
            replay.mutate(via);
          }}
        >
          <p>
            Every waiting letter that fits the filter goes to its pipeline again, once, the oldest
            first, at 100 a second.
          </p>
          <ViaChoice via={via} onChange={setVia} />
        </ConfirmDialog>
      )}
    </div>
  );
}

function summary(outcomes: readonly Outcome[], stopped: boolean): string {
  const done = outcomes.filter((outcome) => outcome.result === "done").length;
  if (outcomes.length === 0) return "None of them waits.";
  const words = `${formatCount(done)} of ${formatCount(outcomes.length)} replayed.`;
  return stopped ? `Stopped. ${words}` : words;
}
