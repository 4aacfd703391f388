// The HTTP API of the console's server, and nothing else: types, requests, errors.

import { type LetterFilter, selectionOf } from "./letters";

export type State = "equal" | "under way" | "broken";
export type StepName = "accepted" | "posted" | "stored" | "reported";

export interface WayStep {
  step: StepName;
  count: number;
  /** Minor units, as every amount here. */
  amount: number;
  per_second: number;
  behind: number;
}

export interface Process {
  name: string;
  kind: string;
  state: string;
  pid: number | null;
  restarts: number;
  /** Seconds since 1970. */
  since: number;
  detail: string;
}

export type History = { seconds: number[] } & Record<StepName, number[]>;

export interface Overview {
  application: string;
  /** Where it is, as commands name it. */
  folder: string;
  state_folder: string;
  read_only: boolean;
  state: State;
  under_way_seconds: number;
  way: WayStep[];
  gateway: { requests: number; p50_ms: number | null; p99_ms: number | null } | null;
  history: History;
  processes: Process[];
}

export interface TraceStep {
  name: string;
  /** `YYYY-MM-DD HH:MM:SS.ffffff`, UTC. */
  time: string;
  where: string;
  what: string;
}

export interface Trace {
  identity: string;
  steps: TraceStep[];
}

export interface DeadLetter {
  id: string;
  pipeline: string;
  topic: string;
  partition: number;
  offset: number;
  event_id: string;
  key: string;
  value: string;
  headers: Record<string, string>;
  error: string;
  traceback: string;
  tries: number;
  failed_us: number;
  replayed_us: number | null;
  discarded_us: number | null;
  /** What the last edit put in the place of `value`. */
  replacement: string | null;
}

export interface AuditEntry {
  id: string;
  letter: string;
  at_us: number;
  actor: string;
  action: "edit" | "replay" | "handle" | "discard";
  detail: string;
  /** The replacement that an edit has put in place. */
  value: string | null;
}

export interface AuditedLetter extends DeadLetter {
  audit: AuditEntry[];
}

/** What a handler did with a letter, or would do; or why it fails again. */
export interface Handled {
  said: string;
  error: string | null;
  traceback: string;
  transfers: {
    id: string;
    debit: string;
    credit: string;
    amount: number;
    currency: string;
    code: string;
  }[];
  emitted: { topic: string; key: string; value: string }[];
  state: { key: string; value: string | null }[];
  written: { statement: string; table: string; rows: number }[];
}

export type Via = "retries" | "handler";

export interface Outcome {
  letter: string;
  result: "done" | "failed" | "skipped";
  detail: string;
}

/** A part of a replay of many, and where the next one begins. */
export interface ReplayedPart {
  outcomes: Outcome[];
  after: string;
  last: string;
  ended: boolean;
}

export interface Waiting {
  pipeline: string;
  letters: number;
  oldest_us: number;
  newest_us: number;
}

export interface Lag {
  group: string;
  topic: string;
  partition: number;
  committed: number;
  end: number;
  lag: number;
}

export interface TopicView {
  name: string;
  /** On Kafka, markers of transactions count as well. */
  records: number;
  /** The largest partition over the mean. */
  skew: number;
  partitions: { partition: number; end: number; weight: number }[];
}

/** A consumer in one partition, with what changed between two looks. */
export interface Progress extends Lag {
  per_second: number;
  arriving_per_second: number;
  /** Null if it gets no closer to the end. */
  catch_up_seconds: number | null;
}

export interface Transaction {
  id: string;
  state: string;
  holder: string;
  age_seconds: number | null;
  timeout_seconds: number | null;
  partitions: string[];
}

/** The hot keys of a parallel pipeline, as its process has told them last. */
export interface HotKeys {
  pipeline: string;
  behind: number;
  /** Null if it has told nothing yet. */
  at_us: number | null;
  stale: boolean;
  /** Events in its memory. */
  held: number;
  /** The share of each is from `share - error` to `share`, of 1. */
  hot_keys: { key: string; share: number; error: number; waiting: number }[];
}

export type SagaStatus = "running" | "compensating" | "completed" | "compensated" | "stuck";

/** A line of a timeline. */
export interface Happening {
  step: string;
  /** `undo` for a compensation. */
  direction: "do" | "undo";
  outcome: string;
  attempt: number;
  error: string;
  at_us: number;
}

export interface Saga {
  saga: string;
  id: string;
  style: "orchestration" | "choreography";
  status: SagaStatus;
  /** The step that it stands at, or ended with. */
  step: string;
  key: string;
  error: string;
  tries: number;
  /** Whether somebody was asked, and has not answered yet. */
  waiting: boolean;
  /** When it goes on by itself. */
  wake_us: number | null;
  deadline_us: number | null;
  started_us: number;
  ended_us: number | null;
  /** Empty in a list. */
  timeline: Happening[];
}

export interface SagaPage {
  sagas: Saga[];
  /** Where the next page begins; null after the last. */
  next: string | null;
  /** How many of each saga are open, by status; with the first page alone. */
  open: Record<string, Partial<Record<SagaStatus, number>>> | null;
}

export interface SagaFilter {
  saga: string;
  status: string;
}

/** What a task queue holds. */
export interface TaskQueue {
  queue: string;
  waiting: number;
  delayed: number;
  at_work: number;
  /** Given up, and not decided upon. */
  dead: number;
  oldest_seconds: number | null;
  by_priority: { high: number; normal: number; low: number };
}

export interface Topics {
  topics: TopicView[];
  consumers: Progress[];
  hot_keys: HotKeys[];
  /** Null if they could not be asked for; `trouble` says why. */
  transactions: Transaction[] | null;
  trouble: string;
}

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
  sections: Section[];
  corrected: Record<string, string>;
}

export type Breaker = "closed" | "open" | "half-open";
export type Health = "healthy" | "unhealthy" | "unchecked";
/** `auto`: nobody holds it. */
export type BreakerMode = "auto" | "open" | "closed";

export interface Gateway {
  limits: { name: string; allowed: number; refused: number; keys: number }[];
  /** Null where each gateway limits alone. */
  shared_limits: {
    address: string;
    connected: boolean;
    trouble: { error: string; hint: string } | null;
  } | null;
  services: {
    name: string;
    in_flight: number;
    limit: number;
    endpoints: {
      instance: string;
      address: string;
      breaker: Breaker;
      /** Whether an operator decides over it. */
      breaker_held: boolean;
      breaker_reason: string;
      breaker_changed_seconds: number;
      /** What is wrong with it over TLS, if that is spoken and something is. */
      tls_trouble: string | null;
      /** Null where the service has no health checks. */
      health: Health | null;
      /** Why the last check failed, if it did. */
      health_trouble: string | null;
      health_changed_seconds: number | null;
    }[];
  }[];
  routes: {
    path: string;
    /** By class of status, 1xx to 5xx. */
    answers: [number, number, number, number, number];
    latency_us: { p50: number; p99: number };
  }[];
  /** Null where no route has one. */
  cache: {
    entries: number;
    bytes: number;
    capacity_bytes: number;
    evictions: number;
    /** The share of requests that no service saw, from 0 to 1. */
    hit_rate: number;
  } | null;
  /** Which configuration is in force, and why the last one isn't if it was refused. */
  configuration: { version: number; loaded_us: number; refused: string | null };
  requests: number;
  p50_ms: number | null;
  p99_ms: number | null;
  draining: boolean;
}

/** A setting that differs between what is in force and the file; values are JSON. */
export interface SettingChange {
  setting: string;
  before: string | null;
  after: string | null;
  needs_start: boolean;
}

/** What a reload would do. */
export interface DryRun {
  outcome: "changes" | "nothing" | "refused";
  /** Of what was looked at: a reload names it. */
  digest: string;
  problem: string;
  changes: SettingChange[];
  /** Changes beyond those. */
  more: number;
}

export interface Purge {
  urls: string[];
  tags: string[];
  /** Stale, and not gone. */
  soft: boolean;
}

export interface Coordination {
  instances: { service: string; instance: string; address: string }[];
  leaders: { name: string; candidate: string; fencing_token: number }[];
  machine_ids: { number: number; holder: string }[];
}

export interface Difference {
  what: string;
  where: string;
  id: string;
  expected: string;
  found: string;
}

export interface Verdict {
  verdict: "holds" | "fails";
  seed: number;
  sabotage: string | null;
  sent: number;
  attempts: number;
  acknowledged: number;
  refused: number;
  ledger: number;
  lake: number;
  report: number;
  revenue: number;
  sums: Record<string, { count: number; amount: number }>;
  faults: Record<string, number>;
  faulted: Record<string, number>;
  difference_count: number;
  differences: Difference[];
  seconds: Record<string, number>;
  latency_ms: Record<string, number>;
}

/** The server answered, but not with what was asked for. */
export class ApiError extends Error {
  readonly status: number;
  readonly detail: string;

  constructor(status: number, title: string, detail: string) {
    super(title);
    this.name = "ApiError";
    this.status = status;
    this.detail = detail;
  }
}

/** What went wrong, in a sentence for people. */
export function saidBy(error: Error): string {
  if (!(error instanceof ApiError)) return "The server did not answer.";
  return error.detail ? `${error.message}: ${error.detail}` : `${error.message}.`;
}

/** Longer than any answer takes, shorter than a reader's patience. */
const TIMEOUT_MS = 8_000;

export const api = {
  overview: (signal: AbortSignal) => get<Overview>("/api/overview", signal),
  trace: (identity: string, signal: AbortSignal) =>
    get<Trace>(`/api/trace/${encodeURIComponent(identity)}`, signal),
  deadLetters: (filter: LetterFilter, before: string, limit: number, signal: AbortSignal) => {
    const query = new URLSearchParams({ limit: String(limit), before });
    for (const [name, value] of Object.entries(selectionOf(filter))) query.set(name, String(value));
    return get<DeadLetter[]>(`/api/dead-letters?${query}`, signal);
  },
  deadLetter: (id: string, signal: AbortSignal) => get<AuditedLetter>(letterPath(id), signal),
  waiting: (signal: AbortSignal) => get<Waiting[]>("/api/dead-letters/waiting", signal),
  edit: (id: string, value: string) => act(`${letterPath(id)}/edit`, { value }),
  discard: (id: string, reason: string) => act(`${letterPath(id)}/discard`, { reason }),
  rehearse: async (id: string) =>
    (await (await act(`${letterPath(id)}/try`, {})).json()) as Handled,
  replay: async (id: string, via: Via) =>
    (await (await act(`${letterPath(id)}/replay`, { via })).json()) as { said: string },
  replaySome: async (filter: LetterFilter, via: Via, from: Partial<ReplayedPart>) => {
    const { state: _, ...selection } = selectionOf(filter);
    const { after = "0", last = null } = from;
    const answer = await act("/api/dead-letters/replay", { selection, via, after, last });
    return (await answer.json()) as ReplayedPart;
  },
  lag: (signal: AbortSignal) => get<Lag[]>("/api/lag", signal),
  topics: (signal: AbortSignal) => get<Topics>("/api/topics", signal),
  sagas: (filter: SagaFilter, before: string, signal: AbortSignal) => {
    const query = new URLSearchParams({ ...filter, before });
    return get<SagaPage>(`/api/sagas?${query}`, signal);
  },
  saga: (id: string, signal: AbortSignal) =>
    get<Saga[]>(`/api/sagas/${encodeURIComponent(id)}`, signal),
  tasks: (signal: AbortSignal) => get<TaskQueue[]>("/api/tasks", signal),
  reports: (signal: AbortSignal) => get<ReportSummary[]>("/api/reports", signal),
  report: (name: string, signal: AbortSignal) =>
    get<Report>(`/api/reports/${encodeURIComponent(name)}`, signal),
  gateway: (signal: AbortSignal) => get<Gateway>("/api/gateway", signal),
  drain: async (on: boolean) => {
    await act("/api/gateway/drain", { on });
  },
  holdBreaker: async (service: string, instance: string, mode: BreakerMode) => {
    await act("/api/gateway/breakers", { service, instance, mode });
  },
  purge: async (purge: Purge) =>
    (await (await act("/api/gateway/purge", purge)).json()) as { urls: number; tags: number },
  dryRun: async () => (await (await send("/api/gateway/reload", {})).json()) as DryRun,
  reload: async (digest: string) =>
    (await (await act("/api/gateway/reload", { digest })).json()) as { version: number },
  coordination: (signal: AbortSignal) => get<Coordination>("/api/coordination", signal),
  proof: (signal: AbortSignal) => get<Verdict | null>("/api/proof", signal),
  openSession: async (key: string) => {
    await act("/api/session", { key });
  },
};

function letterPath(id: string): string {
  return `/api/dead-letters/${encodeURIComponent(id)}`;
}

function act(path: string, body: object): Promise<Response> {
  return send(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

/** Addresses of the published files, for links. */
export function reportFile(name: string, file: string): string {
  return `/reports/${encodeURIComponent(name)}/${encodeURIComponent(file)}`;
}

async function get<T>(path: string, signal: AbortSignal): Promise<T> {
  const answer = await send(path, { signal });
  return (await answer.json()) as T;
}

async function send(path: string, request: RequestInit): Promise<Response> {
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  const signal = request.signal ? AbortSignal.any([request.signal, timeout]) : timeout;
  const answer = await fetch(path, { ...request, signal, credentials: "same-origin" });
  if (!answer.ok) throw await problem(answer);
  return answer;
}

async function problem(answer: Response): Promise<ApiError> {
  let title = `The server answered ${answer.status}`;
  let detail = "";
  try {
    const body: unknown = await answer.json();
    if (typeof body === "object" && body !== null) {
      if ("title" in body && typeof body.title === "string") title = body.title;
      if ("detail" in body && typeof body.detail === "string") detail = body.detail;
    }
  } catch {
    // No problem document: the status says it all.
  }
  return new ApiError(answer.status, title, detail);
}
