// A real browser for the page's tests, and made-up answers where the model's own won't do.
//
// Packages are looked up beside the current folder, not beside this file. The browser is Debian's Chromium, or
// with PAGE_BROWSER=firefox Debian's Firefox ESR, which speaks WebDriver BiDi: Playwright 1.54 is the last release
// that needs no command which that Firefox lacks.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { createServer, request } from "node:http";
import { pathToFileURL } from "node:url";
import assert from "node:assert/strict";
import { chunks } from "./answer.mjs";

const require = createRequire(pathToFileURL(`${process.cwd()}/`));
/** Whether Firefox is driven. */
export const isFirefox = process.env.PAGE_BROWSER === "firefox";
const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

/**
 * Serves the daemon at another address, with a policy that lets Firefox's debugger evaluate the tests' own
 * functions in the page. That the real policy holds is tested in Chromium, whose debugger it does not bind.
 */
async function relayed(address) {
  const server = createServer((asked, answer) => {
    const { host, origin, ...headers } = asked.headers;
    const onward = request(new URL(asked.url, address), { method: asked.method, headers }, (got) => {
      const policy = got.headers["content-security-policy"]?.replace("script-src", "script-src 'unsafe-eval'");
      answer.writeHead(got.statusCode, { ...got.headers, ...(policy && { "content-security-policy": policy }) });
      got.pipe(answer);
    });
    onward.on("error", () => answer.destroy());
    asked.pipe(onward);
  });
  await new Promise((listening) => { server.listen(0, "127.0.0.1", listening); });
  return `http://127.0.0.1:${server.address().port}`;
}

export const base = isFirefox ? await relayed(process.argv[2]) : process.argv[2];
export const SHOTS = process.env.SCREENSHOTS ?? null;

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync"];

function launch() {
  if (!isFirefox) return require("playwright-core").chromium.launch({ executablePath: "/usr/bin/chromium", args: FLAGS });
  return require("playwright-core-bidi")._bidiFirefox.launch({ channel: "moz-firefox", executablePath: "/usr/bin/firefox-esr" });
}

/** Runs tests one after another, each with a context of its own; ends the program with their result. */
export async function run(tests, options = {}) {
  const browser = await launch();
  let failed = 0;
  for (const [name, test] of Object.entries(tests)) {
    // What a service worker fetches, the tests can't see or answer.
    const own = isFirefox ? {} : { serviceWorkers: "block", reducedMotion: "reduce" };
    const context = await browser.newContext({ viewport: { width: 1200, height: 860 }, ...own, ...options });
    context.setDefaultTimeout(30_000);
    const page = await context.newPage();
    const errors = [];
    page.on("pageerror", (error) => errors.push(error.message));
    page.on("dialog", (dialog) => {
      errors.push(`a dialog: ${dialog.message()}`);
      dialog.dismiss();
    });
    await page.addInitScript(() => {
      globalThis.refused = [];
      document.addEventListener("securitypolicyviolation", (event) => {
        // The driver's waits evaluate text, which Firefox counts since 153. Scripts that are evaluated text are
        // the driver's alone: the page may evaluate none, and what it tried would be named by its own file.
        if (decodeURIComponent(event.sourceFile).endsWith("> eval")) return;
        globalThis.refused.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
      });
    });
    try {
      await test(page, context);
      assert.deepEqual(errors, [], "no script of the page fails");
      assert.deepEqual(await page.evaluate(() => globalThis.refused), [], "nothing against the policy is tried");
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}: ${error.stack}`);
      if (SHOTS) await page.screenshot({ path: `${SHOTS}/failed-${failed}.png` }).catch(() => {});
    }
    await context.close();
  }
  await browser.close();
  process.exit(failed === 0 ? 0 : 1);
}

/** Opens the page and waits until it knows the model. */
export async function open(page) {
  await page.goto(`${base}/`);
  await page.waitForSelector("#model:not(:empty)");
}

/** Loads the page again once it has written what it was about to write, as a user does who takes a moment. */
export async function reload(page) {
  await page.evaluate(() => new Promise((resolve, reject) => {
    const request = indexedDB.open("phi4d");
    request.onerror = () => reject(request.error);
    request.onsuccess = () => {
      // It begins when the page's own writes, which were asked for before, have ended.
      const transaction = request.result.transaction(["heads", "trees"], "readwrite");
      transaction.objectStore("heads").count();
      transaction.onabort = () => reject(transaction.error);
      transaction.oncomplete = () => {
        request.result.close();
        resolve();
      };
    };
  }));
  await page.reload();
}

/** Sets parameters by their fields. */
export async function set(page, fields) {
  await page.click("#tune");
  await page.evaluate(() => { document.querySelector(".more").open = true; });
  for (const [name, text] of Object.entries(fields)) {
    if (name === "reasoning_effort") await page.selectOption(`#p-${name}`, text);
    else await page.fill(`#p-${name}`, text);
  }
  await page.click("#parameters footer .solid");
}

/** Asks, and waits for the end of the answer. */
export async function ask(page, text) {
  await page.fill("#question", text);
  await page.press("#question", "Enter");
  await ended(page);
}

export async function ended(page) {
  await page.waitForSelector("#stop", { state: "hidden" });
  await page.waitForSelector(".group:last-child .message.assistant:last-child[data-state=done]");
}

export const answers = (page) => page.$$eval(".message.assistant", (all) => all.map((one) => one.querySelector(":scope .prose:not(.thought-text)").textContent));

/** Answers all questions with this answer of `answer.mjs`, and keeps what was asked. */
export async function answering(page, answer) {
  const asked = [];
  const body = chunks(answer).join("");
  await page.route("**/v1/chat/completions", (route) => {
    asked.push(route.request().postDataJSON());
    return route.fulfill({ status: 200, contentType: "text/event-stream", body });
  });
  return asked;
}

/** What axe-core finds wrong, in words. It is run by the debugger, which the page's policy does not hold. */
export async function faults(page) {
  await page.evaluate(AXE);
  const found = await page.evaluate(() => globalThis.axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  }));
  return found.violations.map((one) => `${one.id}: ${one.nodes.map((node) => `${node.target} ${node.failureSummary}`).join("; ")}`);
}

export async function shot(page, name) {
  if (SHOTS) await page.screenshot({ path: `${SHOTS}/${name}.png` });
}
