import { useQuery } from "@tanstack/react-query";
import type { History, Lag, Overview, Process } from "../api";
import { UP } from "../commands";
import { type Column, DataTable } from "../components/DataTable";
import { Empty } from "../components/Empty";
import { Facts, gatewayFacts } from "../components/Facts";
import { Mark } from "../components/Mark";
import { Page, Section } from "../components/Page";
import { QueryView } from "../components/QueryView";
import { RateLanes } from "../components/RateLanes";
import { Way } from "../components/Way";
import { formatCount, formatDuration, formatInstant, formatNumberOf } from "../format";
import { addressOf, NO_FILTER } from "../letters";
import { isWell, standingOf } from "../processes";
import { lagQuery, overviewQuery, waitingLettersQuery } from "../queries";
import { Link } from "../router";

export function OverviewPage() {
  const overview = useQuery(overviewQuery);
  return (
    <Page title="Overview">
      <QueryView query={overview} command={UP}>
        {(data) => (
          <>
            {data.way.length > 0 ? (
              <Way {...data} />
            ) : data.matches ? (
              <Empty title="Nobody has looked yet whether everything matches." command={UP}>
                {data.trouble || "The first look takes a moment."}
              </Empty>
            ) : (
              <Empty title="This application declares nothing to match." command={UP}>
                Tell it with <code>app.matches(Counterfoils(…))</code> which rows, topic, transfers,
                table and report are stubs of each other; <code>examples/shop</code> does.
              </Empty>
            )}
            <DeadLetterAlert />
            <Rates history={data.history} />
            <Latencies gateway={data.gateway} />
            <Processes processes={data.processes} />
          </>
        )}
      </QueryView>
      <LagSection />
    </Page>
  );
}

/** Poison is told of where everybody looks first. */
function DeadLetterAlert() {
  const { data = [] } = useQuery(waitingLettersQuery);
  return (
    <div role="status" aria-label="Dead letters" className="banners">
      {data.map((each) => (
        <p key={each.pipeline} className="banner">
          <Link to={addressOf("", { ...NO_FILTER, pipeline: each.pipeline, state: "waiting" })}>
            {formatNumberOf(each.letters, "dead letter")} of {each.pipeline}
          </Link>{" "}
          {each.letters === 1 ? "waits" : "wait"} for a decision, the last since{" "}
          {formatInstant(each.newest_us)} UTC.
        </p>
      ))}
    </div>
  );
}

function Rates({ history }: { history: History }) {
  const first = history.seconds[0];
  const last = history.seconds.at(-1);
  if (first === undefined || last === undefined || first === last) {
    return (
      <Section title="Rates">
        <Empty title="No rates yet." command={UP} />
      </Section>
    );
  }
  return (
    <Section
      title="Rates"
      aside={`per second, the last ${formatDuration(last - first + 1)}; times are UTC`}
    >
      <RateLanes history={history} />
    </Section>
  );
}

function Latencies({ gateway }: { gateway: Overview["gateway"] }) {
  return (
    <Section title="Gateway" aside={<Link to="/limits">by route, limit and service</Link>}>
      {gateway ? (
        <Facts facts={gatewayFacts(gateway)} />
      ) : (
        <Empty title="The gateway does not answer." command={UP} />
      )}
    </Section>
  );
}

const PROCESS_COLUMNS: Column<Process>[] = [
  {
    name: "Process",
    cell: ({ name }) => <Link to={`/processes/${encodeURIComponent(name)}`}>{name}</Link>,
    heading: true,
  },
  { name: "Kind", cell: (process) => process.kind, minor: true },
  {
    name: "State",
    cell: (process) => {
      const [tone, words] = standingOf(process);
      return <Mark tone={tone}>{words}</Mark>;
    },
  },
  {
    name: "For",
    cell: (process) =>
      process.since > 0 ? formatDuration(Math.max(Date.now() / 1000 - process.since, 0)) : "–",
    numeric: true,
  },
  { name: "Restarts", cell: (process) => formatCount(process.restarts), numeric: true },
  { name: "Pid", cell: (process) => process.pid ?? "–", numeric: true, minor: true },
  {
    name: "Detail",
    cell: (process) => process.trouble || process.detail,
    minor: true,
    prose: true,
  },
];

function Processes({ processes }: { processes: Process[] }) {
  const well = processes.filter(isWell).length;
  return (
    <Section
      title="Processes"
      {...(processes.length > 0 ? { aside: `${well} of ${processes.length} ready` } : {})}
    >
      {processes.length > 0 ? (
        <DataTable
          label="Processes"
          columns={PROCESS_COLUMNS}
          rows={processes}
          rowKey={(process) => process.name}
          tone={(process) => (isWell(process) ? undefined : "note")}
        />
      ) : (
        <Empty title="Nothing runs." command={UP} />
      )}
    </Section>
  );
}

interface GroupLag {
  group: string;
  topic: string;
  lag: number;
  end: number;
  partitions: Lag[];
}

function byGroup(lags: readonly Lag[]): GroupLag[] {
  const groups = new Map<string, GroupLag>();
  for (const each of lags) {
    const key = `${each.group}\n${each.topic}`;
    const found = groups.get(key) ?? {
      group: each.group,
      topic: each.topic,
      lag: 0,
      end: 0,
      partitions: [],
    };
    found.lag += each.lag;
    found.end += each.end;
    found.partitions.push(each);
    groups.set(key, found);
  }
  return [...groups.values()].sort(
    (a, b) => compare(a.group, b.group) || compare(a.topic, b.topic),
  );
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

const LAG_COLUMNS: Column<GroupLag>[] = [
  { name: "Group", cell: (row) => row.group, heading: true },
  { name: "Topic", cell: (row) => row.topic },
  { name: "Behind", cell: (row) => formatCount(row.lag), numeric: true },
  { name: "Events", cell: (row) => formatCount(row.end), numeric: true },
  {
    name: "Behind by partition",
    cell: (row) =>
      row.partitions
        .toSorted((a, b) => a.partition - b.partition)
        .map((each) => formatCount(each.lag))
        .join(" · "),
    minor: true,
  },
];

function LagSection() {
  const lag = useQuery(lagQuery);
  return (
    <Section
      title="Consumers"
      aside={
        <>
          how far each is behind the end of its topic; <Link to="/topics">with rates</Link>
        </>
      }
    >
      <QueryView query={lag} command="counterfoil events lag {at}">
        {(rows) =>
          rows.length > 0 ? (
            <DataTable
              label="Consumers"
              columns={LAG_COLUMNS}
              rows={byGroup(rows)}
              rowKey={(row) => `${row.group} ${row.topic}`}
            />
          ) : (
            <Empty title="No consumer has committed yet." command={UP} />
          )
        }
      </QueryView>
    </Section>
  );
}
