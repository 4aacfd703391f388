// Reports, as they were published.

import { get } from "./http";

export interface ReportSummary {
  name: string;
  title: string;
  version: number;
  published_us: number;
  days: number;
  /** Events that could not be read, and are in no row. */
  unread: number;
  sections: string[];
}

export type Cell = string | number | null;

export interface Section {
  name: string;
  columns: string[];
  rows: Cell[][];
  one_a_day: boolean;
}

export interface Report {
  name: string;
  title: string;
  version: number;
  published_us: number;
  /** Events that could not be read, and are in no row. */
  unread: number;
  /** Whose dead letters they are: the table's name among the pipelines. */
  letters: string;
  amounts: string[];
  /** Older days than those here, which the files have. */
  days_left_out: number;
  sections: Section[];
  corrected: Record<string, string>;
}

export const reportsApi = {
  reports: (signal: AbortSignal) => get<ReportSummary[]>("/api/reports", signal),
  report: (name: string, signal: AbortSignal) =>
    get<Report>(`/api/reports/${encodeURIComponent(name)}`, signal),
};

/** Addresses of the published files, for links. */
export function reportFile(name: string, file: string): string {
  return `/reports/${encodeURIComponent(name)}/${encodeURIComponent(file)}`;
}
