// Sagas: what their states mean, and their timelines by step.

import type { Happening, SagaFilter, SagaStatus } from "./api";
import type { Tone } from "./components/Mark";

export const SAGA_STATUSES = [
  "running",
  "compensating",
  "completed",
  "compensated",
  "stuck",
] as const satisfies readonly SagaStatus[];

export const STATUS_WORDS: Record<SagaStatus, readonly [Tone, string]> = {
  running: ["waiting", "running"],
  compensating: ["waiting", "being taken back"],
  completed: ["good", "completed"],
  compensated: ["good", "taken back"],
  stuck: ["alarm", "stuck"],
};

const OUTCOMES: Record<string, readonly [Tone, string]> = {
  begun: ["good", "begun"],
  done: ["good", "done"],
  asked: ["waiting", "asked"],
  failed: ["waiting", "failed"],
  refused: ["alarm", "refused"],
  unclear: ["alarm", "got an answer that can't be understood"],
  unanswered: ["alarm", "was not answered in time"],
  late: ["waiting", "answered when nobody waited any more"],
  overdue: ["alarm", "took too long"],
  stuck: ["alarm", "stuck: needs a person"],
  resumed: ["waiting", "resumed by a person"],
};

/** What came of a try, in words; a word that this page doesn't know is told as it is. */
export function outcomeOf({ outcome }: Happening): readonly [Tone, string] {
  return OUTCOMES[outcome] ?? ["waiting", outcome];
}

/** The tries of one step in one direction, one after the other. */
export interface Stage {
  step: string;
  direction: Happening["direction"];
  tries: Happening[];
}

/** A timeline in stages: a step that is tried again is one of them, until another comes between. */
export function stagesOf(timeline: readonly Happening[]): Stage[] {
  const stages: Stage[] = [];
  for (const line of timeline) {
    const last = stages.at(-1);
    if (last && last.step === line.step && last.direction === line.direction) last.tries.push(line);
    else stages.push({ step: line.step, direction: line.direction, tries: [line] });
  }
  return stages;
}

/** The filter that stands in an address. */
export function sagaFilterOf(search: string): SagaFilter {
  const query = new URLSearchParams(search);
  return { saga: query.get("saga") ?? "", status: query.get("status") ?? "" };
}

/** The place behind which the page begins, as the server names it; nothing for the newest page. */
export function sagaPlaceOf(search: string): string {
  return new URLSearchParams(search).get("before") ?? "";
}

/** The address of a page of the list with a filter, or of one saga. */
export function sagaAddress(id: string, filter: SagaFilter, before = ""): string {
  const set = Object.entries({ ...filter, before }).filter(([, value]) => value !== "");
  const query = new URLSearchParams(set).toString();
  return `/sagas${id && `/${encodeURIComponent(id)}`}${query && `?${query}`}`;
}
