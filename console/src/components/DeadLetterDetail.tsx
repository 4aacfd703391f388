import type { AuditEntry, AuditedLetter } from "../api";
import { formatCount, formatInstant } from "../format";
import { indentJson } from "../json";
import { Link } from "../router";
import { type Column, DataTable } from "./DataTable";
import { Facts } from "./Facts";
import { LetterActions } from "./LetterActions";
import { Section } from "./Page";

export function DeadLetterDetail({ letter }: { letter: AuditedLetter }) {
  const settled = letter.replayed_us ?? letter.discarded_us;
  return (
    <Section title={`Dead letter ${letter.id}`} aside={letter.pipeline}>
      <p className="error-line">{letter.error}</p>
      <LetterActions letter={letter} />
      <Facts
        facts={[
          [
            "Topic",
            <Link key="topic" to="/topics">
              {letter.topic}
            </Link>,
          ],
          ["Partition, offset", `${letter.partition}, ${formatCount(letter.offset)}`],
          ["Key", letter.key || "–"],
          ["Tries", formatCount(letter.tries)],
          ["Failed", `${formatInstant(letter.failed_us)} UTC`],
          [
            letter.discarded_us === null ? "Replayed" : "Discarded",
            settled === null ? "–" : `${formatInstant(settled)} UTC`,
          ],
          [
            "Event",
            <Link key="event" to={`/trace/${encodeURIComponent(letter.event_id)}`}>
              {letter.event_id}
            </Link>,
          ],
        ]}
      />
      {letter.replacement !== null && (
        <Block title="Payload, as it was edited" text={pretty(letter.replacement)} />
      )}
      <Block
        title={letter.replacement === null ? "Payload" : "Payload, as it came in"}
        text={pretty(letter.value)}
      />
      <h3>Headers</h3>
      <Headers headers={letter.headers} />
      <Block title="Traceback" text={letter.traceback} />
      <h3>Audit</h3>
      <Audit entries={letter.audit} />
    </Section>
  );
}

function pretty(value: string): string {
  return indentJson(value) ?? value;
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

const DEEDS: Record<AuditEntry["action"], string> = {
  edit: "edited",
  replay: "replayed",
  handle: "handled",
  discard: "discarded",
};

const AUDIT_COLUMNS: Column<AuditEntry>[] = [
  { name: "When (UTC)", cell: (entry) => formatInstant(entry.at_us) },
  { name: "Who", cell: (entry) => entry.actor },
  { name: "Did", cell: (entry) => DEEDS[entry.action], heading: true },
  {
    name: "What",
    cell: (entry) => (entry.value === null ? entry.detail : <code>{entry.value}</code>),
  },
];

function Audit({ entries }: { entries: AuditEntry[] }) {
  if (entries.length === 0) return <p className="note">Nobody has done anything to it.</p>;
  return (
    <DataTable label="Audit" columns={AUDIT_COLUMNS} rows={entries} rowKey={(entry) => entry.id} />
  );
}
