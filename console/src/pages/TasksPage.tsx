import { useQuery } from "@tanstack/react-query";
import type { TaskQueue } from "../api";
import { UP } from "../commands";
import type { Column } from "../components/DataTable";
import { Empty } from "../components/Empty";
import { Page } from "../components/Page";
import { QueryView } from "../components/QueryView";
import { TableSection } from "../components/TableSection";
import { formatCount, formatDuration } from "../format";
import { addressOf, NO_FILTER } from "../letters";
import { tasksQuery } from "../queries";
import { Link } from "../router";

const COLUMNS: Column<TaskQueue>[] = [
  { name: "Queue", cell: (queue) => queue.queue, heading: true },
  { name: "Waiting", cell: (queue) => formatCount(queue.waiting), numeric: true },
  { name: "High", cell: ({ by_priority }) => formatCount(by_priority.high), numeric: true },
  { name: "Normal", cell: ({ by_priority }) => formatCount(by_priority.normal), numeric: true },
  { name: "Low", cell: ({ by_priority }) => formatCount(by_priority.low), numeric: true },
  {
    name: "Oldest waits",
    cell: ({ oldest_seconds }) => (oldest_seconds === null ? "–" : formatDuration(oldest_seconds)),
    numeric: true,
  },
  { name: "Delayed", cell: (queue) => formatCount(queue.delayed), numeric: true, minor: true },
  { name: "At work", cell: (queue) => formatCount(queue.at_work), numeric: true },
  {
    name: "Given up",
    cell: ({ queue, dead }) =>
      dead === 0 ? (
        "0"
      ) : (
        <Link
          to={addressOf("", { ...NO_FILTER, pipeline: `tasks.${queue}`, state: "waiting" })}
          aria-label={`${formatCount(dead)} given up by ${queue}: its dead letters`}
        >
          {formatCount(dead)}
        </Link>
      ),
    numeric: true,
  },
];

export function TasksPage() {
  const tasks = useQuery(tasksQuery);
  return (
    <Page title="Tasks" lead="What is to be done by whoever is free, and how long it has waited.">
      <QueryView query={tasks} command="counterfoil events tasks {at}">
        {(queues) => (
          <TableSection
            title="Queues"
            aside="what waits is due; what is delayed, or to be tried again, is not yet"
            columns={COLUMNS}
            rows={queues}
            rowKey={(queue) => queue.queue}
            tone={(queue) => (queue.dead > 0 ? "alarm" : undefined)}
            empty={<Empty title="This application declares no task queues." command={UP} />}
          />
        )}
      </QueryView>
    </Page>
  );
}
