// A stand-in for the console's server, with made-up data, to develop the pages against.
//
//   node dev/fixture.mjs [--port 8460] [--scenario NAME]
//
// Scenarios: live (default), equal, broken, empty, read-only, gateway-down, no-session.
// It also serves the built pages, so that a build can be looked at without Vite.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    port: { type: "string", default: "8460" },
    scenario: { type: "string", default: "live" },
  },
});
const here = dirname(fileURLToPath(import.meta.url));
const built = join(here, "..", "..", "src", "counterfoil", "console", "static");
const scenario = options.scenario;
const KEY = "fixture";
const STEPS = ["accepted", "posted", "stored", "reported"];
const started = Date.now() / 1000;
const LETTERS = 250;
const replayed = new Map();
const discarded = new Map();
const replacements = new Map();
const audits = [];
const held = new Map();
let draining = false;
let version = 2;

const server = createServer(async (request, response) => {
  const url = new URL(request.url ?? "/", "http://fixture");
  try {
    if (url.pathname === "/api/session") return await openSession(request, response);
    if (url.pathname.startsWith("/api/")) return answerApi(request, response, url);
    if (url.pathname.startsWith("/reports/")) {
      return send(response, 200, "day,revenue\n1997-01-01,12.34\n", "text/csv");
    }
    return await sendFile(response, url.pathname);
  } catch (error) {
    return problem(response, 500, "The fixture failed", String(error));
  }
});
server.listen(Number(options.port), "127.0.0.1", () => {
  console.log(`http://127.0.0.1:${options.port}/#key=${KEY}  (${scenario})`);
});

async function openSession(request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  if (JSON.parse(Buffer.concat(chunks).toString()).key !== KEY) {
    return problem(response, 401, "This key is not the one of this run", "");
  }
  response.setHeader("Set-Cookie", "session=fixture; HttpOnly; SameSite=Strict; Path=/");
  return send(response, 204, "");
}

function answerApi(request, response, url) {
  const signedIn = (request.headers.cookie ?? "").includes("session=fixture");
  if (scenario === "no-session" && !signedIn) {
    return problem(response, 401, "No session", "Open the address that counterfoil up printed.");
  }
  const [, , area, first, second] = url.pathname.split("/").map(decodeURIComponent);
  const empty = scenario === "empty";
  switch (area) {
    case "overview":
      return json(response, overview());
    case "processes":
      return json(response, processLog(first));
    case "trace":
      return json(response, { identity: first, steps: empty ? [] : steps(first) });
    case "dead-letters":
      if (request.method === "POST") return letterAct(request, response, first, second);
      if (first === "waiting") return json(response, empty ? [] : waiting());
      if (first) return oneLetter(response, first);
      return json(response, empty ? [] : deadLetters(url.searchParams));
    case "lag":
      return json(response, empty ? [] : lag());
    case "topics":
      return json(response, topics(empty));
    case "sagas":
      if (first) return oneSaga(response, first);
      return json(response, sagas(empty, url.searchParams));
    case "tasks":
      return json(response, empty ? [] : tasks());
    case "reports":
      if (first) return json(response, report(first));
      return json(response, empty ? [] : [summary()]);
    case "gateway":
      if (request.method === "POST") return gatewayAct(request, response, first);
      if (first === "reload") return json(response, dryRun());
      if (empty || scenario === "gateway-down") {
        return problem(response, 503, "The gateway can't be asked", "Nothing listens there.");
      }
      return json(response, gateway());
    case "coordination":
      if (empty) return problem(response, 503, "The coordination node can't be asked", "");
      return json(response, coordination());
    case "proof":
      return json(response, empty ? null : proof());
    default:
      return problem(response, 404, "There is no such address", url.pathname);
  }
}

function rateAt(second) {
  return Math.max(0, 620 + 240 * Math.sin(second / 11) + 130 * Math.sin(second / 3.1));
}

function acceptedAt(second) {
  const since = second - started + 90;
  return Math.floor(48_000 + 620 * since + 240 * 11 * (1 - Math.cos(since / 11)));
}

function overview() {
  const now = Date.now() / 1000;
  const base = {
    application: "shop",
    folder: "examples/shop",
    state_folder: "examples/shop/.counterfoil",
    read_only: scenario === "read-only",
  };
  if (scenario === "empty") {
    const history = Object.fromEntries(["seconds", ...STEPS].map((name) => [name, []]));
    const nothing = { under_way_seconds: 0, way: [], gateway: null, history, processes: [] };
    return { ...base, state: "unknown", matches: false, ...looked(null), ...nothing };
  }
  const still = scenario !== "live" && scenario !== "gateway-down";
  const lags = still ? [0, 0, 0, 0] : [0, 0.05, 0.9, 2.1];
  const counts = lags.map((lag) => (still ? 69_659 : acceptedAt(now - lag)));
  if (scenario === "broken") {
    counts[2] -= 3;
    counts[3] -= 3;
  }
  const way = STEPS.map((step, index) => ({
    step,
    count: counts[index],
    amount: Math.round(counts[index] * 3589.3),
    per_second: still ? 0 : rateAt(now - lags[index]),
    behind: counts[0] - counts[index],
  }));
  const seconds = Array.from({ length: 120 }, (_, index) => Math.floor(now) - 119 + index);
  const history = { seconds };
  STEPS.forEach((step, index) => {
    history[step] = seconds.map((second) => Math.round(rateAt(second - [0, 0, 2, 3][index])));
  });
  const blind = scenario === "blind";
  const stands = still ? "equal" : "under way";
  const state = scenario === "broken" ? "broken" : blind ? "unknown" : stands;
  return {
    ...base,
    state,
    matches: true,
    ...(blind ? looked(41.2, "StoreUnavailable: PostgreSQL does not answer") : looked(0.4)),
    under_way_seconds: state === "equal" ? 0 : state === "broken" ? 41.2 : 2.1,
    way,
    gateway: { requests: counts[0] + 412, p50_ms: 4.21, p99_ms: 38.7 },
    history,
    processes: processes(now),
  };
}

function looked(ago, trouble = "") {
  return { looked_seconds_ago: ago, trouble };
}

function processLog(name) {
  const lines = Array.from({ length: 500 }, (_, line) =>
    JSON.stringify({ event: "committed", process: name, events: line, level: "info" }),
  );
  return {
    path: `examples/shop/.counterfoil/logs/${name}.log`,
    size: 812_004,
    lines,
    is_whole: false,
  };
}

function processes(now) {
  const names = [
    ["coordination", "coordination", "127.0.0.1:8450"],
    ["issuer", "issuer", "127.0.0.1:8455"],
    ["payments-1", "service", "127.0.0.1:40113"],
    ["payments-2", "service", "127.0.0.1:40117"],
    ["relay-payments-1", "relay", "leads with token 3"],
    ["relay-payments-2", "relay", ""],
    ["pipeline-ledger", "pipeline", ""],
    ["lake", "lake", ""],
    ["reports", "reports", ""],
    ["gateway", "gateway", "127.0.0.1:8443"],
  ];
  return names.map(([name, kind, detail], index) => ({
    name,
    kind,
    state: name === "payments-2" ? "restarting" : "ready",
    pid: name === "payments-2" ? null : 4100 + index * 7,
    restarts: name === "payments-2" ? 3 : name === "relay-payments-1" ? 1 : 0,
    since: name === "payments-2" ? now - 0.7 : started - 4_000 + index,
    detail: name === "payments-2" ? "ended with status -9" : detail,
    trouble: name === "relay-payments-2" ? "the topic payments is not there" : "",
  }));
}

function steps(identity) {
  if (identity === "unknown") return [];
  const id = "1234567890123456789";
  const at = (fraction) => `2026-03-01 12:30:${fraction}`;
  const all = [
    [
      "request",
      at("05.120114"),
      "gateway, request 01JNA8",
      "POST /payments answered 503 by payments-2 after 2 attempts, 31.0 ms",
    ],
    [
      "request",
      at("05.402871"),
      "gateway, request 01JNA9",
      "POST /payments answered 201 by payments-1 after 1 attempts, 6.3 ms",
    ],
    ["row", at("05.405101"), "payments.sqlite, payments", `id ${id}, tenant aurora`],
    ["outbox", at("05.405101"), "payments.sqlite", "position 41872"],
    ["log", at("05.417745"), "topic payments", "partition 3, offset 10466"],
    [
      "ledger",
      at("05.431208"),
      "transfer 1234567890123456789",
      "debit customer/18237, credit tenant/aurora: 2996 USD (minor units)",
    ],
    ["lake", at("06.288410"), "day=1998-02-11/part-00007-3f0c1f6e.parquet", "version 212"],
    [
      "report",
      at("07.602377"),
      "daily/totals.csv, line 1998-02-11",
      "93 worth 331544 (minor units) on this day",
    ],
  ];
  const letter = [
    "dead letter",
    at("05.431208"),
    "dead letter 7 of ledger",
    "waits for a decision: AccountClosed: tenant/aurora",
    "7",
  ];
  const known = identity === "7-41872" ? [...all.slice(0, 5), letter] : all;
  return known.map(([name, time, where, what, number = null]) => ({
    name,
    time,
    where,
    what,
    letter: number,
  }));
}

function deadLetters(asked) {
  const fresh = Math.floor((Date.now() / 1000 - started) / 15);
  const letters = Array.from({ length: LETTERS + fresh }, (_, index) => {
    const id = String(index + 1);
    const ledger = index % 3 !== 1;
    return {
      id,
      pipeline: ledger ? "ledger" : "mail",
      topic: "payments",
      partition: index % 4,
      offset: 9_000 + index * 31,
      event_id: String(1234567890123456000n + BigInt(index * 7)),
      key: String(18_000 + index),
      value: ledger
        ? `{"id":${1234567890123456000n + BigInt(index * 7)},"tenant":"aurora","customer":"${18_000 + index}","day":"1998-02-11","amount":2996,"currency":"EUR","discs":2}`
        : "\u0000\u0001not json",
      headers: { "idempotency-key": `7-${41_872 + index}`, tenant: "aurora", tier: "gold" },
      error: ledger
        ? "LedgerError: account customer/18000 holds USD, not EUR"
        : "DecodeError: JSON is malformed: invalid character (byte 0)",
      traceback:
        'Traceback (most recent call last):\n  File "pipeline.py", line 118, in handle\n    self._handler(event, context)\n  File "shop.py", line 88, in post\n    context.ledger.transfer(\ncounterfoil.events.errors.LedgerError: account customer/18000 holds USD, not EUR\n',
      tries: 5,
      failed_us: Math.floor((started - 9_000 + index * 800) * 1e6),
      replayed_us: replayed.get(id) ?? (index === 4 ? Math.floor((started - 600) * 1e6) : null),
      discarded_us: discarded.get(id) ?? null,
      replacement: replacements.get(id) ?? null,
    };
  });
  const before = Number(asked.get("before")) || Number.POSITIVE_INFINITY;
  return letters
    .filter((letter) =>
      ["pipeline", "topic", "key"].every((n) => !asked.get(n) || letter[n] === asked.get(n)),
    )
    .filter((letter) =>
      letter.error.toLowerCase().includes((asked.get("error") ?? "").toLowerCase()),
    )
    .filter((letter) => Number(letter.id) < before)
    .filter((letter) => !asked.get("state") || stateOf(letter) === asked.get("state"))
    .reverse()
    .slice(0, Number(asked.get("limit") ?? 100));
}

function stateOf(letter) {
  if (letter.replayed_us !== null) return "replayed";
  return letter.discarded_us !== null ? "discarded" : "waiting";
}

function oneLetter(response, id) {
  const letter = deadLetters(new URLSearchParams({ limit: "1000" })).find((each) => each.id === id);
  if (!letter) return problem(response, 404, "Not Found", `there is no dead letter ${id}`);
  return json(response, { ...letter, audit: audits.filter((entry) => entry.letter === id) });
}

function waiting() {
  const letters = deadLetters(new URLSearchParams({ limit: "1000", state: "waiting" }));
  return ["ledger", "mail"].map((pipeline) => {
    const found = letters.filter((letter) => letter.pipeline === pipeline);
    const times = found.map((letter) => letter.failed_us);
    const [oldest_us, newest_us] = [Math.min(...times), Math.max(...times)];
    return { pipeline, letters: found.length, oldest_us, newest_us };
  });
}

async function letterAct(request, response, first, second) {
  if (scenario === "read-only") return problem(response, 403, "This console is read-only", "");
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = JSON.parse(Buffer.concat(chunks).toString() || "{}");
  if (first === "replay") {
    const waitingOnes = deadLetters(new URLSearchParams({ ...body.selection, state: "waiting" }));
    const outcomes = waitingOnes.reverse().map((letter) => {
      if (letter.id === "7") return { letter: "7", result: "failed", detail: letter.error };
      settle(replayed, letter.id, "replay", `to ${letter.pipeline}.retries`);
      return { letter: letter.id, result: "done", detail: `in the retries of ${letter.pipeline}` };
    });
    return json(response, { outcomes, after: "0", last: "0", ended: true });
  }
  if (first === "2") {
    return problem(response, 409, "Conflict", "dead letter 2 was replayed before");
  }
  switch (second) {
    case "edit":
      if (!body.value.includes('"amount"')) {
        const missing = "Object missing required field `amount`";
        return problem(
          response,
          422,
          "Unprocessable Entity",
          `not an event of payments: ${missing}`,
        );
      }
      replacements.set(first, body.value);
      audit(first, "edit", "", body.value);
      return send(response, 204, "");
    case "try":
      return json(response, tried(first));
    case "replay":
      settle(replayed, first, body.via === "handler" ? "handle" : "replay", "1 transfer");
      return json(response, { said: body.via === "handler" ? "1 transfer" : "in the retries" });
    default:
      settle(discarded, first, "discard", body.reason);
      return send(response, 204, "");
  }
}

function tried(id) {
  const nothing = { transfers: [], emitted: [], state: [], written: [] };
  if (!replacements.has(id)) {
    const error = "LedgerError: account customer/18000 holds USD, not EUR";
    return { said: error, error, traceback: "Traceback", ...nothing };
  }
  const sides = { debit: "customer/18000", credit: "tenant/aurora" };
  const transfer = { id: "1234567890123456000", ...sides, amount: 2996, currency: "USD" };
  const transfers = [{ ...transfer, code: "payment" }];
  return { said: "1 transfer", error: null, traceback: "", ...nothing, transfers };
}

function settle(places, id, action, detail) {
  places.set(id, Date.now() * 1000);
  audit(id, action, detail, null);
}

function audit(letter, action, detail, value) {
  const entry = { id: String(audits.length + 1), letter, at_us: Date.now() * 1000 };
  audits.unshift({ ...entry, actor: "console", action, detail, value });
}

function lag() {
  return ["ledger", "lake", "mail"].flatMap((group, number) =>
    [0, 1, 2, 3].map((partition) => {
      const end = 17_000 + partition * 211 + Math.floor((Date.now() / 1000 - started) * 40);
      const behind = number === 2 ? 4_211 + partition : number * 37;
      return { group, topic: "payments", partition, committed: end - behind, end, lag: behind };
    }),
  );
}

function topics(empty) {
  if (empty) return { topics: [], consumers: [], hot_keys: [], transactions: [], trouble: "" };
  const ends = [17_411, 17_622, 48_833, 18_044];
  const records = ends.reduce((sum, end) => sum + end, 0);
  const partitions = ends.map((end, partition) => ({ partition, end, weight: end / records }));
  const skew = (Math.max(...ends) * ends.length) / records;
  const consumers = lag().map((each) => {
    const late = each.lag > 1_000;
    const rates = { per_second: late ? 35 : 92.4, arriving_per_second: 40 };
    return { ...each, ...rates, catch_up_seconds: late ? null : each.lag / 52.4 };
  });
  const partitionsOpen = ["shop.payments/2"];
  const open = { age_seconds: 12.4, timeout_seconds: 30, partitions: partitionsOpen };
  const ended = { age_seconds: null, timeout_seconds: 30, partitions: [] };
  const transactions = [
    { id: "shop.payments", state: "open", holder: "producer 12, epoch 3", ...open },
    { id: "shop._pipelines", state: "committed", holder: "producer 13, epoch 41", ...ended },
  ];
  const named = [{ name: "payments", records, skew, partitions }];
  return { topics: named, consumers, hot_keys: hotKeys(), transactions, trouble: "" };
}

function hotKeys() {
  const hot_keys = [
    { key: "customer/18237", share: 0.41, error: 0.002, waiting: 812 },
    { key: "customer/7", share: 0.03, error: 0.002, waiting: 4 },
    { key: "customer/91", share: 0.021, error: 0.004, waiting: 0 },
  ];
  const told = { at_us: Date.now() * 1000 - 3_000_000, stale: false, held: 1_041, hot_keys };
  return [{ pipeline: "notify", behind: 4_211, ...told }];
}

function sagas(empty, asked) {
  if (empty) return { sagas: [], next: null, open: {} };
  const statuses = ["running", "completed", "compensated", "stuck", "completed", "compensating"];
  const all = Array.from({ length: 60 }, (_, index) => saga(60 - index, statuses[index % 6]));
  const fitting = all
    .filter((each) => !asked.get("saga") || each.saga === asked.get("saga"))
    .filter((each) => !asked.get("status") || each.status === asked.get("status"));
  const from = Number(asked.get("before") || 0);
  const open = { ordering: { running: 10, compensating: 10, stuck: 10 }, charging: {} };
  return {
    sagas: fitting.slice(from, from + 25).map((each) => ({ ...each, timeline: [] })),
    next: from + 25 < fitting.length ? String(from + 25) : null,
    open: from === 0 ? open : null,
  };
}

function saga(number, status) {
  const started_us = Math.floor((started - 4_000 + number * 60) * 1e6);
  const lines = [
    ["reserve", "do", "done", 1, "", 0.2],
    ["charge", "do", "asked", 1, "", 0.4],
    ["charge", "do", "done", 1, "", 3.1],
    ["ship", "do", "failed", 1, "TimeoutError: the carrier does not answer", 3.4],
    ["ship", "do", "failed", 2, "TimeoutError: the carrier does not answer", 5.4],
  ];
  const back = [
    ["ship", "do", "refused", 3, "StepFailed: no carrier goes there", 9.4],
    ["charge", "undo", "failed", 1, "ValueError: the charge was settled", 9.6],
  ];
  if (status === "completed") lines.push(["ship", "do", "done", 3, "", 9.4]);
  if (status === "compensated") {
    lines.push(...back, ["charge", "undo", "done", 2, "", 11.6]);
    lines.push(["reserve", "undo", "done", 1, "", 11.7]);
  }
  if (status === "stuck" || status === "compensating") lines.push(...back);
  if (status === "stuck") {
    lines.push(["charge", "undo", "stuck", 2, "ValueError: the charge was settled", 11.6]);
  }
  const [step] = lines.at(-1);
  const ended = status === "completed" || status === "compensated";
  return {
    saga: "ordering",
    id: String(1234567890123450000n + BigInt(number)),
    style: "orchestration",
    status,
    step,
    key: `customer/${18_000 + number}`,
    error: lines.findLast((line) => line[4])?.[4] ?? "",
    tries: status === "running" ? 2 : 0,
    waiting: false,
    wake_us: ended || status === "stuck" ? null : (Date.now() + 4_000) * 1000,
    deadline_us: started_us + 3_600_000_000,
    started_us,
    ended_us: ended ? started_us + Math.floor(lines.at(-1)[5] * 1e6) : null,
    timeline: lines.map(([name, direction, outcome, attempt, error, seconds]) => ({
      step: name,
      direction,
      outcome,
      attempt,
      error,
      at_us: started_us + Math.floor(seconds * 1e6),
    })),
  };
}

function oneSaga(response, id) {
  const number = Number(BigInt(id) - 1234567890123450000n);
  const statuses = ["running", "completed", "compensated", "stuck", "completed", "compensating"];
  const found = number >= 1 && number <= 60 ? saga(number, statuses[(60 - number) % 6]) : null;
  if (!found) return problem(response, 404, "Not Found", `there is no saga ${id}`);
  return json(response, [found]);
}

function tasks() {
  const idle = { waiting: 0, delayed: 0, at_work: 0, dead: 0, oldest_seconds: null };
  return [
    {
      queue: "images",
      waiting: 1_204,
      delayed: 31,
      at_work: 8,
      dead: 2,
      oldest_seconds: 412.2,
      by_priority: { high: 4, normal: 1_100, low: 100 },
    },
    { queue: "letters", ...idle, by_priority: { high: 0, normal: 0, low: 0 } },
  ];
}

function summary() {
  return {
    name: "daily",
    title: "Purchases by day",
    version: 212,
    published_us: Date.now() * 1000 - 1_800_000,
    days: 366,
    unread: scenario === "broken" ? 3 : 0,
    sections: ["totals", "tenants", "top_customers"],
  };
}

function report(name) {
  const days = Array.from({ length: 366 }, (_, index) =>
    new Date(Date.UTC(1997, 0, 1 + index)).toISOString().slice(0, 10),
  );
  const purchases = (index) =>
    Math.round(40 + 220 * Math.exp(-index / 60) + 18 * Math.sin(index / 2) + ((index * 37) % 23));
  const totals = days.map((day, index) => {
    const count = purchases(index);
    return [
      day,
      count,
      count * 3_589 + ((index * 7_919) % 9_973),
      count * 2 + (index % 7),
      count - (index % 11),
    ];
  });
  const tenants = days.flatMap((day, index) =>
    ["aurora", "borealis", "cascade", "delta"].map((tenant, number) => [
      day,
      tenant,
      Math.ceil(purchases(index) / (number + 3)),
      purchases(index) * 900 + number * 3,
    ]),
  );
  return {
    ...summary(),
    name,
    letters: "lake.payments",
    amounts: ["revenue"],
    sections: [
      {
        name: "totals",
        columns: ["day", "purchases", "revenue", "discs", "customers"],
        rows: totals,
        one_a_day: true,
      },
      {
        name: "tenants",
        columns: ["day", "tenant", "purchases", "revenue"],
        rows: tenants,
        one_a_day: false,
      },
    ],
    days_left_out: 12,
    corrected: {
      "1997-03-14": "41 payments of this day were stored after it was published",
      "1997-12-30": "2 payments of this day were stored after it was published",
    },
  };
}

function gateway() {
  const now = Date.now() / 1000;
  return {
    limits: [
      { name: "tenant", allowed: acceptedAt(now), refused: 412, keys: 4 },
      { name: "address", allowed: acceptedAt(now), refused: 0, keys: 19 },
    ],
    services: [
      {
        name: "payments",
        in_flight: Math.round(70 + 60 * Math.sin(now)),
        limit: 256,
        endpoints: [
          endpoint("payments-1", "127.0.0.1:40113", "closed", "nothing has happened yet"),
          endpoint("payments-2", "127.0.0.1:40117", "open", "5 failures in a row"),
        ],
      },
    ],
    routes: [
      {
        path: "/payments",
        answers: [0, acceptedAt(now), 0, 409, 3],
        latency_us: { p50: 8000, p99: 64000 },
      },
    ],
    cache: {
      entries: 1_411,
      bytes: 21_000_000,
      capacity_bytes: 67_108_864,
      evictions: 12,
      hit_rate: 0.93,
    },
    shared_limits: null,
    configuration: { version, loaded_us: (now - 3600) * 1_000_000, refused: null },
    requests: acceptedAt(now) + 412,
    p50_ms: 4.21,
    p99_ms: 38.7,
    draining,
  };
}

function endpoint(instance, address, breaker, reason) {
  const mode = held.get(instance) ?? "auto";
  return {
    instance,
    address,
    breaker: mode === "auto" ? breaker : mode,
    breaker_held: mode !== "auto",
    breaker_reason: mode === "auto" ? reason : `held ${mode} by an operator`,
    breaker_changed_seconds: 41.2,
    tls_trouble: null,
    health: breaker === "open" ? "unhealthy" : "healthy",
    health_trouble: breaker === "open" ? "no answer within 1 s" : null,
    health_changed_seconds: 38.9,
  };
}

function dryRun() {
  const rate = { setting: "limits.tenant.rate", before: "20000.0", after: "10000.0" };
  const methods = { before: '["POST"]', after: '["POST","GET"]', needs_start: false };
  const changes = [
    { ...rate, needs_start: false },
    { setting: "routes[/payments].methods", ...methods },
  ];
  if (scenario !== "broken") {
    return { outcome: "changes", digest: "d", problem: "", changes, more: 0 };
  }
  changes.unshift({ setting: "threads", before: "1", after: "2", needs_start: true });
  const problem = "threads can't change while the gateway runs: start it again";
  return { outcome: "refused", digest: "d", problem, changes, more: 0 };
}

async function gatewayAct(request, response, act) {
  if (scenario === "read-only") return problem(response, 403, "This console is read-only", "");
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = JSON.parse(Buffer.concat(chunks).toString());
  switch (act) {
    case "drain":
      draining = body.on;
      return send(response, 204, "");
    case "breakers":
      held.set(body.instance, body.mode);
      return send(response, 204, "");
    case "purge":
      if (body.urls.some((url) => !url.includes("/"))) {
        const detail = `"${body.urls[0]}" is no address such as /items/1?page=2`;
        return problem(response, 422, "Unprocessable Entity", detail);
      }
      return json(response, { urls: body.urls.length, tags: body.tags.length, soft: body.soft });
    default:
      version += 1;
      return json(response, { version });
  }
}

function coordination() {
  return {
    instances: [
      { service: "payments", instance: "payments-1", address: "127.0.0.1:40113" },
      { service: "payments", instance: "payments-2", address: "127.0.0.1:40117" },
    ],
    leaders: [
      { name: "relay/payments", candidate: "relay-payments-1", fencing_token: 3 },
      { name: "reports/daily", candidate: "reports", fencing_token: 1 },
    ],
    machine_ids: [
      { number: 0, holder: "payments-1" },
      { number: 1, holder: "payments-2" },
    ],
  };
}

function proof() {
  const fails = scenario === "broken";
  const all = { count: 69_659, amount: 250_031_563 };
  const short = fails ? { count: 69_656, amount: 250_020_795 } : all;
  const sums = { acknowledged: all, accepted: all, gateway: all, log: all, ledger: all };
  return {
    verdict: fails ? "fails" : "holds",
    seed: 7,
    sabotage: fails ? "store-offset-first" : null,
    sent: 69_659,
    attempts: 70_114,
    acknowledged: 69_659,
    refused: 0,
    ledger: 69_659,
    lake: short.count,
    report: short.count,
    revenue: short.amount,
    sums: { ...sums, lake: short, report: short },
    faults: { kill: 13, pause: 11 },
    faulted: { service: 7, relay: 5, pipeline: 4, lake: 3, reports: 2, gateway: 3 },
    difference_count: fails ? 4 : 0,
    differences: fails
      ? [
          {
            what: "lost",
            where: "lake",
            id: "1234567890123456789",
            expected: "2996",
            found: "nothing",
          },
          {
            what: "lost",
            where: "lake",
            id: "1234567890123456803",
            expected: "3773",
            found: "nothing",
          },
          {
            what: "lost",
            where: "lake",
            id: "1234567890123456811",
            expected: "3999",
            found: "nothing",
          },
          {
            what: "different day",
            where: "report daily",
            id: "1998-02-11",
            expected: "93 worth 331544",
            found: "90 worth 320776",
          },
        ]
      : [],
    seconds: { start: 3.1, load: 92.4, drain: 4.7 },
    latency_ms: { p50: 4.9, p99: 212.4 },
  };
}

async function sendFile(response, path) {
  const types = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
  };
  const page = extname(path) === "" ? "/index.html" : normalize(path);
  try {
    const type = types[extname(page)] ?? "application/octet-stream";
    // As strict as a server could be: the pages must work under it.
    response.setHeader("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'");
    return send(response, 200, await readFile(join(built, page)), type);
  } catch {
    return send(response, 404, "There is no such file. Was it built?", "text/plain");
  }
}

function problem(response, status, title, detail) {
  const body = JSON.stringify({ type: "about:blank", status, title, detail });
  return send(response, status, body, "application/problem+json");
}

function json(response, body) {
  return send(response, 200, JSON.stringify(body), "application/json");
}

function send(response, status, body, type = "text/plain") {
  response.writeHead(status, { "Content-Type": type, "Cache-Control": "no-store" });
  response.end(body);
}
