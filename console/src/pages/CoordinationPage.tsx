import { useQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import type { Coordination } from "../api";
import { UP } from "../commands";
import { type Column, DataTable } from "../components/DataTable";
import { Empty } from "../components/Empty";
import { Page, Section } from "../components/Page";
import { QueryView } from "../components/QueryView";
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

export function CoordinationPage() {
  const coordination = useQuery(coordinationQuery);
  return (
    <Page title="Coordination" lead="Who is there, who leads, and who makes ids with which number.">
      <QueryView query={coordination} command={UP}>
        {({ instances, leaders, machine_ids }) => (
          <>
            <Part
              title="Leaders"
              aside="a lower token is fenced off"
              isEmpty={leaders.length === 0}
            >
              <DataTable
                label="Leaders"
                columns={LEADER_COLUMNS}
                rows={leaders}
                rowKey={(each) => each.name}
              />
            </Part>
            <Part title="Instances" isEmpty={instances.length === 0}>
              <DataTable
                label="Instances"
                columns={INSTANCE_COLUMNS}
                rows={instances}
                rowKey={(each) => `${each.service} ${each.instance}`}
              />
            </Part>
            <Part title="Machine numbers of ids" isEmpty={machine_ids.length === 0}>
              <DataTable
                label="Machine numbers of ids"
                columns={MACHINE_ID_COLUMNS}
                rows={machine_ids}
                rowKey={(each) => String(each.number)}
              />
            </Part>
          </>
        )}
      </QueryView>
    </Page>
  );
}

interface PartProps {
  title: string;
  aside?: string;
  isEmpty: boolean;
  children: ReactNode;
}

function Part({ title, aside, isEmpty, children }: PartProps) {
  return (
    <Section title={title} {...(aside ? { aside } : {})}>
      {isEmpty ? <Empty title="None at the moment." command={UP} /> : children}
    </Section>
  );
}
