// Searches texts by regular expressions: objects with `pattern` and `texts` in each line of the input. Prints by
// which flags each is an expression, `u` if it can be, and what it matches.

import { readFileSync } from "node:fs";

function compiled(pattern) {
  for (const flags of ["u", ""]) {
    try {
      return new RegExp(pattern, flags);
    } catch {
      // By other flags, or none.
    }
  }
  return null;
}

for (const line of readFileSync(0, "utf8").trim().split("\n")) {
  const { pattern, texts } = JSON.parse(line);
  const expression = compiled(pattern);
  const matches = texts.map((text) => expression !== null && expression.test(text));
  console.log(JSON.stringify({ flags: expression?.flags ?? null, matches }));
}
