// Commands that fill an empty page. `{at}` is the application of this console, and `{folder}` the
// folder of its code.

import type { Overview } from "./api";

export const UP = "counterfoil up {at}";
export const PROVE = "counterfoil prove {folder} --state {folder}/.counterfoil-proof";

/** A command as it is typed, with names to fill in where the application is not known yet. */
export function typed(
  command: string,
  overview?: Pick<Overview, "folder" | "state_folder">,
): string {
  const folder = overview?.folder ?? "FOLDER";
  const state = overview?.state_folder ?? `${folder}/.counterfoil`;
  const at = state === `${folder}/.counterfoil` ? folder : `${folder} --state ${state}`;
  return command.replaceAll("{at}", at).replaceAll("{folder}", folder);
}
