import { type FormEvent, useState } from "react";
import { api, type Gateway, saidBy } from "../api";
import { formatCount } from "../format";
import { useAct, useReadOnlyReason } from "../queries";
import { ConfirmDialog } from "./ConfirmDialog";
import { Facts } from "./Facts";
import { Field } from "./Field";
import { Section } from "./Page";
import { Result } from "./Result";

type Cache = NonNullable<Gateway["cache"]>;

/** What the cache holds, and the way to take stored answers back. */
export function CachePurge({ cache }: { cache: Cache }) {
  const reason = useReadOnlyReason();
  const [url, setUrl] = useState("");
  const [tag, setTag] = useState("");
  const [soft, setSoft] = useState(false);
  const [asking, setAsking] = useState(false);
  const purge = useAct("gateway", () => {
    const names = (text: string) => (text.trim() ? [text.trim()] : []);
    return api.purge({ urls: names(url), tags: names(tag), soft });
  });
  const ask = (event: FormEvent) => {
    event.preventDefault();
    purge.reset();
    setAsking(true);
  };
  const isEmpty = url.trim() === "" && tag.trim() === "";
  return (
    <Section title="Cache" aside="of this gateway; others of the application have their own">
      <Facts
        facts={[
          ["Answers", formatCount(cache.entries)],
          ["Full to", `${((cache.bytes / cache.capacity_bytes) * 100).toFixed(0)} %`],
          ["Requests spared", `${(cache.hit_rate * 100).toFixed(0)} %`],
          ["Evicted", formatCount(cache.evictions)],
        ]}
      />
      <form className="purge" onSubmit={ask}>
        <Field name="Address: path and query" value={url} onChange={setUrl} />
        <Field name="Tag" value={tag} onChange={setTag} />
        <label className="check">
          <input
            type="checkbox"
            checked={soft}
            onChange={(event) => setSoft(event.target.checked)}
          />
          only make them stale
        </label>
        <div className="switches">
          <button type="submit" disabled={reason !== "" || isEmpty || purge.isPending}>
            Purge
          </button>
          {reason && <p className="note">{reason}</p>}
          <Result
            pending={purge.isPending}
            said={purge.data && `Purged. Addresses: ${purge.data.urls}; tags: ${purge.data.tags}.`}
            failed={purge.error ? `Not purged. ${saidBy(purge.error)}` : ""}
          />
        </div>
      </form>
      {asking && (
        <ConfirmDialog
          title="Purge stored answers?"
          action="Purge"
          onCancel={() => setAsking(false)}
          onConfirm={() => {
            setAsking(false);
            purge.mutate(undefined);
          }}
        >
          <p>
            {url.trim() && <>Answers to {url.trim()} at every host. </>}
            {tag.trim() && <>Answers with the tag {tag.trim()}. </>}
            {soft
              ? "They are asked for anew, and still used where stale ones may be."
              : "The services get the next requests for them."}
          </p>
        </ConfirmDialog>
      )}
    </Section>
  );
}
