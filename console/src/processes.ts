import type { Tone } from "./components/Mark";

/** How states of processes are told; every other one passes. */
export const PROCESS_TONES: Record<string, Tone> = {
  ready: "good",
  stopped: "alarm",
  failed: "alarm",
};
