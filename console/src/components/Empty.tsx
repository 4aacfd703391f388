import type { ReactNode } from "react";

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
          <code className="command">{command}</code>
        </p>
      )}
    </div>
  );
}
