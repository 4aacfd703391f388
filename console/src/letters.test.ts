import { expect, test } from "vitest";
import {
  addressOf,
  filterOf,
  isFiltered,
  NO_FILTER,
  placeOf,
  selectionOf,
  stateOf,
} from "./letters";

test("a filter survives its address", () => {
  const filter = {
    ...NO_FILTER,
    pipeline: "ledger",
    error: "a & b = 50%",
    since: "2026-03-01T12:30",
  };
  const address = addressOf("12", filter);
  expect(address.startsWith("/dead-letters/12?")).toBe(true);
  expect(filterOf(address.slice(address.indexOf("?")))).toEqual(filter);
  expect(addressOf("", NO_FILTER)).toBe("/dead-letters");
  expect(filterOf("")).toEqual(NO_FILTER);
});

test("a page has an address of its own, which is no filter", () => {
  const address = addressOf("", { ...NO_FILTER, key: "c" }, "120");
  expect(address).toBe("/dead-letters?key=c&before=120");
  const search = address.slice(address.indexOf("?"));
  expect(placeOf(search)).toBe("120");
  expect(filterOf(search)).toEqual({ ...NO_FILTER, key: "c" });
  expect(placeOf("")).toBe("");
});

test("only what is given is asked for, with times in UTC", () => {
  expect(isFiltered(NO_FILTER)).toBe(false);
  expect(selectionOf(NO_FILTER)).toEqual({});
  const filter = { ...NO_FILTER, key: "c", since: "1970-01-01T00:01", until: "not a time" };
  expect(isFiltered(filter)).toBe(true);
  expect(selectionOf(filter)).toEqual({ key: "c", since_us: 60_000_000 });
});

test("a letter is settled in one way", () => {
  expect(stateOf({ replayed_us: null, discarded_us: null })).toBe("waiting");
  expect(stateOf({ replayed_us: 0, discarded_us: null })).toBe("replayed");
  expect(stateOf({ replayed_us: null, discarded_us: 5 })).toBe("discarded");
});
