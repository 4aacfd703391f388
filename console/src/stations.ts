import type { TraceStep } from "./api";

export const STATIONS = ["request", "row", "outbox", "log", "ledger", "lake", "report"] as const;
export type StationName = (typeof STATIONS)[number];

export interface Station {
  name: StationName;
  /** What happened there; more than once if the client asked again, none if it is still to come. */
  passes: TraceStep[];
}

/** All stations in their order, with what a trace knows of each. */
export function stationsOf(steps: readonly TraceStep[]): Station[] {
  return STATIONS.map((name) => ({ name, passes: steps.filter((step) => step.name === name) }));
}

/** Whether a trace has reached its last station. */
export function hasArrived(steps: readonly TraceStep[]): boolean {
  return steps.some((step) => step.name === STATIONS.at(-1));
}
