import type { State, WayStep } from "./api";

export type Sign = "=" | ">" | "≠" | "?";

export const SIGN_WORDS: Record<Sign, string> = {
  "=": "equals",
  ">": "is ahead of",
  "≠": "does not match",
  "?": "is not known to equal",
};

/** The sign between each step and the next. */
export function signsBetween(state: State, way: readonly WayStep[]): Sign[] {
  const differing = way
    .slice(1)
    .map((step, index) => step.count !== way[index]?.count || step.amount !== way[index]?.amount);
  if (state === "unknown") return differing.map(() => "?");
  if (state === "equal") return differing.map(() => "=");
  if (state === "under way") return differing.map((differs) => (differs ? ">" : "="));
  // Sums can agree by chance while single payments don't: then no pair can be trusted.
  const found = differing.includes(true);
  return differing.map((differs) => (differs || !found ? "≠" : "="));
}

/** What was accepted and has not reached the last step. */
export function underWay(way: readonly WayStep[]): { count: number; amount: number } {
  const first = way[0];
  const last = way.at(-1);
  if (!first || !last) return { count: 0, amount: 0 };
  return { count: first.count - last.count, amount: first.amount - last.amount };
}
