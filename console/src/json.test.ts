import { expect, test } from "vitest";
import { indentJson } from "./json";

test("keeps every digit of a 64-bit id", () => {
  expect(indentJson('{"id":1234567890123456789,"tags":["a, b"],"none":{},"empty":[]}')).toBe(
    '{\n  "id": 1234567890123456789,\n  "tags": [\n    "a, b"\n  ],\n  "none": {},\n  "empty": []\n}',
  );
});

test("leaves strings with quotes and brackets alone", () => {
  const text = '{"said":"\\"{[:,]}\\" \\\\"}';
  expect(indentJson(text)).toBe('{\n  "said": "\\"{[:,]}\\" \\\\"\n}');
});

test("what is not JSON has no layout", () => expect(indentJson("\u0000torn {")).toBeNull());
