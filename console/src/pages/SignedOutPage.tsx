import { UP } from "../commands";
import { Empty } from "../components/Empty";
import { Page } from "../components/Page";

export function SignedOutPage({ refused }: { refused: boolean }) {
  return (
    <Page title="No session">
      <Empty
        title={
          refused
            ? "The key in this address is not this application's."
            : "This browser has no session."
        }
        command={UP}
      >
        Open the address that this command printed; it ends in <code>#key=…</code>.
      </Empty>
    </Page>
  );
}
