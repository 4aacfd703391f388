// Which dead letters are meant: filters as they stand in the page's address, and as the API takes them.

export const LETTER_STATES = ["waiting", "replayed", "discarded"] as const;
export type LetterState = (typeof LETTER_STATES)[number];

/** What is empty is not asked for. */
export interface LetterFilter {
  pipeline: string;
  topic: string;
  key: string;
  error: string;
  state: string;
  /** `YYYY-MM-DDTHH:MM`, UTC, as a browser's field for a moment gives it. */
  since: string;
  until: string;
}

export const NO_FILTER: LetterFilter = {
  pipeline: "",
  topic: "",
  key: "",
  error: "",
  state: "",
  since: "",
  until: "",
};

const NAMES = Object.keys(NO_FILTER) as (keyof LetterFilter)[];

export function filterOf(search: string): LetterFilter {
  const given = new URLSearchParams(search);
  const found = { ...NO_FILTER };
  for (const name of NAMES) found[name] = given.get(name) ?? "";
  return found;
}

/** The letter behind which the page begins; nothing for the newest page. */
export function placeOf(search: string): string {
  return new URLSearchParams(search).get("before") ?? "";
}

/** The address of a letter, or of a page of the list, with the filter. */
export function addressOf(id: string, filter: LetterFilter, before = ""): string {
  const path = id ? `/dead-letters/${encodeURIComponent(id)}` : "/dead-letters";
  const given = new URLSearchParams(NAMES.filter((n) => filter[n]).map((n) => [n, filter[n]]));
  if (before) given.set("before", before);
  return given.size > 0 ? `${path}?${given}` : path;
}

export function isFiltered(filter: LetterFilter): boolean {
  return NAMES.some((name) => filter[name] !== "");
}

/** The filter as the API names it, with times in microseconds since 1970. */
export function selectionOf(filter: LetterFilter): Record<string, string | number> {
  const selection: Record<string, string | number> = {};
  for (const name of ["pipeline", "topic", "key", "error", "state"] as const) {
    if (filter[name]) selection[name] = filter[name];
  }
  for (const name of ["since", "until"] as const) {
    const milliseconds = Date.parse(`${filter[name]}Z`);
    if (!Number.isNaN(milliseconds)) selection[`${name}_us`] = milliseconds * 1000;
  }
  return selection;
}

export function stateOf(letter: {
  replayed_us: number | null;
  discarded_us: number | null;
}): LetterState {
  if (letter.replayed_us !== null) return "replayed";
  return letter.discarded_us !== null ? "discarded" : "waiting";
}
