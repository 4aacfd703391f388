import { expect, test } from "vitest";
import type { StepName, WayStep } from "./api";
import { signsBetween, underWay } from "./way";

function way(...counts: number[]): WayStep[] {
  const names: StepName[] = ["accepted", "posted", "stored", "reported"];
  return counts.map((count, index) => ({
    step: names[index] ?? "accepted",
    count,
    amount: count * 100,
    per_second: 0,
    behind: 0,
  }));
}

test("equal is equal everywhere", () => {
  expect(signsBetween("equal", way(9, 9, 9, 9))).toEqual(["=", "=", "="]);
});

test("under way shows where the difference is", () => {
  expect(signsBetween("under way", way(9, 9, 7, 7))).toEqual(["=", ">", "="]);
});

test("broken shows where it broke, and trusts nothing if the sums agree", () => {
  expect(signsBetween("broken", way(9, 9, 10, 10))).toEqual(["=", "≠", "="]);
  expect(signsBetween("broken", way(9, 9, 9, 9))).toEqual(["≠", "≠", "≠"]);
});

test("what is not known is told of nowhere as equal", () => {
  expect(signsBetween("unknown", way(9, 9, 9, 9))).toEqual(["?", "?", "?"]);
});

test("nothing to match has no signs", () => expect(signsBetween("equal", [])).toEqual([]));

test("what is under way is the first step less the last", () => {
  expect(underWay(way(9, 9, 7, 6))).toEqual({ count: 3, amount: 300 });
  expect(underWay([])).toEqual({ count: 0, amount: 0 });
});
