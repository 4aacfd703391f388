import { useQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { Boundary } from "./components/Boundary";
import { ConnectionBanner } from "./components/ConnectionBanner";
import { Stub } from "./components/Stub";
import { CoordinationPage } from "./pages/CoordinationPage";
import { DeadLettersPage } from "./pages/DeadLettersPage";
import { LimitsPage } from "./pages/LimitsPage";
import { NotFoundPage } from "./pages/NotFoundPage";
import { OverviewPage } from "./pages/OverviewPage";
import { ProcessPage } from "./pages/ProcessPage";
import { ProofPage } from "./pages/ProofPage";
import { ReportPage } from "./pages/ReportPage";
import { ReportsPage } from "./pages/ReportsPage";
import { SagasPage } from "./pages/SagasPage";
import { SignedOutPage } from "./pages/SignedOutPage";
import { TasksPage } from "./pages/TasksPage";
import { TopicsPage } from "./pages/TopicsPage";
import { TracePage } from "./pages/TracePage";
import { isUnauthorised, overviewQuery } from "./queries";
import { segments, usePath } from "./router";
import { useSession } from "./session";

export function App() {
  const session = useSession();
  const path = usePath();
  const overview = useQuery({ ...overviewQuery, enabled: session !== "asking" });
  const signedOut = session === "refused" || isUnauthorised(overview.error);

  return (
    <div className="cheque">
      <a className="skip" href="#content">
        Skip to the content
      </a>
      <Stub overview={signedOut ? undefined : overview.data} />
      <main id="content" className="sheet" tabIndex={-1}>
        <ConnectionBanner
          error={signedOut ? null : overview.error}
          dataUpdatedAt={overview.dataUpdatedAt}
        />
        {session === "asking" ? null : signedOut ? (
          <SignedOutPage refused={session === "refused"} />
        ) : (
          <Boundary address={path}>{pageAt(path)}</Boundary>
        )}
      </main>
    </div>
  );
}

function pageAt(path: string): ReactNode {
  const [page, id, ...rest] = segments(path);
  if (rest.length > 0) return <NotFoundPage path={path} />;
  switch (page) {
    case undefined:
      return <OverviewPage />;
    case "trace":
      return <TracePage identity={id ?? ""} />;
    case "dead-letters":
      return <DeadLettersPage selected={id ?? ""} />;
    case "sagas":
      return <SagasPage selected={id ?? ""} />;
    case "processes":
      return id ? <ProcessPage key={id} name={id} /> : <OverviewPage />;
    case "reports-view":
      return id ? <ReportPage key={id} name={id} /> : <ReportsPage />;
  }
  if (id !== undefined) return <NotFoundPage path={path} />;
  switch (page) {
    case "reports":
      return <ReportsPage />;
    case "topics":
      return <TopicsPage />;
    case "tasks":
      return <TasksPage />;
    case "limits":
      return <LimitsPage />;
    case "coordination":
      return <CoordinationPage />;
    case "proof":
      return <ProofPage />;
    default:
      return <NotFoundPage path={path} />;
  }
}
