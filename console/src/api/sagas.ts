// Sagas and their timelines.

import { get } from "./http";

export type SagaStatus = "running" | "compensating" | "completed" | "compensated" | "stuck";

/** A line of a timeline. */
export interface Happening {
  step: string;
  /** `undo` for a compensation. */
  direction: "do" | "undo";
  outcome: string;
  attempt: number;
  error: string;
  at_us: number;
}

export interface Saga {
  saga: string;
  id: string;
  style: "orchestration" | "choreography";
  status: SagaStatus;
  /** The step that it stands at, or ended with. */
  step: string;
  key: string;
  error: string;
  tries: number;
  /** Whether somebody was asked, and has not answered yet. */
  waiting: boolean;
  /** When it goes on by itself. */
  wake_us: number | null;
  deadline_us: number | null;
  started_us: number;
  ended_us: number | null;
  /** Empty in a list. */
  timeline: Happening[];
}

export interface SagaPage {
  sagas: Saga[];
  /** Where the next page begins; null after the last. */
  next: string | null;
  /** How many of each saga are open, by status; with the first page alone. */
  open: Record<string, Partial<Record<SagaStatus, number>>> | null;
}

export interface SagaFilter {
  saga: string;
  status: string;
}

export const sagasApi = {
  sagas: (filter: SagaFilter, before: string, signal: AbortSignal) => {
    const query = new URLSearchParams({ ...filter, before });
    return get<SagaPage>(`/api/sagas?${query}`, signal);
  },
  saga: (id: string, signal: AbortSignal) =>
    get<Saga[]>(`/api/sagas/${encodeURIComponent(id)}`, signal),
};
