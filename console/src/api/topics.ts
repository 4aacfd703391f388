// The log: partitions, consumers, hot keys, transactions.

import { get } from "./http";

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

export interface Topics {
  topics: TopicView[];
  consumers: Progress[];
  hot_keys: HotKeys[];
  /** Null if they could not be asked for; `trouble` says why. */
  transactions: Transaction[] | null;
  trouble: string;
}

export const topicsApi = {
  lag: (signal: AbortSignal) => get<Lag[]>("/api/lag", signal),
  topics: (signal: AbortSignal) => get<Topics>("/api/topics", signal),
};
