import { useState } from "react";
import { api, type BreakerMode, type Gateway, saidBy } from "../api";
import { useAct, useReadOnlyReason } from "../queries";
import { ConfirmDialog } from "./ConfirmDialog";

type Endpoint = Gateway["services"][number]["endpoints"][number];

const MODES: readonly (readonly [BreakerMode, string])[] = [
  ["auto", "itself"],
  ["open", "held open"],
  ["closed", "held closed"],
];

const MEANINGS: Record<BreakerMode, string> = {
  auto: "It opens and closes by what its requests come to again.",
  open: "It gets no request until somebody lets go of it, however well it is. The other instances carry its part.",
  closed:
    "It gets requests until somebody lets go of it, even if all of them fail: it is not protected, nor are its clients.",
};

interface Props {
  service: string;
  endpoint: Endpoint;
}

/** Who decides over one breaker: itself, or an operator who holds it. */
export function BreakerSwitch({ service, endpoint }: Props) {
  const { instance, breaker, breaker_held } = endpoint;
  const reason = useReadOnlyReason();
  const [asked, setAsked] = useState<BreakerMode | null>(null);
  const hold = useAct("gateway", (mode: BreakerMode) => api.holdBreaker(service, instance, mode));
  const mode = !breaker_held ? "auto" : breaker === "open" ? "open" : "closed";
  return (
    <>
      <fieldset className="choices">
        <legend className="visually-hidden">Who decides over the breaker of {instance}</legend>
        {MODES.map(([each, words]) => (
          <button
            key={each}
            type="button"
            aria-pressed={each === mode}
            aria-label={`${instance}: ${words}`}
            title={reason || undefined}
            disabled={reason !== "" || hold.isPending}
            onClick={() => each !== mode && setAsked(each)}
          >
            {words}
          </button>
        ))}
      </fieldset>
      <span role="status" aria-label={`Result of ${instance}`} className="result" data-failed>
        {hold.error && `Not changed. ${saidBy(hold.error)}`}
      </span>
      {asked && (
        <ConfirmDialog
          title={asked === "auto" ? `Let go of ${instance}?` : `Hold ${instance} ${asked}?`}
          action={asked === "auto" ? "Let go" : `Hold ${asked}`}
          onCancel={() => setAsked(null)}
          onConfirm={() => {
            setAsked(null);
            hold.mutate(asked);
          }}
        >
          <p>{MEANINGS[asked]}</p>
        </ConfirmDialog>
      )}
    </>
  );
}
