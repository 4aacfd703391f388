import { useQuery } from "@tanstack/react-query";
import type { Gateway } from "../api";
import { UP } from "../commands";
import { CachePurge } from "../components/CachePurge";
import type { Column } from "../components/DataTable";
import { Empty } from "../components/Empty";
import { type Fact, Facts, gatewayFacts } from "../components/Facts";
import { GatewaySwitches } from "../components/GatewaySwitches";
import { Mark, type Tone } from "../components/Mark";
import { Page } from "../components/Page";
import { QueryView } from "../components/QueryView";
import { Services } from "../components/Services";
import { TableSection } from "../components/TableSection";
import { formatCount } from "../format";
import { gatewayQuery } from "../queries";

export function LimitsPage() {
  const gateway = useQuery(gatewayQuery);
  return (
    <Page
      title="Limits and services"
      lead="Who is throttled, shed or broken off at the gateway, and why."
    >
      <QueryView query={gateway} command={UP}>
        {(data) => (
          <>
            <Facts
              facts={[
                ...gatewayFacts(data),
                [
                  "The gateway",
                  data.draining ? (
                    <Mark key="state" tone="waiting">
                      drains, and takes nothing new
                    </Mark>
                  ) : (
                    <Mark key="state" tone="good">
                      takes requests
                    </Mark>
                  ),
                ],
                ...sharedFacts(data.shared_limits),
                ...configurationFacts(data.configuration),
              ]}
            />
            <GatewaySwitches isDraining={data.draining} />
            <Services services={data.services} />
            <Limits limits={data.limits} />
            <Routes routes={data.routes} />
            {data.cache && <CachePurge cache={data.cache} />}
          </>
        )}
      </QueryView>
    </Page>
  );
}

function sharedFacts(shared: Gateway["shared_limits"]): Fact[] {
  if (!shared) {
    return [];
  }
  const { address, connected, trouble } = shared;
  const [tone, words]: [Tone, string] = connected
    ? [trouble ? "waiting" : "good", `shared by ${address}`]
    : ["alarm", `each gateway's own: ${address} is away`];
  const why = trouble ? `. ${trouble.error}: ${trouble.hint}` : "";
  return [
    [
      "Limits are",
      <Mark key="shared" tone={tone}>
        {words + why}
      </Mark>,
    ],
  ];
}

function configurationFacts({ version, refused }: Gateway["configuration"]): Fact[] {
  return [
    [
      "Its configuration",
      <Mark key="configuration" tone={refused ? "alarm" : "good"}>
        {refused ? `${version}, since the last one was refused: ${refused}` : `${version}`}
      </Mark>,
    ],
  ];
}

type Route = Gateway["routes"][number];

const ROUTE_COLUMNS: Column<Route>[] = [
  { name: "Route", cell: (route) => route.path, heading: true },
  { name: "Answered", cell: ({ answers }) => formatCount(answers[1] + answers[2]), numeric: true },
  { name: "Refused (4xx)", cell: ({ answers }) => formatCount(answers[3]), numeric: true },
  { name: "Failed (5xx)", cell: ({ answers }) => formatCount(answers[4]), numeric: true },
  { name: "Median, up to", cell: (route) => milliseconds(route.latency_us.p50), numeric: true },
  { name: "99%, up to", cell: (route) => milliseconds(route.latency_us.p99), numeric: true },
];

/** The upper bound of a bucket, of which the last has none. */
function milliseconds(us: number): string {
  return us > 4_000_000 ? "over 4 s" : us > 0 ? `${us / 1000} ms` : "";
}

function Routes({ routes }: { routes: Route[] }) {
  return (
    <TableSection
      title="Routes"
      aside="since the gateway started"
      columns={ROUTE_COLUMNS}
      rows={routes}
      rowKey={(route) => route.path}
      tone={(route) => (route.answers[4] > 0 ? "note" : undefined)}
      empty={
        <Empty title="No routes are set.">
          They are declared as <code>[[gateway.routes]]</code> in <code>counterfoil.toml</code>.
        </Empty>
      }
    />
  );
}

type Limit = Gateway["limits"][number];

const LIMIT_COLUMNS: Column<Limit>[] = [
  { name: "Limit", cell: (limit) => limit.name, heading: true },
  { name: "Allowed", cell: (limit) => formatCount(limit.allowed), numeric: true },
  { name: "Refused", cell: (limit) => formatCount(limit.refused), numeric: true },
  {
    name: "Refused of 10,000",
    cell: ({ allowed, refused }) => formatCount(share(refused, allowed + refused)),
    numeric: true,
    minor: true,
  },
  { name: "Keys", cell: (limit) => formatCount(limit.keys), numeric: true },
];

function share(part: number, whole: number): number {
  return whole > 0 ? Math.round((part / whole) * 10_000) : 0;
}

function Limits({ limits }: { limits: Limit[] }) {
  return (
    <TableSection
      title="Limits"
      aside="since the gateway started"
      columns={LIMIT_COLUMNS}
      rows={limits}
      rowKey={(limit) => limit.name}
      tone={(limit) => (limit.refused > 0 ? "note" : undefined)}
      empty={
        <Empty title="No limits are set.">
          They are declared as <code>[gateway.limits.NAME]</code> in <code>counterfoil.toml</code>.
        </Empty>
      }
    />
  );
}
