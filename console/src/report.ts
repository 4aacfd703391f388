import type { Cell, Report, Section } from "./api";
import { formatCount, formatMoney } from "./format";

/** A column of integers of a section with one row a day, ready to be drawn. */
export interface DaySeries {
  name: string;
  days: string[];
  /** Seconds since 1970 of the start of each day, UTC. */
  times: number[];
  /** Null on a day without rows, or whose sum is one of no rows. */
  values: (number | null)[];
  isMoney: boolean;
}

export function daySeries(section: Section, amounts: readonly string[]): DaySeries[] {
  const rows = withGaps(section.rows);
  const days = rows.map((row) => String(row[0]));
  const times = days.map(startOfDay);
  return section.columns.flatMap((name, index) => {
    if (index === 0 || !isNumeric(section, index)) return [];
    const values = rows.map((row) => {
      const cell = row[index];
      return typeof cell === "number" ? cell : null;
    });
    return [{ name, days, times, values, isMoney: amounts.includes(name) }];
  });
}

const DAY_SECONDS = 86_400;

/** Rows by day, with a row of the next day alone where days are missing: a line must not cross. */
function withGaps(rows: readonly Cell[][]): Cell[][] {
  return rows.flatMap((row, index) => {
    const next = rows[index + 1];
    const after = startOfDay(String(row[0])) + DAY_SECONDS;
    if (next === undefined || !(startOfDay(String(next[0])) > after)) return [row];
    return [row, [new Date(after * 1000).toISOString().slice(0, 10)]];
  });
}

/** Seconds since 1970, UTC. */
export function startOfDay(day: string): number {
  return Date.parse(`${day}T00:00:00Z`) / 1000;
}

/** Whether a column holds numbers, of which some days may have none. */
export function isNumeric(section: Section, column: number): boolean {
  const cells = section.rows.map((row) => row[column]).filter((cell) => cell !== null);
  return cells.length > 0 && cells.every((cell) => typeof cell === "number");
}

/** The sum of integers, exact whatever its size. */
export function total(values: readonly (number | null)[]): bigint {
  return values.reduce<bigint>((sum, value) => sum + BigInt(Math.round(value ?? 0)), 0n);
}

export function formatCell(cell: Cell | undefined, isMoney: boolean): string {
  if (cell === null || cell === undefined) return "–";
  if (typeof cell === "string") return cell;
  if (!Number.isInteger(cell)) return String(cell);
  return isMoney ? formatMoney(cell) : formatCount(cell);
}

/** Corrected days that the report still shows, newest first. */
export function correctedDays(report: Report): [day: string, reason: string][] {
  return Object.entries(report.corrected).sort(([a], [b]) => (a < b ? 1 : -1));
}

export interface Order {
  column: number;
  direction: "ascending" | "descending";
}

/** Rows in an order; rows that are equal in it go by day, the newest first. */
export function sortRows(rows: readonly Cell[][], { column, direction }: Order): Cell[][] {
  const sign = direction === "ascending" ? 1 : -1;
  return rows.toSorted(
    (a, b) => sign * compareCells(a[column], b[column]) || compareCells(b[0], a[0]),
  );
}

function compareCells(a: Cell | undefined, b: Cell | undefined): number {
  if (typeof a === "number" && typeof b === "number") return a - b;
  const left = String(a ?? "");
  const right = String(b ?? "");
  return left < right ? -1 : left > right ? 1 : 0;
}
