import { useState } from "react";
import type { DryRun, SettingChange } from "../api";
import { formatNumberOf } from "../format";
import { ConfirmDialog } from "./ConfirmDialog";
import { type Column, DataTable } from "./DataTable";
import { Mark } from "./Mark";

const COLUMNS: Column<SettingChange>[] = [
  { name: "Setting", cell: (change) => <code>{change.setting}</code>, heading: true },
  { name: "In force", cell: (change) => <Value text={change.before} /> },
  { name: "In the file", cell: (change) => <Value text={change.after} /> },
  {
    name: "Takes a new start",
    cell: (change) => (change.needs_start ? <Mark tone="alarm">yes</Mark> : "no"),
    minor: true,
  },
];

function Value({ text }: { text: string | null }) {
  return text === null ? "not set" : <code>{text}</code>;
}

interface Props {
  found: DryRun;
  disabled: boolean;
  onReload: () => void;
}

/** What a reload would change, and the way to it. */
export function DryRunView({ found, disabled, onReload }: Props) {
  const [asking, setAsking] = useState(false);
  const { outcome, changes, more } = found;
  const count = formatNumberOf(changes.length + more, "setting");
  return (
    <div className="dry-run" role="status" aria-label="What a reload would change">
      {outcome === "nothing" && (
        <p>
          The file says what is in force. A reload would only read secrets and certificates anew.
        </p>
      )}
      {outcome === "refused" && (
        <p className="error-line">A reload would be refused: {found.problem}</p>
      )}
      {outcome === "changes" && (
        <p>
          <strong>The file can be used.</strong> A reload would change {count}; what is configured
          as before keeps its state, and no request is lost.
        </p>
      )}
      {changes.length > 0 && (
        <DataTable
          label="Changes"
          columns={COLUMNS}
          rows={changes}
          rowKey={(change) => change.setting}
          tone={(change) => (change.needs_start ? "alarm" : undefined)}
        />
      )}
      {more > 0 && <p className="note">The first {changes.length} are shown.</p>}
      {outcome !== "refused" && (
        <button
          type="button"
          className="primary"
          disabled={disabled}
          onClick={() => setAsking(true)}
        >
          Put it into force
        </button>
      )}
      {asking && (
        <ConfirmDialog
          title="Put the file into force?"
          action="Reload"
          onCancel={() => setAsking(false)}
          onConfirm={() => {
            setAsking(false);
            onReload();
          }}
        >
          <p>
            {outcome === "changes"
              ? `${count} of the gateway change for all requests from then on.`
              : "Secrets and certificates are read anew."}{" "}
            The file is taken only if it is still the one that was checked.
          </p>
        </ConfirmDialog>
      )}
    </div>
  );
}
