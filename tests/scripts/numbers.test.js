// The page writes every number as the terminal and the report do: one table of cases for JavaScript and Python.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { number, percent, short } from "../../lens_scopes/views/page/scripts/shared/numbers.js";

const cases = JSON.parse(readFileSync(new URL("number_cases.json", import.meta.url)));

for (const [name, format] of Object.entries({ number, short, percent })) {
  test(`${name} agrees with the shared table`, () => {
    for (const [value, text] of cases[name]) assert.equal(format(Number(value)), text, `${name}(${value})`);
  });
}

test("what JSON cannot say is said to be not finite", () => {
  assert.equal(number(null), "not finite");
  assert.equal(short(null), "nan");
});
