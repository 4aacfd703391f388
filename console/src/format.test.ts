import { describe, expect, test } from "vitest";
import {
  formatClock,
  formatCount,
  formatDuration,
  formatElapsed,
  formatInstant,
  formatMilliseconds,
  formatMoney,
  formatNumberOf,
  formatRate,
  parseInstant,
} from "./format";

describe("formatMoney", () => {
  test.each([
    [250_031_563, "2,500,315.63"],
    [0, "0.00"],
    [5, "0.05"],
    [-5, "−0.05"],
    [100, "1.00"],
    [-123_456, "−1,234.56"],
    [Number.MAX_SAFE_INTEGER, "90,071,992,547,409.91"],
    [123_456_789_012_345_678_901n, "1,234,567,890,123,456,789.01"],
  ])("%s", (minor, text) => expect(formatMoney(minor)).toBe(text));

  test("refuses what is no integer", () => expect(() => formatMoney(0.1)).toThrow(RangeError));
});

test.each([
  [0, "0"],
  [999, "999"],
  [69_659, "69,659"],
  [-1_000, "−1,000"],
  [1_234_567_890n, "1,234,567,890"],
])("formatCount(%s)", (count, text) => expect(formatCount(count)).toBe(text));

test.each([
  [0, "0"],
  [0.25, "0.3"],
  [9, "9"],
  [12.6, "13"],
  [1_204.4, "1,204"],
])("formatRate(%s)", (rate, text) => expect(formatRate(rate)).toBe(text));

test.each([
  [null, "–"],
  [1.24, "1.2 ms"],
  [240.4, "240 ms"],
  [12_340, "12.3 s"],
])("formatMilliseconds(%s)", (value, text) => expect(formatMilliseconds(value)).toBe(text));

test.each([
  [-1, "0.0 s"],
  [0.42, "0.4 s"],
  [9.99, "10 s"],
  [59.4, "59 s"],
  [60, "1 min"],
  [200, "3 min 20 s"],
  [7_500, "2 h 5 min"],
  [273_600, "3 d 4 h"],
])("formatDuration(%s)", (seconds, text) => expect(formatDuration(seconds)).toBe(text));

test("an instant is written in UTC and read back to the microsecond", () => {
  expect(formatInstant(1_772_368_205_123_456)).toBe("2026-03-01 12:30:05.123");
  expect(parseInstant("2026-03-01 12:30:05.123456")).toBe(1_772_368_205_123_456);
  expect(parseInstant("2026-03-01 12:30:05")).toBe(1_772_368_205_000_000);
  expect(parseInstant("yesterday")).toBeNull();
});

test("the time of day is that of UTC, wherever the reader is", () => {
  expect(formatClock(1_772_368_205_123)).toBe("12:30:05");
});

test.each([
  [0, "+0.0 ms"],
  [1_240, "+1.2 ms"],
  [-3_400_000, "−3.40 s"],
  [200_000_000, "+3 min 20 s"],
])("formatElapsed(%s)", (value, text) => expect(formatElapsed(value)).toBe(text));

test("formatNumberOf", () => {
  expect(formatNumberOf(1, "day")).toBe("1 day");
  expect(formatNumberOf(1_200, "day")).toBe("1,200 days");
  expect(formatNumberOf(2, "process", "es")).toBe("2 processes");
});
