import type { ReactNode } from "react";

export type Tone = "good" | "waiting" | "alarm";

/** A state in words, with a shape beside it that tells it apart without colour. */
export function Mark({ tone, children }: { tone: Tone; children: ReactNode }) {
  return (
    <span className="mark" data-tone={tone}>
      {children}
    </span>
  );
}
