import { expect, test } from "vitest";
import type { Section } from "./api";
import { daySeries, formatCell, sortRows, total } from "./report";

const section: Section = {
  name: "totals",
  columns: ["day", "tenant", "purchases", "revenue"],
  rows: [
    ["1997-01-01", "aurora", 2, 1_234],
    ["1997-01-02", "delta", 10, 5],
    ["1997-01-03", "cascade", 2, 99],
  ],
  one_a_day: true,
};

test("each column of numbers is a series over the days", () => {
  const series = daySeries(section, ["revenue"]);
  expect(series.map(({ name, isMoney }) => [name, isMoney])).toEqual([
    ["purchases", false],
    ["revenue", true],
  ]);
  expect(series[1]?.times[0]).toBe(852_076_800);
  expect(series[1]?.values).toEqual([1_234, 5, 99]);
});

test("a line is broken where days are missing", () => {
  const [first] = section.rows;
  const rows = [first ?? [], ["1997-01-09", "delta", 1, 7], ["1997-01-10", "delta", 1, 8]];
  const [, revenue] = daySeries({ ...section, rows }, ["revenue"]);
  expect(revenue?.days).toEqual(["1997-01-01", "1997-01-02", "1997-01-09", "1997-01-10"]);
  expect(revenue?.values).toEqual([1_234, null, 7, 8]);
  expect(total(revenue?.values ?? [])).toBe(1_249n);
});

test("a day without a sum is a gap, and not the end of the column's chart", () => {
  const rows = [...section.rows, ["1997-01-04", "delta", 1, null]];
  const [, revenue] = daySeries({ ...section, rows }, ["revenue"]);
  expect(revenue?.values).toEqual([1_234, 5, 99, null]);
});

test("a section without rows has no series", () => {
  expect(daySeries({ ...section, rows: [] }, [])).toEqual([]);
});

test("a total is exact", () => {
  expect(total([Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER])).toBe(18_014_398_509_481_982n);
});

test("cells", () => {
  expect(formatCell(1_234, true)).toBe("12.34");
  expect(formatCell(1_234, false)).toBe("1,234");
  expect(formatCell(0.5, true)).toBe("0.5");
  expect(formatCell("aurora", false)).toBe("aurora");
  expect(formatCell(null, false)).toBe("–");
});

test("numbers sort as numbers, and equal rows by the newest day", () => {
  const days = (column: number, direction: "ascending" | "descending") =>
    sortRows(section.rows, { column, direction }).map((row) => row[0]);
  expect(days(2, "ascending")).toEqual(["1997-01-03", "1997-01-01", "1997-01-02"]);
  expect(days(0, "descending")).toEqual(["1997-01-03", "1997-01-02", "1997-01-01"]);
  const tenants = [
    ["1997-01-01", "aurora"],
    ["1997-01-01", "delta"],
    ["1997-01-02", "aurora"],
  ];
  expect(sortRows(tenants, { column: 0, direction: "descending" })).toEqual([
    ["1997-01-02", "aurora"],
    ["1997-01-01", "aurora"],
    ["1997-01-01", "delta"],
  ]);
  expect(days(1, "ascending")).toEqual(["1997-01-01", "1997-01-03", "1997-01-02"]);
});
