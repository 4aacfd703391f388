import type { ReactNode } from "react";
import type { Overview } from "../api";
import { formatCount, formatMilliseconds } from "../format";

export type Fact = readonly [name: string, value: ReactNode];

/** What the gateway did, and how fast. */
export function gatewayFacts(gateway: NonNullable<Overview["gateway"]>): Fact[] {
  return [
    ["Requests", formatCount(gateway.requests)],
    ["Half answered within (p50)", formatMilliseconds(gateway.p50_ms)],
    ["99 of 100 within (p99)", formatMilliseconds(gateway.p99_ms)],
  ];
}

/** A few values with their names, side by side. */
export function Facts({ facts }: { facts: readonly Fact[] }) {
  return (
    <dl className="facts">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
