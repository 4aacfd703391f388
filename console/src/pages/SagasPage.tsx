import { useQuery } from "@tanstack/react-query";
import type { Saga, SagaFilter, SagaPage } from "../api";
import { UP } from "../commands";
import { type Column, DataTable } from "../components/DataTable";
import { Empty } from "../components/Empty";
import { type Fact, Facts } from "../components/Facts";
import { Choice } from "../components/Field";
import { Mark } from "../components/Mark";
import { Page, Section } from "../components/Page";
import { Pager } from "../components/Pager";
import { QueryView } from "../components/QueryView";
import { SagaDetail } from "../components/SagaDetail";
import { useSettledList } from "../components/useSettledList";
import { formatCount, formatDuration, formatInstant, formatNumberOf } from "../format";
import { sagasQuery } from "../queries";
import { Link, navigate, useSearch } from "../router";
import { SAGA_STATUSES, STATUS_WORDS, sagaAddress, sagaFilterOf, sagaPlaceOf } from "../sagas";

const COMMAND = "counterfoil events sagas {at}";

export function SagasPage({ selected }: { selected: string }) {
  const search = useSearch();
  const filter = sagaFilterOf(search);
  const before = sagaPlaceOf(search);
  return (
    <Page title="Sagas" lead="Work in several steps, done whole or taken back.">
      {selected ? (
        <SagaDetail key={selected} id={selected} back={sagaAddress("", filter, before)} />
      ) : (
        <SagaList filter={filter} before={before} />
      )}
    </Page>
  );
}

function SagaList({ filter, before }: { filter: SagaFilter; before: string }) {
  const sagas = useQuery(sagasQuery(filter, before));
  const newest = useQuery(sagasQuery(filter, ""));
  const open = newest.data?.open ?? {};
  const key = `${sagaAddress("", filter, before)} ${!sagas.isPlaceholderData}`;
  return (
    <QueryView query={sagas} command={COMMAND}>
      {(page) => (
        <>
          {newest.data && <Open open={open} />}
          <Section title="Instances" aside="the newest first">
            <Filters filter={filter} sagas={Object.keys(open)} />
            <Instances key={key} sagas={page.sagas} filter={filter} before={before} />
            <Pager
              of="sagas"
              newest={before ? sagaAddress("", filter) : undefined}
              older={page.next === null ? undefined : sagaAddress("", filter, page.next)}
            />
          </Section>
        </>
      )}
    </QueryView>
  );
}

/** How many are open, of each saga that has some. */
function Open({ open }: { open: NonNullable<SagaPage["open"]> }) {
  const facts = Object.entries(open).map(([name, counts]): Fact => {
    const found = SAGA_STATUSES.filter((status) => counts[status]);
    return [
      name,
      found.length === 0
        ? "none is open"
        : found.map((status) => (
            <div key={status}>
              <Link to={sagaAddress("", { saga: name, status })}>
                <Mark tone={STATUS_WORDS[status][0]}>
                  {formatCount(counts[status] ?? 0)} {STATUS_WORDS[status][1]}
                </Mark>
              </Link>
            </div>
          )),
    ];
  });
  if (facts.length === 0) return <Empty title="This application declares no sagas." command={UP} />;
  return <Facts facts={facts} />;
}

function Filters({ filter, sagas }: { filter: SagaFilter; sagas: readonly string[] }) {
  const names = [...new Set([...sagas, filter.saga])].filter(Boolean).sort();
  const choose = (change: Partial<SagaFilter>) =>
    navigate(sagaAddress("", { ...filter, ...change }), { replace: true });
  return (
    <search className="saga-filters">
      <Choice
        name="Saga"
        value={filter.saga}
        choices={names}
        onChange={(saga) => choose({ saga })}
      />
      <Choice
        name="Status"
        value={filter.status}
        choices={SAGA_STATUSES}
        words={(status) => STATUS_WORDS[status][1]}
        onChange={(status) => choose({ status })}
      />
    </search>
  );
}

function columnsOf(filter: SagaFilter, before: string): Column<Saga>[] {
  return [
    {
      name: "Id",
      cell: (saga) => <Link to={sagaAddress(saga.id, filter, before)}>{saga.id}</Link>,
      heading: true,
    },
    { name: "Saga", cell: (saga) => saga.saga },
    {
      name: "Status",
      cell: ({ status }) => <Mark tone={STATUS_WORDS[status][0]}>{STATUS_WORDS[status][1]}</Mark>,
    },
    { name: "Step", cell: (saga) => saga.step },
    {
      name: "Begun (UTC)",
      cell: (saga) => formatInstant(saga.started_us).slice(0, 19),
      minor: true,
    },
    { name: "Took", cell: took, numeric: true, minor: true },
    { name: "Last error", cell: (saga) => <span className="cut">{saga.error}</span>, minor: true },
  ];
}

function took({ started_us, ended_us }: Saga): string {
  return ended_us === null ? "–" : formatDuration((ended_us - started_us) / 1e6);
}

interface InstancesProps {
  sagas: Saga[];
  filter: SagaFilter;
  before: string;
}

function begunAt(saga: Saga): bigint {
  return BigInt(saga.started_us);
}

function Instances({ sagas, filter, before }: InstancesProps) {
  const { shown, arrived, showAll } = useSettledList(sagas, begunAt);
  return (
    <>
      <div role="status" aria-label="New sagas" className="arrivals">
        {arrived > 0 && (
          <button type="button" onClick={showAll}>
            Show {formatNumberOf(arrived, "new saga")}
          </button>
        )}
      </div>
      {shown.length > 0 ? (
        <DataTable
          label="Sagas"
          columns={columnsOf(filter, before)}
          rows={shown}
          rowKey={(saga) => `${saga.saga} ${saga.id}`}
          tone={(saga) => (saga.status === "stuck" ? "alarm" : undefined)}
        />
      ) : (
        <Empty
          title={filter.saga || filter.status || before ? "None fits." : "No saga has begun yet."}
          command={COMMAND}
        />
      )}
    </>
  );
}
