import { useQuery } from "@tanstack/react-query";
import { useMemo } from "react";
import { type Report, type Section as ReportSection, reportFile } from "../api";
import { UP } from "../commands";
import { Empty } from "../components/Empty";
import { Facts } from "../components/Facts";
import { Mark } from "../components/Mark";
import { Page, Section } from "../components/Page";
import { QueryView } from "../components/QueryView";
import { SectionTable } from "../components/SectionTable";
import { TimeChart } from "../components/TimeChart";
import { formatCount, formatInstant, formatMoney, formatNumberOf } from "../format";
import { addressOf, NO_FILTER } from "../letters";
import { reportQuery } from "../queries";
import { correctedDays, type DaySeries, daySeries, startOfDay, total } from "../report";
import { Link } from "../router";

const CHART_HEIGHT = 170;

export function ReportPage({ name }: { name: string }) {
  const report = useQuery(reportQuery(name));
  return (
    <Page title={report.data?.title || name}>
      <QueryView query={report} command={UP}>
        {(data) => <Published report={data} />}
      </QueryView>
    </Page>
  );
}

function Published({ report }: { report: Report }) {
  return (
    <>
      <Facts
        facts={[
          ["Version of the table", formatCount(report.version)],
          ["Events left out", <LeftOut key="unread" report={report} />],
          ["Published", `${formatInstant(report.published_us)} UTC`],
          [
            "As a page",
            <a key="page" href={reportFile(report.name, "index.html")}>
              {report.name}/index.html
            </a>,
          ],
        ]}
      />
      {report.sections.length === 0 && <Empty title="This report has no rows yet." command={UP} />}
      {report.days_left_out > 0 && (
        <p className="note">
          The newest days are shown; {formatNumberOf(report.days_left_out, "older day")} are in the
          files alone.
        </p>
      )}
      {report.sections.map((section) => (
        <PublishedSection key={section.name} report={report} section={section} />
      ))}
      <Corrections report={report} />
    </>
  );
}

/** How many events could not be read, with the way to where they wait. */
function LeftOut({ report: { unread, letters } }: { report: Report }) {
  if (unread === 0) return "none";
  return (
    <Link to={addressOf("", { ...NO_FILTER, pipeline: letters, state: "waiting" })}>
      <Mark tone="alarm">{formatNumberOf(unread, "dead letter")}</Mark>
    </Link>
  );
}

function Corrections({ report }: { report: Report }) {
  const days = correctedDays(report);
  if (days.length === 0) return null;
  return (
    <Section title="Corrected days" aside="published again; dashed in the charts">
      <dl className="corrections">
        {days.map(([day, reason]) => (
          <div key={day}>
            <dt>{day}</dt>
            <dd>{reason}</dd>
          </div>
        ))}
      </dl>
    </Section>
  );
}

function PublishedSection({ report, section }: { report: Report; section: ReportSection }) {
  const file = `${section.name}.csv`;
  const table = (
    <SectionTable
      label={`Rows of ${section.name}`}
      section={section}
      amounts={report.amounts}
      corrected={report.corrected}
    />
  );
  return (
    <Section
      title={section.name}
      aside={
        <a href={reportFile(report.name, file)} download={`${report.name}-${file}`}>
          {file}
        </a>
      }
    >
      {section.one_a_day && section.rows.length > 1 ? (
        <>
          <Charts report={report} section={section} />
          <details>
            <summary>The same as a table</summary>
            {table}
          </details>
        </>
      ) : (
        table
      )}
    </Section>
  );
}

function Charts({ report, section }: { report: Report; section: ReportSection }) {
  const series = useMemo(() => daySeries(section, report.amounts), [section, report.amounts]);
  const marks = useMemo(() => Object.keys(report.corrected).map(startOfDay), [report.corrected]);
  return (
    <div className="charts">
      {series.map((each) => (
        <TimeChart
          key={each.name}
          label={each.name}
          times={each.times}
          values={each.values}
          height={CHART_HEIGHT}
          formatValue={(value) => formatValue(each, value)}
          formatTime={dayAt}
          summary={summaryOf(each)}
          marks={marks}
          sync={`days of ${section.name}`}
        />
      ))}
    </div>
  );
}

function dayAt(seconds: number): string {
  return new Date(seconds * 1000).toISOString().slice(0, 10);
}

function formatValue({ isMoney }: DaySeries, value: number | bigint): string {
  if (typeof value === "number" && !Number.isInteger(value)) return String(value);
  return isMoney ? formatMoney(value) : formatCount(value);
}

function summaryOf(series: DaySeries): string {
  const known = series.values.filter((value) => value !== null);
  const largest = known.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const best = series.days[series.values.indexOf(largest)] ?? "";
  return `${formatValue(series, total(known))} in ${formatCount(known.length)} days, at most ${formatValue(series, largest)} on ${best}`;
}
