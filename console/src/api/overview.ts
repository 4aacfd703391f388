// The line of the first page, who runs, and what each process has written.

import { get } from "./http";

/** `unknown`: what was seen last says nothing of now. */
export type State = "equal" | "under way" | "broken" | "unknown";
export type StepName = "accepted" | "posted" | "stored" | "reported";

export interface WayStep {
  step: StepName;
  count: number;
  /** Minor units, as every amount here. */
  amount: number;
  per_second: number;
  behind: number;
}

export interface Process {
  name: string;
  kind: string;
  state: string;
  pid: number | null;
  restarts: number;
  /** Seconds since 1970. */
  since: number;
  detail: string;
  /** Why it gets no further, though it runs; empty if it does. */
  trouble: string;
}

export type History = { seconds: number[] } & Record<StepName, number[]>;

export interface Overview {
  application: string;
  /** Where it is, as commands name it. */
  folder: string;
  state_folder: string;
  read_only: boolean;
  state: State;
  /** Whether the application declares what has to match. */
  matches: boolean;
  /** How old `way` is; null before the first look. */
  looked_seconds_ago: number | null;
  /** Why the last look failed, if it did. */
  trouble: string;
  under_way_seconds: number;
  way: WayStep[];
  gateway: { requests: number; p50_ms: number | null; p99_ms: number | null } | null;
  history: History;
  processes: Process[];
}

export interface ProcessLog {
  path: string;
  /** Of the whole file, in bytes. */
  size: number;
  /** The last ones, the oldest first. */
  lines: string[];
  /** Whether there are none before these. */
  is_whole: boolean;
}

export const overviewApi = {
  overview: (signal: AbortSignal) => get<Overview>("/api/overview", signal),
  processLog: (name: string, signal: AbortSignal) =>
    get<ProcessLog>(`/api/processes/${encodeURIComponent(name)}/log`, signal),
};
