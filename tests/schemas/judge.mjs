// Judges answers by Ajv with ajv-formats; arguments and output as judge.py's.
//
// Schemas that Ajv does not compile are counted as skipped: those of the older drafts, and those that refer to
// what is not in them.

import { readFileSync } from "node:fs";
import process from "node:process";

import Ajv from "ajv/dist/2020.js";
import addFormats from "ajv-formats";

const [schemas, answers] = process.argv.slice(2).map((path) =>
  readFileSync(path, "utf8").trim().split("\n").map((line) => JSON.parse(line)),
);
const enforced = ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];
const compiled = new Map();

function validator(number) {
  if (!compiled.has(number)) {
    // Numbers beyond a double's range are numbers, and multiples are those of decimal fractions.
    const ajv = new Ajv({ strict: false, strictNumbers: false, multipleOfPrecision: 9, logger: false });
    addFormats(ajv, enforced);
    let validate = null;
    try {
      if (!/draft-0|2019-09/.test(schemas[number].$schema ?? "")) validate = ajv.compile(schemas[number]);
    } catch {
      // Counted below.
    }
    compiled.set(number, validate);
  }
  return compiled.get(number);
}

const seen = { valid: 0, skipped: 0, wrong: 0 };
for (const answer of answers.filter(({ end }) => end === "stop")) {
  const validate = validator(answer.schema);
  if (!validate) {
    seen.skipped += 1;
  } else if (validate(JSON.parse(answer.text))) {
    seen.valid += 1;
  } else if ((seen.wrong += 1) <= 10) {
    console.error(JSON.stringify(schemas[answer.schema]), "\n ", answer.text, "\n ", JSON.stringify(validate.errors));
  }
}
console.log(JSON.stringify(seen));
process.exit(seen.wrong ? 1 : 0);
