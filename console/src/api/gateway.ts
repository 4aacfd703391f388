// The gateway as it is, and its switches.

import { act, get, send } from "./http";

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

export const gatewayApi = {
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
};
