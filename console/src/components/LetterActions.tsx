import { useId, useState } from "react";
import { api, type DeadLetter, saidBy, type Via } from "../api";
import { indentJson } from "../json";
import { stateOf } from "../letters";
import { useLetterAct, useReadOnlyReason } from "../queries";
import { ConfirmDialog } from "./ConfirmDialog";
import { HandledView } from "./HandledView";
import { LetterEditor } from "./LetterEditor";
import { Result } from "./Result";
import { ViaChoice } from "./ViaChoice";

type Asked = "replay" | "discard" | "edit" | null;

/** What can be done to a letter that waits: try, edit, replay, discard. */
export function LetterActions({ letter }: { letter: DeadLetter }) {
  const readOnly = useReadOnlyReason();
  const [asked, setAsked] = useState<Asked>(null);
  const [via, setVia] = useState<Via>("retries");
  const [why, setWhy] = useState("");
  const ids = { reason: useId(), why: useId() };
  const rehearsal = useLetterAct(() => api.rehearse(letter.id));
  const replay = useLetterAct((way: Via) => api.replay(letter.id, way));
  const discard = useLetterAct((reason: string) => api.discard(letter.id, reason));
  const edit = useLetterAct((value: string) => api.edit(letter.id, value));
  const acts = [rehearsal, replay, discard, edit];
  const state = stateOf(letter);
  const reason = state === "waiting" ? readOnly : "";
  const disabled = reason !== "" || state !== "waiting" || acts.some((each) => each.isPending);
  const begin = (act: Asked) => () => {
    for (const each of acts) each.reset();
    setAsked(act);
  };
  const payload = letter.replacement ?? letter.value;
  const button = (name: string, onClick: () => void, primary = false) => (
    <button
      type="button"
      className={primary ? "primary" : undefined}
      disabled={disabled}
      aria-describedby={reason ? ids.reason : undefined}
      onClick={onClick}
    >
      {name}
    </button>
  );
  return (
    <>
      <div className="replay">
        {button("Replay", begin("replay"), true)}
        {button("Try", () => {
          begin(null)();
          rehearsal.mutate(undefined);
        })}
        {button("Edit", begin("edit"))}
        {button("Discard", begin("discard"))}
        {reason && (
          <p id={ids.reason} className="note">
            {reason}
          </p>
        )}
        <Result
          pending={acts.some((each) => each.isPending)}
          said={
            (replay.data && `Replayed: ${replay.data.said}.`) ||
            (discard.isSuccess && "Discarded.") ||
            (edit.isSuccess && "Edited: the original is kept.") ||
            ""
          }
          failed={
            (replay.error && `Not replayed. ${saidBy(replay.error)}`) ||
            (discard.error && `Not discarded. ${saidBy(discard.error)}`) ||
            (rehearsal.error && `Not tried. ${saidBy(rehearsal.error)}`) ||
            ""
          }
        />
      </div>
      {rehearsal.data && <HandledView handled={rehearsal.data} />}
      {asked === "edit" && (
        <LetterEditor
          initial={indentJson(payload) ?? payload}
          error={edit.error ? saidBy(edit.error) : ""}
          pending={edit.isPending}
          onCancel={begin(null)}
          onSave={(value) => edit.mutate(value, { onSuccess: () => setAsked(null) })}
        />
      )}
      {asked === "replay" && (
        <ConfirmDialog
          title={`Replay dead letter ${letter.id}?`}
          action="Replay"
          onCancel={begin(null)}
          onConfirm={() => {
            setAsked(null);
            replay.mutate(via);
          }}
        >
          <p>
            It goes to <strong>{letter.pipeline}</strong> again and is marked as replayed. No other
            pipeline sees it a second time, and it can be replayed once.
          </p>
          <ViaChoice via={via} onChange={setVia} />
        </ConfirmDialog>
      )}
      {asked === "discard" && (
        <ConfirmDialog
          title={`Discard dead letter ${letter.id}?`}
          action="Discard"
          disabled={why.trim() === ""}
          onCancel={begin(null)}
          onConfirm={() => {
            setAsked(null);
            discard.mutate(why);
          }}
        >
          <p>It stays in the list with the reason, and can't be replayed any more.</p>
          <div className="field">
            <label htmlFor={ids.why}>Reason, for the audit</label>
            <input id={ids.why} value={why} onChange={(event) => setWhy(event.target.value)} />
          </div>
        </ConfirmDialog>
      )}
    </>
  );
}
