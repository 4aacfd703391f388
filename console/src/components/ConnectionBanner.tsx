import { UP } from "../commands";
import { formatClock } from "../format";
import { isUnreachable } from "../queries";
import { Command } from "./Command";

interface Props {
  error: Error | null;
  dataUpdatedAt: number;
}

/** Says that what is shown is no longer live. The region stays, so that a change is announced. */
export function ConnectionBanner({ error, dataUpdatedAt }: Props) {
  return (
    <div role="status" aria-label="Connection" className="connection">
      {error && (
        <p className="banner">
          <strong>
            {isUnreachable(error) ? "The server does not answer." : `${error.message}.`}
          </strong>{" "}
          {dataUpdatedAt > 0 && `What you see is from ${formatClock(dataUpdatedAt)} UTC. `}
          The console asks again every second. If the application was stopped: <Command text={UP} />
        </p>
      )}
    </div>
  );
}
