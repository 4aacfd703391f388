import type { Breaker, Gateway, Health } from "../api";
import { UP } from "../commands";
import { formatCount, formatDuration } from "../format";
import { BreakerSwitch } from "./BreakerSwitch";
import type { Column } from "./DataTable";
import { Empty } from "./Empty";
import { Mark, type Tone } from "./Mark";
import { Meter } from "./Meter";
import { Section } from "./Page";
import { TableSection } from "./TableSection";

type Service = Gateway["services"][number];
type Endpoint = Service["endpoints"][number];

const BREAKERS: Record<Breaker, readonly [Tone, string]> = {
  closed: ["good", "closed: gets requests"],
  "half-open": ["waiting", "half-open: gets a few to try"],
  open: ["alarm", "open: gets none"],
};

const CHECKS: Record<Health, readonly [Tone, string]> = {
  healthy: ["good", "healthy"],
  unhealthy: ["alarm", "unhealthy: gets none"],
  unchecked: ["waiting", "not checked yet"],
};

function Checks({ endpoint }: { endpoint: Endpoint }) {
  const { health, health_trouble, health_changed_seconds } = endpoint;
  if (health === null) {
    return "none";
  }
  const [tone, words] = CHECKS[health];
  const since =
    health_changed_seconds === null ? "" : `, ${formatDuration(health_changed_seconds)}`;
  return (
    <>
      <Mark tone={tone}>{words + since}</Mark>
      {health_trouble !== null && ` (${health_trouble})`}
    </>
  );
}

function columnsOf(service: string): Column<Endpoint>[] {
  return [
    { name: "Instance", cell: (endpoint) => endpoint.instance, heading: true },
    { name: "Address", cell: (endpoint) => endpoint.address, minor: true },
    {
      name: "Breaker",
      cell: ({ breaker }) => <Mark tone={BREAKERS[breaker][0]}>{BREAKERS[breaker][1]}</Mark>,
    },
    {
      name: "Why, for how long",
      cell: ({ breaker_reason, breaker_changed_seconds, tls_trouble }) =>
        `${breaker_reason}, ${formatDuration(breaker_changed_seconds)}${tls_trouble === null ? "" : `; TLS: ${tls_trouble}`}`,
      minor: true,
      prose: true,
    },
    { name: "Checks", cell: (endpoint) => <Checks endpoint={endpoint} />, prose: true },
    {
      name: "Decided by",
      cell: (endpoint) => <BreakerSwitch service={service} endpoint={endpoint} />,
    },
  ];
}

/** The services behind the gateway: how full they are, and the breaker of each instance. */
export function Services({ services }: { services: Service[] }) {
  if (services.length === 0) {
    return (
      <Section title="Services">
        <Empty title="The gateway knows no service." command={UP} />
      </Section>
    );
  }
  return services.map((service) => (
    <TableSection
      key={service.name}
      title={`Service ${service.name}`}
      label={`Instances of ${service.name}`}
      aside={`${formatCount(service.in_flight)} of ${formatCount(service.limit)} in flight`}
      above={
        <Meter
          label={`In flight at ${service.name}`}
          value={service.in_flight}
          maximum={service.limit}
        />
      }
      columns={columnsOf(service.name)}
      rows={service.endpoints}
      rowKey={(endpoint) => endpoint.instance}
      empty={<Empty title="No instance is registered." command={UP} />}
    />
  ));
}
