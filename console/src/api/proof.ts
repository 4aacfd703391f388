// The last verdict.

import { get } from "./http";

export interface Difference {
  what: string;
  where: string;
  id: string;
  expected: string;
  found: string;
}

export interface Verdict {
  verdict: "holds" | "fails";
  seed: number;
  sabotage: string | null;
  sent: number;
  attempts: number;
  acknowledged: number;
  refused: number;
  ledger: number;
  lake: number;
  report: number;
  revenue: number;
  sums: Record<string, { count: number; amount: number }>;
  faults: Record<string, number>;
  faulted: Record<string, number>;
  difference_count: number;
  differences: Difference[];
  seconds: Record<string, number>;
  latency_ms: Record<string, number>;
}

export const proofApi = {
  proof: (signal: AbortSignal) => get<Verdict | null>("/api/proof", signal),
};
