import { expect, test } from "vitest";
import { hasArrived, stationsOf } from "./stations";

const step = (name: string) => ({
  name,
  time: "2026-03-01 12:30:05.000000",
  where: "",
  what: "",
  letter: null,
});

test("every station is there, with all that passed it", () => {
  const stations = stationsOf([step("request"), step("request"), step("row")]);
  expect(stations.map((station) => station.passes.length)).toEqual([2, 1, 0, 0, 0, 0, 0]);
});

test("a trace has arrived when the report has it", () => {
  expect(hasArrived([step("request"), step("row")])).toBe(false);
  expect(hasArrived([step("request"), step("report")])).toBe(true);
});
