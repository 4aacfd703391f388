import { useId } from "react";
import type { Via } from "../api";

interface Props {
  via: Via;
  onChange: (via: Via) => void;
}

const WAYS: readonly (readonly [Via, string])[] = [
  ["retries", "by the retry topic: its pipeline handles it when it comes to it"],
  ["handler", "by the handler, here and now: what it fails on still waits"],
];

/** Which way a letter goes back to its pipeline. */
export function ViaChoice({ via, onChange }: Props) {
  const name = useId();
  return (
    <fieldset className="via">
      <legend>Way</legend>
      {WAYS.map(([way, words]) => (
        <label key={way}>
          <input
            type="radio"
            name={name}
            value={way}
            checked={via === way}
            onChange={() => onChange(way)}
          />
          {words}
        </label>
      ))}
    </fieldset>
  );
}
