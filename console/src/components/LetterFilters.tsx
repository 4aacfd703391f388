import { type FormEvent, useState } from "react";
import { isFiltered, LETTER_STATES, type LetterFilter, NO_FILTER } from "../letters";
import { Choice, Field } from "./Field";

interface Props {
  filter: LetterFilter;
  pipelines: readonly string[];
  onFilter: (filter: LetterFilter) => void;
}

/** The filters of the list; they stand in the address once they are applied. */
export function LetterFilters({ filter, pipelines, onFilter }: Props) {
  const [draft, setDraft] = useState(filter);
  const [applied, setApplied] = useState(filter);
  if (JSON.stringify(filter) !== JSON.stringify(applied)) {
    setApplied(filter);
    setDraft(filter);
  }
  const set = (name: keyof LetterFilter) => (value: string) => {
    setDraft({ ...draft, [name]: value });
  };
  const apply = (event: FormEvent) => {
    event.preventDefault();
    onFilter(draft);
  };
  return (
    <search>
      <form className="letter-filters" onSubmit={apply}>
        <Choice
          name="Pipeline"
          value={draft.pipeline}
          choices={pipelines}
          onChange={set("pipeline")}
        />
        <Choice name="State" value={draft.state} choices={LETTER_STATES} onChange={set("state")} />
        <Field name="Error contains" value={draft.error} onChange={set("error")} />
        <Field name="Key" value={draft.key} onChange={set("key")} />
        <Field name="Topic" value={draft.topic} onChange={set("topic")} />
        <Field
          name="Failed since (UTC)"
          type="datetime-local"
          value={draft.since}
          onChange={set("since")}
        />
        <Field
          name="Failed before (UTC)"
          type="datetime-local"
          value={draft.until}
          onChange={set("until")}
        />
        <div className="letter-filters-buttons">
          <button type="submit" className="primary">
            Filter
          </button>
          <button type="button" disabled={!isFiltered(filter)} onClick={() => onFilter(NO_FILTER)}>
            Show all
          </button>
        </div>
      </form>
    </search>
  );
}
