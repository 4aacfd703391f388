import { Empty } from "../components/Empty";
import { Page } from "../components/Page";
import { Link } from "../router";

export function NotFoundPage({ path }: { path: string }) {
  return (
    <Page title="No such page">
      <Empty title={`There is nothing at ${path}.`}>
        <Link to="/">Go to the overview</Link>
      </Empty>
    </Page>
  );
}
