// Numbers, money and times as text. Money never passes through a float.

const DASH = "–";

/** Minor units as an exact amount: 250031563 is "2,500,315.63". */
export function formatMoney(minor: number | bigint): string {
  const value = BigInt(minor);
  const digits = (value < 0n ? -value : value).toString().padStart(3, "0");
  const sign = value < 0n ? "−" : "";
  return `${sign}${grouped(digits.slice(0, -2))}.${digits.slice(-2)}`;
}

/** An integer with its thousands grouped. */
export function formatCount(count: number | bigint): string {
  const value = BigInt(count);
  return value < 0n ? `−${grouped((-value).toString())}` : grouped(value.toString());
}

function grouped(digits: string): string {
  return digits.replace(/\B(?=(\d{3})+$)/g, ",");
}

/** A rate: one decimal below ten, none above. */
export function formatRate(perSecond: number): string {
  return perSecond < 10 && !Number.isInteger(perSecond)
    ? perSecond.toFixed(1)
    : formatCount(Math.round(perSecond));
}

export function formatMilliseconds(milliseconds: number | null): string {
  if (milliseconds === null) return DASH;
  if (milliseconds >= 10_000) return `${(milliseconds / 1000).toFixed(1)} s`;
  return `${milliseconds.toFixed(milliseconds < 100 ? 1 : 0)} ms`;
}

/** Two units at most: "0.4 s", "12 s", "3 min 20 s", "2 h 5 min", "3 d 4 h". */
export function formatDuration(seconds: number): string {
  if (seconds < 9.95) return `${Math.max(seconds, 0).toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3_600) return pair(whole, 60, "min", 1, "s");
  if (whole < 86_400) return pair(whole, 3_600, "h", 60, "min");
  return pair(whole, 86_400, "d", 3_600, "h");
}

function pair(seconds: number, large: number, first: string, small: number, second: string) {
  const rest = Math.floor((seconds % large) / small);
  return `${Math.floor(seconds / large)} ${first}${rest > 0 ? ` ${rest} ${second}` : ""}`;
}

/** Microseconds since 1970 as "2026-03-01 12:30:05.123", UTC. */
export function formatInstant(microseconds: number): string {
  return new Date(Math.floor(microseconds / 1000)).toISOString().slice(0, -1).replace("T", " ");
}

/** The time of day in UTC, as everywhere here: two people who compare must see the same. */
export function formatClock(milliseconds: number): string {
  return new Date(milliseconds).toISOString().slice(11, 19);
}

/** "2026-03-01 12:30:05.123456" (UTC) as microseconds since 1970; null if it is no such text. */
export function parseInstant(text: string): number | null {
  const match = /^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?$/.exec(text);
  if (!match) return null;
  const milliseconds = Date.parse(`${match[1]}T${match[2]}Z`);
  return milliseconds * 1000 + Number((match[3] ?? "").padEnd(6, "0"));
}

/** Microseconds between two moments, with a sign: "+1.2 ms", "−3.4 s". */
export function formatElapsed(microseconds: number): string {
  const sign = microseconds < 0 ? "−" : "+";
  const size = Math.abs(microseconds);
  if (size < 1_000_000) return `${sign}${(size / 1000).toFixed(1)} ms`;
  if (size < 60_000_000) return `${sign}${(size / 1_000_000).toFixed(2)} s`;
  return `${sign}${formatDuration(size / 1_000_000)}`;
}

/** "1 day", "2 days": with what makes the word a plural. */
export function formatNumberOf(count: number, one: string, plural = "s"): string {
  return `${formatCount(count)} ${one}${count === 1 ? "" : plural}`;
}
