import { useQuery } from "@tanstack/react-query";
import type { Coordination } from "../api";
import { UP } from "../commands";
import type { Column } from "../components/DataTable";
import { Empty } from "../components/Empty";
import { Page } from "../components/Page";
import { QueryView } from "../components/QueryView";
import { TableSection } from "../components/TableSection";
import { formatCount } from "../format";
import { coordinationQuery } from "../queries";

type Instance = Coordination["instances"][number];
type Leader = Coordination["leaders"][number];
type MachineId = Coordination["machine_ids"][number];

const INSTANCE_COLUMNS: Column<Instance>[] = [
  { name: "Instance", cell: (each) => each.instance, heading: true },
  { name: "Service", cell: (each) => each.service },
  { name: "Address", cell: (each) => each.address },
];

const LEADER_COLUMNS: Column<Leader>[] = [
  { name: "Role", cell: (each) => each.name, heading: true },
  { name: "Held by", cell: (each) => each.candidate },
  { name: "Fencing token", cell: (each) => formatCount(each.fencing_token), numeric: true },
];

const MACHINE_ID_COLUMNS: Column<MachineId>[] = [
  { name: "Number", cell: (each) => each.number, heading: true },
  { name: "Held by", cell: (each) => each.holder },
];

const NONE = <Empty title="None at the moment." command={UP} />;

export function CoordinationPage() {
  const coordination = useQuery(coordinationQuery);
  return (
    <Page title="Coordination" lead="Who is there, who leads, and who makes ids with which number.">
      <QueryView query={coordination} command={UP}>
        {({ instances, leaders, machine_ids }) => (
          <>
            <TableSection
              title="Leaders"
              aside="a lower token is fenced off"
              columns={LEADER_COLUMNS}
              rows={leaders}
              rowKey={(each) => each.name}
              empty={NONE}
            />
            <TableSection
              title="Instances"
              columns={INSTANCE_COLUMNS}
              rows={instances}
              rowKey={(each) => `${each.service} ${each.instance}`}
              empty={NONE}
            />
            <TableSection
              title="Machine numbers of ids"
              columns={MACHINE_ID_COLUMNS}
              rows={machine_ids}
              rowKey={(each) => String(each.number)}
              empty={NONE}
            />
          </>
        )}
      </QueryView>
    </Page>
  );
}
