import type { ReactNode } from "react";
import { Command } from "./Command";

interface Props {
  title: string;
  /** What fills this place. */
  command?: string;
  children?: ReactNode;
}

export function Empty({ title, command, children }: Props) {
  return (
    <div className="empty">
      <p className="empty-title">{title}</p>
      {children && <p>{children}</p>}
      {command && (
        <p>
          <Command text={command} alone />
        </p>
      )}
    </div>
  );
}
