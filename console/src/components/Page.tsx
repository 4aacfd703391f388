import { useQuery } from "@tanstack/react-query";
import { type ReactNode, useEffect, useId, useRef } from "react";
import type { State } from "../api";
import { overviewQuery } from "../queries";
import { segments, usePath } from "../router";

interface PageProps {
  title: string;
  lead?: ReactNode;
  children: ReactNode;
}

/** What a tab that nobody looks at shows. */
const ALARMS: Partial<Record<State, string>> = { broken: "≠ ", unknown: "? " };

let shownPage: string | null = null;

/** A page with its heading, which takes the focus when one page follows another. */
export function Page({ title, lead, children }: PageProps) {
  const heading = useRef<HTMLHeadingElement>(null);
  const page = segments(usePath())[0] ?? "";
  const { data } = useQuery({ ...overviewQuery, enabled: false });
  const alarm = data?.matches ? (ALARMS[data.state] ?? "") : "";
  useEffect(() => {
    document.title = `${alarm}${title} – Counterfoil`;
  }, [alarm, title]);
  useEffect(() => {
    if (shownPage !== null && shownPage !== page) {
      heading.current?.focus({ preventScroll: true });
      window.scrollTo(0, 0);
    }
    shownPage = page;
  }, [page]);
  return (
    <>
      <div className="page-head">
        <h1 ref={heading} tabIndex={-1}>
          {title}
        </h1>
        {lead && <p className="lead">{lead}</p>}
      </div>
      {children}
    </>
  );
}

interface SectionProps {
  title: string;
  aside?: ReactNode;
  children: ReactNode;
}

export function Section({ title, aside, children }: SectionProps) {
  const id = useId();
  return (
    <section className="section" aria-labelledby={id}>
      <div className="section-head">
        <h2 id={id}>{title}</h2>
        {aside && <div className="section-aside">{aside}</div>}
      </div>
      {children}
    </section>
  );
}
