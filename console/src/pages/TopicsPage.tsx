import { useQuery } from "@tanstack/react-query";
import type { HotKeys, Progress, TopicView, Transaction } from "../api";
import { UP } from "../commands";
import type { Column } from "../components/DataTable";
import { Empty } from "../components/Empty";
import { Mark, type Tone } from "../components/Mark";
import { Meter } from "../components/Meter";
import { Page } from "../components/Page";
import { QueryView } from "../components/QueryView";
import { TableSection } from "../components/TableSection";
import { formatCount, formatDuration, formatInstant, formatRate } from "../format";
import { topicsQuery } from "../queries";

export function TopicsPage() {
  const topics = useQuery(topicsQuery);
  return (
    <Page title="Topics" lead="What is in the log, how far each consumer has come, what is open.">
      <QueryView query={topics} command="counterfoil events topics {at}">
        {(found) => (
          <>
            <Topics topics={found.topics} />
            <Consumers rows={found.consumers} />
            {found.hot_keys.map((each) => (
              <HotKeyTable key={each.pipeline} found={each} />
            ))}
            <Transactions transactions={found.transactions} trouble={found.trouble} />
          </>
        )}
      </QueryView>
    </Page>
  );
}

interface PartitionRow {
  topic: TopicView;
  partition: number;
  end: number;
  weight: number;
}

const TOPIC_COLUMNS: Column<PartitionRow>[] = [
  {
    name: "Topic, partition",
    cell: (row) => `${row.topic.name}, ${row.partition}`,
    heading: true,
  },
  { name: "End", cell: (row) => formatCount(row.end), numeric: true },
  { name: "Share", cell: (row) => `${(row.weight * 100).toFixed(0)} %`, numeric: true },
  {
    name: "Weight",
    cell: (row) => (
      <Meter
        label={`Share of partition ${row.partition} of ${row.topic.name}`}
        value={row.weight}
        maximum={1}
      />
    ),
    minor: true,
  },
];

function Topics({ topics }: { topics: TopicView[] }) {
  return (
    <TableSection
      title="Partitions"
      aside="how evenly the keys fall on them"
      columns={TOPIC_COLUMNS}
      rows={topics.flatMap((topic) => topic.partitions.map((each) => ({ topic, ...each })))}
      rowKey={(row) => `${row.topic.name} ${row.partition}`}
      empty={<Empty title="This application declares no topics." command={UP} />}
    >
      {topics
        .filter((topic) => topic.partitions.length > 1 && topic.skew >= 2)
        .map((topic) => (
          <p key={topic.name} className="note">
            The largest partition of {topic.name} has {topic.skew.toFixed(1)} times the mean.
          </p>
        ))}
    </TableSection>
  );
}

const CONSUMER_COLUMNS: Column<Progress>[] = [
  { name: "Consumer", cell: (row) => row.group, heading: true },
  { name: "Topic, partition", cell: (row) => `${row.topic}, ${row.partition}` },
  { name: "Behind", cell: (row) => formatCount(row.lag), numeric: true },
  { name: "Handled a second", cell: (row) => formatRate(row.per_second), numeric: true },
  {
    name: "Arriving a second",
    cell: (row) => formatRate(row.arriving_per_second),
    numeric: true,
    minor: true,
  },
  { name: "Caught up in", cell: caughtUp, numeric: true },
];

function caughtUp(row: Progress): string {
  if (row.lag <= 0) return "–";
  return row.catch_up_seconds === null ? "gets no closer" : formatDuration(row.catch_up_seconds);
}

function Consumers({ rows }: { rows: Progress[] }) {
  return (
    <TableSection
      title="Consumers"
      aside="by partition, with rates between two looks"
      columns={CONSUMER_COLUMNS}
      rows={rows}
      rowKey={(row) => `${row.group} ${row.topic} ${row.partition}`}
      empty={<Empty title="No consumer has committed yet." command={UP} />}
    />
  );
}

type HotKey = HotKeys["hot_keys"][number];

const HOT_KEY_COLUMNS: Column<HotKey>[] = [
  { name: "Key", cell: (hot) => hot.key || "(empty)", heading: true },
  { name: "Waiting", cell: (hot) => formatCount(hot.waiting), numeric: true },
  { name: "Share, at least", cell: (hot) => percent(hot.share - hot.error), numeric: true },
  { name: "Share, at most", cell: (hot) => percent(hot.share), numeric: true },
  {
    name: "Share",
    cell: (hot) => <Meter label={`Share of ${hot.key}`} value={hot.share} maximum={1} />,
    minor: true,
  },
];

function percent(share: number): string {
  return `${(Math.max(share, 0) * 100).toFixed(1)} %`;
}

function HotKeyTable({ found }: { found: HotKeys }) {
  const { pipeline, behind, held, at_us, stale } = found;
  const lag = `${formatCount(behind)} behind`;
  return (
    <TableSection
      title={`Hot keys of ${pipeline}`}
      aside={
        at_us === null
          ? lag
          : `${lag}; ${formatCount(held)} in memory at ${formatInstant(at_us)} UTC`
      }
      above={
        stale &&
        at_us !== null && (
          <p className="note">
            Its process has told nothing since: it has ended, or it hangs. See the first page.
          </p>
        )
      }
      columns={HOT_KEY_COLUMNS}
      rows={found.hot_keys}
      rowKey={(hot) => hot.key}
      tone={(hot) => (hot.share - hot.error >= 0.1 ? "note" : undefined)}
      empty={
        <Empty
          title={at_us === null ? "Its process has told nothing yet." : "It has had no events yet."}
          command="counterfoil events hot-keys {at}"
        />
      }
    />
  );
}

const TONES: Record<string, Tone> = { open: "waiting", committing: "waiting", aborting: "waiting" };

const TRANSACTION_COLUMNS: Column<Transaction>[] = [
  { name: "Id", cell: (row) => row.id, heading: true },
  { name: "State", cell: (row) => <Mark tone={TONES[row.state] ?? "good"}>{row.state}</Mark> },
  {
    name: "Open for",
    cell: (row) => (row.age_seconds === null ? "–" : formatDuration(row.age_seconds)),
    numeric: true,
  },
  { name: "Holder", cell: (row) => row.holder },
  { name: "Partitions", cell: (row) => row.partitions.join(", ") || "–", minor: true },
];

interface TransactionsProps {
  /** Null if they could not be asked for. */
  transactions: Transaction[] | null;
  trouble: string;
}

const TRANSACTIONS = "counterfoil events transactions {at}";

function Transactions({ transactions, trouble }: TransactionsProps) {
  return (
    <TableSection
      title="Transactions"
      aside="the newest of each source"
      columns={TRANSACTION_COLUMNS}
      rows={transactions ?? []}
      rowKey={(row) => row.id}
      empty={
        <Empty
          title={transactions ? "None is open at this moment." : "They can't be asked for."}
          command={TRANSACTIONS}
        >
          {trouble}
        </Empty>
      }
    />
  );
}
