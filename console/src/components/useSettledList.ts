import { useState } from "react";

interface Settled<T> {
  /** The items that the reader has seen or asked for, each in its newest state. */
  shown: T[];
  /** How many came since. */
  arrived: number;
  showAll: () => void;
}

/**
 * Keeps a live list from moving under the reader: what is new waits until it is asked for.
 *
 * `ageOf` grows with time, so what is new is what is larger than the largest one seen.
 */
export function useSettledList<T>(items: readonly T[], ageOf: (item: T) => bigint): Settled<T> {
  const [newest, setNewest] = useState<bigint | null>(null);
  const largest = () => {
    let most = 0n;
    for (const age of items.map(ageOf)) if (age > most) most = age;
    return most;
  };
  if (newest === null && items.length > 0) setNewest(largest());
  const shown = items.filter((item) => newest === null || ageOf(item) <= newest);
  // So many came that nothing of what was read is on this page any more.
  if (newest !== null && shown.length === 0 && items.length > 0) setNewest(largest());
  return { shown, arrived: items.length - shown.length, showAll: () => setNewest(largest()) };
}
