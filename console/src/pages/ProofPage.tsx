import { useQuery } from "@tanstack/react-query";
import type { Difference, Verdict } from "../api";
import { PROVE } from "../commands";
import { type Column, DataTable } from "../components/DataTable";
import { Empty } from "../components/Empty";
import { Facts } from "../components/Facts";
import { Page, Section } from "../components/Page";
import { QueryView } from "../components/QueryView";
import {
  formatCount,
  formatDuration,
  formatMilliseconds,
  formatMoney,
  formatNumberOf,
} from "../format";
import { proofQuery } from "../queries";
import { Link } from "../router";

export function ProofPage() {
  const proof = useQuery(proofQuery);
  return (
    <Page
      title="Proof"
      lead="counterfoil prove breaks the application on purpose under load, then matches every stub."
    >
      <QueryView query={proof} command={PROVE}>
        {(verdict) =>
          verdict ? (
            <Proven verdict={verdict} />
          ) : (
            <Empty title="Nothing was proven yet." command={PROVE}>
              A proof keeps its own state: at its end it says how to see it here.
            </Empty>
          )
        }
      </QueryView>
    </Page>
  );
}

function Proven({ verdict }: { verdict: Verdict }) {
  return (
    <>
      <Stamp verdict={verdict} />
      <Sums verdict={verdict} />
      <Section title="The run">
        <Facts
          facts={[
            ["Seed", String(verdict.seed)],
            ["Sent", formatCount(verdict.sent)],
            ["Attempts", formatCount(verdict.attempts)],
            ["Acknowledged", formatCount(verdict.acknowledged)],
            ["Refused", formatCount(verdict.refused)],
            ...entries(verdict.seconds, (name) => `Time to ${name}`, formatDuration),
            ...entries(verdict.latency_ms, (name) => `Latency ${name}`, formatMilliseconds),
          ]}
        />
      </Section>
      <Faults verdict={verdict} />
      <Differences verdict={verdict} />
    </>
  );
}

function entries(
  values: Record<string, number>,
  name: (key: string) => string,
  format: (value: number) => string,
): [string, string][] {
  return Object.entries(values).map(([key, value]) => [name(key), format(value)]);
}

function Stamp({ verdict }: { verdict: Verdict }) {
  const holds = verdict.verdict === "holds";
  return (
    <div className="verdict" data-holds={holds}>
      <p className="stamp">{verdict.verdict}</p>
      <p>
        {holds
          ? `Accepted = posted = stored = reported, to the cent: ${formatCount(verdict.report)} worth ${formatMoney(verdict.revenue)}.`
          : `${formatNumberOf(verdict.difference_count, "difference")} between what was accepted and what arrived.`}
        {verdict.sabotage && (
          <>
            {" "}
            The bug <code>{verdict.sabotage}</code> was switched on:{" "}
            {holds ? "this verdict should have failed." : "a verdict that fails is the right one."}
          </>
        )}
      </p>
    </div>
  );
}

interface Sum {
  step: string;
  count: number;
  amount: number;
  differs: boolean;
}

const SUM_COLUMNS: Column<Sum>[] = [
  {
    name: "Step",
    cell: (sum) => (
      <>
        {sum.step} {sum.differs && <span className="tag">differs</span>}
      </>
    ),
    heading: true,
  },
  { name: "Count", cell: (sum) => formatCount(sum.count), numeric: true },
  { name: "Amount", cell: (sum) => formatMoney(sum.amount), numeric: true },
];

function Sums({ verdict }: { verdict: Verdict }) {
  const steps = Object.entries(verdict.sums);
  const accepted = verdict.sums.accepted;
  const rows = steps.map(([step, { count, amount }]) => ({
    step,
    count,
    amount,
    differs:
      verdict.verdict === "fails" &&
      accepted !== undefined &&
      (count !== accepted.count || amount !== accepted.amount),
  }));
  return (
    <Section title="Sums" aside="every step of the way must agree">
      <DataTable
        label="Sums"
        columns={SUM_COLUMNS}
        rows={rows}
        rowKey={(sum) => sum.step}
        tone={(sum) => (sum.differs ? "alarm" : undefined)}
      />
    </Section>
  );
}

function Faults({ verdict }: { verdict: Verdict }) {
  return (
    <Section title="Faults">
      {Object.keys(verdict.faults).length > 0 ? (
        <Facts
          facts={[
            ["Injected", listed(verdict.faults)],
            ["Struck", listed(verdict.faulted)],
          ]}
        />
      ) : (
        <Empty
          title="None were injected."
          command="counterfoil prove {folder} --faults kill,pause"
        />
      )}
    </Section>
  );
}

function listed(counts: Record<string, number>): string {
  return Object.entries(counts)
    .sort(([, a], [, b]) => b - a)
    .map(([kind, count]) => `${formatCount(count)} ${kind}`)
    .join(", ");
}

const DIFFERENCE_COLUMNS: Column<Difference>[] = [
  { name: "What", cell: (each) => each.what, heading: true },
  { name: "Where", cell: (each) => each.where },
  {
    name: "Id",
    cell: (each) =>
      /^\d{6,}$/.test(each.id) ? <Link to={`/trace/${each.id}`}>{each.id}</Link> : each.id,
  },
  { name: "Expected", cell: (each) => each.expected, numeric: true },
  { name: "Found", cell: (each) => each.found, numeric: true },
];

function Differences({ verdict }: { verdict: Verdict }) {
  const { differences, difference_count } = verdict;
  if (difference_count === 0) return null;
  return (
    <Section
      title="Differences"
      aside={`the first ${formatCount(differences.length)} of ${formatCount(difference_count)}`}
    >
      <DataTable
        label="Differences"
        columns={DIFFERENCE_COLUMNS}
        rows={differences}
        rowKey={(each) => [each.what, each.where, each.id, each.found].join("\n")}
      />
    </Section>
  );
}
