import type { Process } from "./api";
import type { Tone } from "./components/Mark";

const TONES: Record<string, Tone> = { ready: "good", stopped: "alarm", failed: "alarm" };

/** How a process is, in a word and its tone: one that runs and gets no further is not well. */
export function standingOf({ state, trouble }: Process): readonly [tone: Tone, words: string] {
  if (state === "ready" && trouble) return ["alarm", "in trouble"];
  return [TONES[state] ?? "waiting", state];
}

export function isWell(process: Process): boolean {
  return standingOf(process)[0] === "good";
}
