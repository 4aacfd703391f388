import { expect, test } from "vitest";
import type { Process } from "./api";
import { isWell, standingOf } from "./processes";

const process: Process = {
  name: "relay-payments-1",
  kind: "relay",
  state: "ready",
  pid: 1,
  restarts: 0,
  since: 1,
  detail: "leads with token 3",
  trouble: "",
};

test("a process that runs and gets no further is not well", () => {
  expect(standingOf(process)).toEqual(["good", "ready"]);
  expect(standingOf({ ...process, trouble: "no topic" })).toEqual(["alarm", "in trouble"]);
  expect(standingOf({ ...process, state: "restarting" })).toEqual(["waiting", "restarting"]);
  expect(isWell(process)).toBe(true);
  expect(isWell({ ...process, trouble: "no topic" })).toBe(false);
  expect(isWell({ ...process, state: "starting" })).toBe(false);
});
