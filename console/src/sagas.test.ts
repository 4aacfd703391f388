import { expect, test } from "vitest";
import type { Happening } from "./api";
import { outcomeOf, sagaAddress, sagaFilterOf, sagaPlaceOf, stagesOf } from "./sagas";

function line(step: string, direction: "do" | "undo", outcome: string, attempt = 1): Happening {
  return { step, direction, outcome, attempt, error: "", at_us: 1 };
}

test("tries of a step are one stage, and its compensation is another", () => {
  const stages = stagesOf([
    line("pay", "do", "failed"),
    line("pay", "do", "done", 2),
    line("send", "do", "refused"),
    line("pay", "undo", "done"),
  ]);
  expect(stages.map(({ step, direction, tries }) => [step, direction, tries.length])).toEqual([
    ["pay", "do", 2],
    ["send", "do", 1],
    ["pay", "undo", 1],
  ]);
});

test("an outcome without words is told as it is", () => {
  expect(outcomeOf(line("pay", "do", "done"))).toEqual(["good", "done"]);
  expect(outcomeOf(line("pay", "do", "shipped"))).toEqual(["waiting", "shipped"]);
});

test("a filter survives in the address", () => {
  const filter = { saga: "ordering & more", status: "stuck" };
  const address = sagaAddress("7", filter);
  expect(address.startsWith("/sagas/7?")).toBe(true);
  expect(sagaFilterOf(address.slice(address.indexOf("?")))).toEqual(filter);
  expect(sagaAddress("", { saga: "", status: "" })).toBe("/sagas");
});

test("a page has an address of its own, which is no filter", () => {
  const filter = { saga: "", status: "stuck" };
  const address = sagaAddress("", filter, "5-7-ordering");
  expect(address).toBe("/sagas?status=stuck&before=5-7-ordering");
  const search = address.slice(address.indexOf("?"));
  expect([sagaPlaceOf(search), sagaFilterOf(search)]).toEqual(["5-7-ordering", filter]);
});
