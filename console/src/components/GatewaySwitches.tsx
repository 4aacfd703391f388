import { useId, useState } from "react";
import { api, saidBy } from "../api";
import { useAct, useReadOnlyReason } from "../queries";
import { ConfirmDialog } from "./ConfirmDialog";
import { DryRunView } from "./DryRunView";
import { Section } from "./Page";
import { Result } from "./Result";

type Asked = "drain" | "serve" | null;

/** What is done to the gateway as a whole: a drain and its end, and another configuration. */
export function GatewaySwitches({ isDraining }: { isDraining: boolean }) {
  const reason = useReadOnlyReason();
  const reasonId = useId();
  const [asked, setAsked] = useState<Asked>(null);
  const drain = useAct("gateway", api.drain);
  const look = useAct("gateway", api.dryRun);
  const reload = useAct("gateway", api.reload);
  const acts = [drain, look, reload];
  const isPending = acts.some((act) => act.isPending);
  const begin = () => {
    for (const act of acts) act.reset();
  };
  const confirmed = (on: boolean) => () => {
    setAsked(null);
    drain.mutate(on);
  };
  return (
    <Section title="Switches" aside="of this gateway; others of the application have their own">
      <div className="switches">
        <button
          type="button"
          disabled={reason !== "" || isPending}
          aria-describedby={reason ? reasonId : undefined}
          onClick={() => {
            begin();
            setAsked(isDraining ? "serve" : "drain");
          }}
        >
          {isDraining ? "Let clients in again" : "Drain"}
        </button>
        <button
          type="button"
          disabled={isPending}
          onClick={() => {
            begin();
            look.mutate(undefined);
          }}
        >
          Check the configuration
        </button>
        {reason && (
          <p id={reasonId} className="note">
            {reason}
          </p>
        )}
        <Result
          pending={isPending}
          said={
            (drain.isSuccess &&
              (drain.variables
                ? "It drains: nobody new is let in."
                : "It ends and is started anew: in a few seconds it lets clients in.")) ||
            (reload.data && `Configuration ${reload.data.version} is in force.`) ||
            ""
          }
          failed={
            (drain.error && `Not done. ${saidBy(drain.error)}`) ||
            (look.error && `Not checked. ${saidBy(look.error)}`) ||
            (reload.error && `Not reloaded. ${saidBy(reload.error)}`) ||
            ""
          }
        />
      </div>
      {look.data && (
        <DryRunView
          found={look.data}
          disabled={reason !== "" || isPending}
          onReload={() => {
            const { digest } = look.data;
            begin();
            reload.mutate(digest);
          }}
        />
      )}
      {asked === "drain" && (
        <ConfirmDialog
          title="Drain the gateway?"
          action="Drain"
          onCancel={() => setAsked(null)}
          onConfirm={confirmed(true)}
        >
          <p>
            It lets nobody new in: clients that connect are refused until it is let serve again.
            What is under way ends as it would.
          </p>
        </ConfirmDialog>
      )}
      {asked === "serve" && (
        <ConfirmDialog
          title="Let clients in again?"
          action="Start it anew"
          onCancel={() => setAsked(null)}
          onConfirm={confirmed(false)}
        >
          <p>
            That takes a new start. What is under way has five seconds to end; stored answers,
            counts, held breakers and what this gateway alone remembers of its limits are gone then.
            It reads the file as it is now.
          </p>
        </ConfirmDialog>
      )}
    </Section>
  );
}
