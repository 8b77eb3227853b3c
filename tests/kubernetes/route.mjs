// Holds an HTTPRoute to the Gateway API: values by the schemas, names of fields by the types, which the
// schemas leave open. Runs beside its node_modules.
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { HTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1";

const here = new URL(".", import.meta.url).pathname;

/** What is wrong with a route; nothing if nothing is. */
function faults(route) {
  try {
    new HTTPRoute(route).validate();
  } catch (error) {
    return error.message;
  }
  const file = `${here}route.ts`;
  writeFileSync(
    file,
    `import type { IHTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1";
export const route: IHTTPRoute = ${JSON.stringify(route, null, 1)};\n`,
  );
  const options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler"];
  try {
    execFileSync(process.execPath, [`${here}node_modules/typescript/bin/tsc`, ...options, file], { encoding: "utf8" });
  } catch (error) {
    return error.stdout;
  }
  return "";
}

const route = JSON.parse(readFileSync(process.argv[2], "utf8"));
const found = faults(route);
if (found) {
  console.error(`route: ${found}`);
  process.exit(1);
}
// A check that lets these through checks nothing.
const changes = {
  "a field that is not there": (rule) => (rule.timeout = { request: "1s" }),
  "a duration that is none": (rule) => (rule.timeouts.request = "15 minutes"),
};
for (const [name, change] of Object.entries(changes)) {
  const other = structuredClone(route);
  change(other.spec.rules[0]);
  if (!faults(other)) {
    console.error(`route: ${name} was not noticed`);
    process.exit(1);
  }
}
