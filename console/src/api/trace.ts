// One payment on its way.

import { get } from "./http";

export interface TraceStep {
  name: string;
  /** `YYYY-MM-DD HH:MM:SS.ffffff`, UTC. */
  time: string;
  where: string;
  what: string;
  /** Of a dead letter: its number. */
  letter: string | null;
}

export interface Trace {
  identity: string;
  steps: TraceStep[];
}

export const traceApi = {
  trace: (identity: string, signal: AbortSignal) =>
    get<Trace>(`/api/trace/${encodeURIComponent(identity)}`, signal),
};
