import { useQuery } from "@tanstack/react-query";
import { useId, useState } from "react";
import { ApiError, type DeadLetter } from "../api";
import { formatCount, formatInstant } from "../format";
import { indentJson } from "../json";
import { overviewQuery, useReplay } from "../queries";
import { Link } from "../router";
import { ConfirmDialog } from "./ConfirmDialog";
import { DataTable } from "./DataTable";
import { Facts } from "./Facts";
import { Section } from "./Page";

export function DeadLetterDetail({ letter }: { letter: DeadLetter }) {
  return (
    <Section title={`Dead letter ${letter.id}`} aside={letter.pipeline}>
      <p className="error-line">{letter.error}</p>
      <Replay letter={letter} />
      <Facts
        facts={[
          ["Topic", letter.topic],
          ["Partition, offset", `${letter.partition}, ${formatCount(letter.offset)}`],
          ["Key", letter.key || "–"],
          ["Tries", formatCount(letter.tries)],
          ["Failed", `${formatInstant(letter.failed_us)} UTC`],
          [
            "Event",
            <Link key="event" to={`/trace/${encodeURIComponent(letter.event_id)}`}>
              {letter.event_id}
            </Link>,
          ],
        ]}
      />
      <Block title="Payload" text={indentJson(letter.value) ?? letter.value} />
      <h3>Headers</h3>
      <Headers headers={letter.headers} />
      <Block title="Traceback" text={letter.traceback} />
    </Section>
  );
}

function Block({ title, text }: { title: string; text: string }) {
  return (
    <>
      <h3>{title}</h3>
      {text ? (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, also by keyboard
        <pre role="group" aria-label={title} tabIndex={0}>
          {text}
        </pre>
      ) : (
        <p className="note">None.</p>
      )}
    </>
  );
}

function Headers({ headers }: { headers: Record<string, string> }) {
  const rows = Object.entries(headers).sort(([a], [b]) => (a < b ? -1 : 1));
  if (rows.length === 0) return <p className="note">None.</p>;
  return (
    <DataTable
      label="Headers"
      columns={[
        { name: "Header", cell: ([name]) => name, heading: true },
        { name: "Value", cell: ([, value]) => <code>{value}</code> },
      ]}
      rows={rows}
      rowKey={([name]) => name}
    />
  );
}

function Replay({ letter }: { letter: DeadLetter }) {
  const overview = useQuery(overviewQuery);
  const replay = useReplay();
  const [asking, setAsking] = useState(false);
  const reasonId = useId();
  const reason = whyNot(letter, overview.data?.read_only);
  return (
    <div className="replay">
      <button
        type="button"
        className="primary"
        disabled={reason !== "" || replay.isPending}
        aria-describedby={reason ? reasonId : undefined}
        onClick={() => setAsking(true)}
      >
        Replay
      </button>
      {reason && (
        <p id={reasonId} className="note">
          {reason}
        </p>
      )}
      <p role="status" aria-label="Result" className="result" data-failed={replay.isError}>
        {replay.isPending && "Replaying."}
        {replay.isSuccess && `Handed to ${letter.pipeline} again.`}
        {replay.isError && `Not replayed. ${said(replay.error)}`}
      </p>
      {asking && (
        <ConfirmDialog
          title={`Replay dead letter ${letter.id}?`}
          action="Replay"
          onCancel={() => setAsking(false)}
          onConfirm={() => {
            setAsking(false);
            replay.mutate(letter.id);
          }}
        >
          <p>
            It is copied into the retries of <strong>{letter.pipeline}</strong> and marked as
            replayed. No other pipeline sees it a second time, and it can be replayed once.
          </p>
        </ConfirmDialog>
      )}
    </div>
  );
}

function whyNot(letter: DeadLetter, readOnly: boolean | undefined): string {
  if (letter.replayed_us !== null) return `Replayed at ${formatInstant(letter.replayed_us)} UTC.`;
  if (readOnly)
    return "This console is read-only: read_only is set in [console] of counterfoil.toml.";
  if (readOnly === undefined) return "Whether this console may do that is not known yet.";
  return "";
}

function said(error: Error): string {
  if (!(error instanceof ApiError)) return "The server did not answer.";
  return error.detail ? `${error.message}: ${error.detail}` : `${error.message}.`;
}
