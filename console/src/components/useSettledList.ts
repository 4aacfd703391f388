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
 * Ids grow with time, so what is new is what is larger than the largest one seen.
 */
export function useSettledList<T extends { id: string }>(items: readonly T[]): Settled<T> {
  const [newest, setNewest] = useState<bigint | null>(null);
  if (newest === null && items.length > 0) setNewest(largest(items));
  const shown = items.filter((item) => newest === null || BigInt(item.id) <= newest);
  return {
    shown,
    arrived: items.length - shown.length,
    showAll: () => setNewest(largest(items)),
  };
}

function largest(items: readonly { id: string }[]): bigint {
  return items.reduce((most, item) => (BigInt(item.id) > most ? BigInt(item.id) : most), 0n);
}
