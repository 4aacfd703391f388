import { useQuery } from "@tanstack/react-query";
import type { Process, ProcessLog } from "../api";
import { Empty } from "../components/Empty";
import { Facts } from "../components/Facts";
import { Mark } from "../components/Mark";
import { Page, Section } from "../components/Page";
import { QueryView } from "../components/QueryView";
import { formatCount, formatInstant } from "../format";
import { standingOf } from "../processes";
import { overviewQuery, processLogQuery } from "../queries";
import { Link } from "../router";

/** One process: how it is, and what it has written last. */
export function ProcessPage({ name }: { name: string }) {
  const { data: overview } = useQuery(overviewQuery);
  const log = useQuery(processLogQuery(name));
  const command = `counterfoil logs ${name} {at}`;
  const process = overview?.processes.find((each) => each.name === name);
  return (
    <Page title={name} lead={process?.kind}>
      <p className="process-back">
        <Link to="/">All processes</Link>
      </p>
      {process && <Facts facts={factsOf(process)} />}
      <QueryView query={log} command={command}>
        {(found) =>
          found.lines.length > 0 ? (
            <Log log={found} />
          ) : (
            <Empty title="It has written nothing." command={command} />
          )
        }
      </QueryView>
    </Page>
  );
}

function factsOf(process: Process): [string, React.ReactNode][] {
  const [tone, words] = standingOf(process);
  return [
    [
      "State",
      <Mark key="state" tone={tone}>
        {words}
      </Mark>,
    ],
    ["Since", process.since > 0 ? `${formatInstant(process.since * 1e6)} UTC` : "–"],
    ["Restarts", formatCount(process.restarts)],
    ["Pid", process.pid ?? "–"],
    ["Detail", process.trouble || process.detail || "–"],
  ];
}

function Log({ log }: { log: ProcessLog }) {
  return (
    <Section
      title="Log"
      aside={`${log.is_whole ? "all of" : "the end of"} ${log.path}, ${formatCount(log.size)} bytes`}
    >
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, also by keyboard */}
      <div role="group" aria-label="The last lines" tabIndex={0} className="log">
        <pre>{log.lines.join("\n")}</pre>
      </div>
    </Section>
  );
}
