// Dead letters, and the acts on them.

import { type LetterFilter, selectionOf } from "../letters";
import { act, get } from "./http";

export interface DeadLetter {
  id: string;
  pipeline: string;
  topic: string;
  partition: number;
  offset: number;
  event_id: string;
  key: string;
  value: string;
  headers: Record<string, string>;
  error: string;
  traceback: string;
  tries: number;
  failed_us: number;
  replayed_us: number | null;
  discarded_us: number | null;
  /** What the last edit put in the place of `value`. */
  replacement: string | null;
}

export interface AuditEntry {
  id: string;
  letter: string;
  at_us: number;
  actor: string;
  action: "edit" | "replay" | "handle" | "discard";
  detail: string;
  /** The replacement that an edit has put in place. */
  value: string | null;
}

export interface AuditedLetter extends DeadLetter {
  audit: AuditEntry[];
}

/** What a handler did with a letter, or would do; or why it fails again. */
export interface Handled {
  said: string;
  error: string | null;
  traceback: string;
  transfers: {
    id: string;
    debit: string;
    credit: string;
    amount: number;
    currency: string;
    code: string;
  }[];
  emitted: { topic: string; key: string; value: string }[];
  state: { key: string; value: string | null }[];
  written: { statement: string; table: string; rows: number }[];
}

export type Via = "retries" | "handler";

export interface Outcome {
  letter: string;
  result: "done" | "failed" | "skipped";
  detail: string;
}

/** A part of a replay of many, and where the next one begins. */
export interface ReplayedPart {
  outcomes: Outcome[];
  after: string;
  last: string;
  ended: boolean;
}

export interface Waiting {
  pipeline: string;
  letters: number;
  oldest_us: number;
  newest_us: number;
}

export const lettersApi = {
  deadLetters: (filter: LetterFilter, before: string, limit: number, signal: AbortSignal) => {
    const query = new URLSearchParams({ limit: String(limit), before });
    for (const [name, value] of Object.entries(selectionOf(filter))) query.set(name, String(value));
    return get<DeadLetter[]>(`/api/dead-letters?${query}`, signal);
  },
  deadLetter: (id: string, signal: AbortSignal) => get<AuditedLetter>(letterPath(id), signal),
  waiting: (signal: AbortSignal) => get<Waiting[]>("/api/dead-letters/waiting", signal),
  edit: (id: string, value: string) => act(`${letterPath(id)}/edit`, { value }),
  discard: (id: string, reason: string) => act(`${letterPath(id)}/discard`, { reason }),
  rehearse: async (id: string) =>
    (await (await act(`${letterPath(id)}/try`, {})).json()) as Handled,
  replay: async (id: string, via: Via) =>
    (await (await act(`${letterPath(id)}/replay`, { via })).json()) as { said: string },
  replaySome: async (filter: LetterFilter, via: Via, from: Partial<ReplayedPart>) => {
    const { state: _, ...selection } = selectionOf(filter);
    const { after = "0", last = null } = from;
    const answer = await act("/api/dead-letters/replay", { selection, via, after, last });
    return (await answer.json()) as ReplayedPart;
  },
};

function letterPath(id: string): string {
  return `/api/dead-letters/${encodeURIComponent(id)}`;
}
