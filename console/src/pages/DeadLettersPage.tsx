import { useQuery } from "@tanstack/react-query";
import { useEffect, useId, useRef, useState } from "react";
import type { DeadLetter } from "../api";
import { DeadLetterDetail } from "../components/DeadLetterDetail";
import { Empty } from "../components/Empty";
import { Mark } from "../components/Mark";
import { Page, Section } from "../components/Page";
import { QueryView } from "../components/QueryView";
import { useSettledList } from "../components/useSettledList";
import { formatInstant, formatNumberOf } from "../format";
import { DEAD_LETTERS_SHOWN, deadLettersQuery } from "../queries";
import { Link, navigate, useSearchParameter } from "../router";

const COMMAND = "counterfoil events dlq list {at}";

export function DeadLettersPage({ selected }: { selected: string }) {
  const pipeline = useSearchParameter("pipeline");
  const letters = useQuery(deadLettersQuery(pipeline));
  return (
    <Page
      title="Dead letters"
      lead="What no handler could take, kept whole until somebody decides."
    >
      <QueryView query={letters} command={COMMAND}>
        {(found) =>
          found.length === 0 && !pipeline ? (
            <Empty title="There are no dead letters." command={COMMAND}>
              An event that a pipeline fails on again and again is put here. On the command line:
            </Empty>
          ) : (
            <Letters
              letters={found}
              isOfPipeline={!letters.isPlaceholderData}
              pipeline={pipeline}
              selected={selected}
            />
          )
        }
      </QueryView>
    </Page>
  );
}

function addressOf(id: string, pipeline: string): string {
  const path = id ? `/dead-letters/${encodeURIComponent(id)}` : "/dead-letters";
  return pipeline ? `${path}?${new URLSearchParams({ pipeline })}` : path;
}

interface LettersProps {
  letters: DeadLetter[];
  /** False while the letters are still those of the pipeline that was chosen before. */
  isOfPipeline: boolean;
  pipeline: string;
  selected: string;
}

function Letters({ letters, isOfPipeline, pipeline, selected }: LettersProps) {
  const list = useRef<HTMLDivElement>(null);
  const detail = useRef<HTMLDivElement>(null);
  const pipelines = usePipelines(letters, pipeline);
  const shown = useRef(selected);
  useEffect(() => {
    if (shown.current === selected) return;
    shown.current = selected;
    // Where there is room for one of the two, the other takes the focus with it when it goes.
    if (isLost(document.activeElement)) (selected ? detail : list).current?.focus();
  }, [selected]);
  return (
    <div className="letters" data-selected={selected !== ""}>
      <div ref={list} className="letters-side" tabIndex={-1}>
        <Section
          title="Letters"
          aside={
            <PipelineFilter
              pipelines={pipelines}
              pipeline={pipeline}
              onChoose={(name) => navigate(addressOf(selected, name), { replace: true })}
            />
          }
        >
          <LetterList
            key={`${pipeline} ${isOfPipeline}`}
            letters={letters}
            pipeline={pipeline}
            selected={selected}
          />
        </Section>
      </div>
      <div ref={detail} className="letter-detail" tabIndex={-1}>
        <SelectedLetter
          letter={letters.find((letter) => letter.id === selected)}
          selected={selected}
          back={addressOf("", pipeline)}
        />
      </div>
    </div>
  );
}

/** Whether the focus is on nothing, or on what can no longer be seen. */
function isLost(focused: Element | null): boolean {
  return !(focused instanceof HTMLElement) || focused.offsetParent === null;
}

/** The pipelines of all letters seen so far: a filter must not take away its own choices. */
function usePipelines(letters: readonly DeadLetter[], chosen: string): readonly string[] {
  const [seen, setSeen] = useState<readonly string[]>([]);
  const now = new Set([...seen, ...letters.map((letter) => letter.pipeline), chosen]);
  now.delete("");
  if (now.size > seen.length) setSeen([...now].sort());
  return seen;
}

interface FilterProps {
  pipelines: readonly string[];
  pipeline: string;
  onChoose: (pipeline: string) => void;
}

function PipelineFilter({ pipelines, pipeline, onChoose }: FilterProps) {
  const id = useId();
  return (
    <div className="filter">
      <label htmlFor={id}>Pipeline</label>
      <select id={id} value={pipeline} onChange={(event) => onChoose(event.target.value)}>
        <option value="">all</option>
        {pipelines.map((name) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </div>
  );
}

interface ListProps {
  letters: DeadLetter[];
  pipeline: string;
  selected: string;
}

function LetterList({ letters, pipeline, selected }: ListProps) {
  const { shown, arrived, showAll } = useSettledList(letters);
  return (
    <>
      <div role="status" aria-label="New letters" className="arrivals">
        {arrived > 0 && (
          <button type="button" onClick={showAll}>
            Show {formatNumberOf(arrived, "new letter")}
          </button>
        )}
      </div>
      {shown.length > 0 ? (
        <ul className="letter-list" aria-label="Dead letters">
          {shown.map((letter) => (
            <li key={letter.id}>
              <LetterLink
                letter={letter}
                to={addressOf(letter.id, pipeline)}
                isOpen={letter.id === selected}
              />
            </li>
          ))}
        </ul>
      ) : (
        <Empty title={`${pipeline} has no dead letters.`} command={COMMAND} />
      )}
      {letters.length >= DEAD_LETTERS_SHOWN && (
        <p className="note">
          The newest {DEAD_LETTERS_SHOWN}; more of them: <code>{COMMAND} --limit 10000</code>
        </p>
      )}
    </>
  );
}

function LetterLink({ letter, to, isOpen }: { letter: DeadLetter; to: string; isOpen: boolean }) {
  const waits = letter.replayed_us === null;
  return (
    <Link to={to} aria-current={isOpen ? "true" : undefined}>
      <span className="letter-line">
        <span className="letter-name">
          {letter.id} · {letter.pipeline}
        </span>
        <Mark tone={waits ? "alarm" : "good"}>{waits ? "waiting" : "replayed"}</Mark>
      </span>
      <span className="letter-error">{letter.error}</span>
      <span className="letter-time">{formatInstant(letter.failed_us)} UTC</span>
    </Link>
  );
}

interface SelectedProps {
  letter: DeadLetter | undefined;
  selected: string;
  back: string;
}

function SelectedLetter({ letter, selected, back }: SelectedProps) {
  if (!selected) {
    return (
      <Empty title="No letter is open.">Choose one to see why it failed, and what it says.</Empty>
    );
  }
  return (
    <>
      <Link to={back} className="back">
        All dead letters
      </Link>
      {letter ? (
        <DeadLetterDetail key={letter.id} letter={letter} />
      ) : (
        <Empty
          title={`Dead letter ${selected} is not among these.`}
          command={`counterfoil events dlq show ${selected} {at}`}
        />
      )}
    </>
  );
}
