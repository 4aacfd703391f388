import { useQuery } from "@tanstack/react-query";
import type { ReportSummary } from "../api";
import { PROVE, UP } from "../commands";
import { Command } from "../components/Command";
import { type Column, DataTable } from "../components/DataTable";
import { Empty } from "../components/Empty";
import { Mark } from "../components/Mark";
import { Page } from "../components/Page";
import { QueryView } from "../components/QueryView";
import { formatCount, formatInstant } from "../format";
import { reportsQuery } from "../queries";
import { Link } from "../router";

/** Events that could not be read. */
function leftOut({ unread }: ReportSummary) {
  return unread === 0 ? "–" : <Mark tone="alarm">{formatCount(unread)}</Mark>;
}

const COLUMNS: Column<ReportSummary>[] = [
  {
    name: "Report",
    cell: (report) => (
      <Link to={`/reports-view/${encodeURIComponent(report.name)}`}>
        {report.title || report.name}
      </Link>
    ),
    heading: true,
  },
  { name: "Days", cell: (report) => formatCount(report.days), numeric: true },
  { name: "Left out", cell: leftOut, numeric: true },
  { name: "Version", cell: (report) => formatCount(report.version), numeric: true },
  { name: "Published (UTC)", cell: (report) => formatInstant(report.published_us), numeric: true },
  { name: "Sections", cell: (report) => report.sections.join(", "), minor: true },
];

export function ReportsPage() {
  const reports = useQuery(reportsQuery);
  return (
    <Page title="Reports" lead="What was published, from the newest version of its table.">
      <QueryView query={reports} command={UP}>
        {(rows) =>
          rows.length > 0 ? (
            <DataTable
              label="Reports"
              columns={COLUMNS}
              rows={rows}
              rowKey={(report) => report.name}
            />
          ) : (
            <Empty title="Nothing was published yet." command={UP}>
              A report is published soon after its table has rows. To send some:{" "}
              <Command text={PROVE} />
            </Empty>
          )
        }
      </QueryView>
    </Page>
  );
}
