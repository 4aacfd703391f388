import { useState } from "react";

interface Settled<T> {
  /** The items as they stood when the reader came, each in its newest state. */
  shown: T[];
  /** How many came since. */
  arrived: number;
  showAll: () => void;
}

/** Keeps a live list from moving under the reader: what is new waits until it is asked for. */
export function useSettledList<T extends { id: string }>(
  items: readonly T[] | undefined,
): Settled<T> {
  const [known, setKnown] = useState<ReadonlySet<string> | null>(null);
  if (known === null && items !== undefined && items.length > 0) setKnown(idsOf(items));
  const shown = (items ?? []).filter((item) => known === null || known.has(item.id));
  return {
    shown,
    arrived: (items?.length ?? 0) - shown.length,
    showAll: () => setKnown(idsOf(items ?? [])),
  };
}

function idsOf(items: readonly { id: string }[]): ReadonlySet<string> {
  return new Set(items.map((item) => item.id));
}
