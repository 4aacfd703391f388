import { useQuery } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import type { DeadLetter } from "../api";
import { DeadLetterDetail } from "../components/DeadLetterDetail";
import { Empty } from "../components/Empty";
import { LetterFilters } from "../components/LetterFilters";
import { Mark, type Tone } from "../components/Mark";
import { Page, Section } from "../components/Page";
import { Pager } from "../components/Pager";
import { QueryView } from "../components/QueryView";
import { ReplayAll } from "../components/ReplayAll";
import { useSettledList } from "../components/useSettledList";
import { formatInstant, formatNumberOf } from "../format";
import {
  addressOf,
  filterOf,
  isFiltered,
  type LetterFilter,
  type LetterState,
  placeOf,
  stateOf,
} from "../letters";
import { DEAD_LETTERS_SHOWN, deadLetterQuery, deadLettersQuery } from "../queries";
import { Link, navigate, useSearch } from "../router";

const COMMAND = "counterfoil events dlq list {at}";
const TONES: Record<LetterState, Tone> = {
  waiting: "alarm",
  replayed: "good",
  discarded: "waiting",
};

export function DeadLettersPage({ selected }: { selected: string }) {
  const search = useSearch();
  const filter = filterOf(search);
  const before = placeOf(search);
  const letters = useQuery(deadLettersQuery(filter, before));
  return (
    <Page
      title="Dead letters"
      lead="What no handler could take, kept whole until somebody decides."
    >
      <QueryView query={letters} command={COMMAND}>
        {(page) =>
          page.length === 0 && !before && !isFiltered(filter) && !selected ? (
            <Empty title="There are no dead letters." command={COMMAND}>
              An event that a pipeline fails on again and again is put here. On the command line:
            </Empty>
          ) : (
            <Letters
              letters={page}
              isFresh={!letters.isPlaceholderData}
              filter={filter}
              before={before}
              selected={selected}
            />
          )
        }
      </QueryView>
    </Page>
  );
}

interface LettersProps {
  letters: DeadLetter[];
  /** False while the letters are still those of the filter before. */
  isFresh: boolean;
  filter: LetterFilter;
  before: string;
  selected: string;
}

function Letters({ letters, isFresh, filter, before, selected }: LettersProps) {
  const list = useRef<HTMLDivElement>(null);
  const detail = useRef<HTMLDivElement>(null);
  const pipelines = usePipelines(letters, filter.pipeline);
  const shown = useRef(selected);
  const filterKey = addressOf("", filter);
  const last = letters.length < DEAD_LETTERS_SHOWN ? undefined : letters.at(-1)?.id;
  useEffect(() => {
    if (shown.current === selected) return;
    shown.current = selected;
    // Where there is room for one of the two, the other takes the focus with it when it goes.
    if (isLost(document.activeElement)) (selected ? detail : list).current?.focus();
  }, [selected]);
  return (
    <div className="letters" data-selected={selected !== ""}>
      <div ref={list} className="letters-side" tabIndex={-1}>
        <LetterFilters
          filter={filter}
          pipelines={pipelines}
          onFilter={(wanted) => navigate(addressOf(selected, wanted), { replace: true })}
        />
        <Section title="Letters">
          <ReplayAll key={`replay ${filterKey}`} filter={filter} />
          <LetterList
            key={`${addressOf("", filter, before)} ${isFresh}`}
            letters={letters}
            filter={filter}
            before={before}
            selected={selected}
          />
          <Pager
            of="letters"
            newest={before ? filterKey : undefined}
            older={last && addressOf("", filter, last)}
          />
        </Section>
      </div>
      <div ref={detail} className="letter-detail" tabIndex={-1}>
        <SelectedLetter selected={selected} back={addressOf("", filter, before)} />
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

/** Numbers of letters grow with time. */
function ageOf(letter: DeadLetter): bigint {
  return BigInt(letter.id);
}

interface ListProps {
  letters: DeadLetter[];
  filter: LetterFilter;
  before: string;
  selected: string;
}

function LetterList({ letters, filter, before, selected }: ListProps) {
  const { shown, arrived, showAll } = useSettledList(letters, ageOf);
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
                to={addressOf(letter.id, filter, before)}
                isOpen={letter.id === selected}
              />
            </li>
          ))}
        </ul>
      ) : (
        <Empty title="None fits." command={COMMAND} />
      )}
    </>
  );
}

function LetterLink({ letter, to, isOpen }: { letter: DeadLetter; to: string; isOpen: boolean }) {
  const state = stateOf(letter);
  return (
    <Link to={to} aria-current={isOpen ? "true" : undefined}>
      <span className="letter-line">
        <span className="letter-name">
          {letter.id} · {letter.pipeline}
        </span>
        <Mark tone={TONES[state]}>{state}</Mark>
      </span>
      <span className="letter-error">{letter.error}</span>
      <span className="letter-time">{formatInstant(letter.failed_us)} UTC</span>
    </Link>
  );
}

function SelectedLetter({ selected, back }: { selected: string; back: string }) {
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
      <OpenLetter key={selected} id={selected} />
    </>
  );
}

function OpenLetter({ id }: { id: string }) {
  const letter = useQuery(deadLetterQuery(id));
  return (
    <QueryView query={letter} command={`counterfoil events dlq show ${id} {at}`}>
      {(found) => <DeadLetterDetail letter={found} />}
    </QueryView>
  );
}
