import { describe, expect, it } from "vitest";
import { PROVE, typed, UP } from "./commands";

describe("a command", () => {
  it("names the application of this console", () => {
    const shop = { folder: "examples/shop", state_folder: "examples/shop/.counterfoil" };
    expect(typed(UP, shop)).toBe("counterfoil up examples/shop");
    expect(typed(PROVE, shop)).toContain("--state examples/shop/.counterfoil-proof");
  });

  it("names the state where it is not beside the application", () => {
    const run = { folder: "examples/shop", state_folder: "/tmp/run" };
    expect(typed(UP, run)).toBe("counterfoil up examples/shop --state /tmp/run");
  });

  it("says what to fill in before the application is known", () => {
    expect(typed(UP)).toBe("counterfoil up FOLDER");
  });
});
