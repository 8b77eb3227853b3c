// Makes the pictures of the manual, in docs/images: the page in light, dark and on a phone, and the terminal.
// The answers in them are made up.
//
//     cd target/page && node ../../tests/page/pictures.mjs URL PHI4D    URL of a daemon, path of the program
import { execFileSync, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { ANSWER, chunks } from "./answer.mjs";

const [, , url, program] = process.argv;
const images = new URL("../../docs/images/", import.meta.url).pathname;
const { chromium } = createRequire(pathToFileURL(`${process.cwd()}/`))("playwright-core");
const QUESTION = "Show me why the square root of 2 is irrational, with code.";
/** Time between two pieces of the answer in the terminal, in milliseconds: the line below it shows a speed. */
const PACE = 1200;
const EARLIER = ["A haiku about a pond", "Which port does the daemon listen on?", "Summarise notes.md"];
const events = chunks({ ...ANSWER, usage: { prompt_tokens: 378, completion_tokens: 412, total_tokens: 790 } });

async function picture(browser, name, { scheme, width, height, scroll }) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, reducedMotion: "reduce", deviceScaleFactor: 1.5, serviceWorkers: "block" });
  const page = await context.newPage();
  await page.route("**/v1/chat/completions", (route) => route.fulfill({ status: 200, contentType: "text/event-stream", body: events.join("") }));
  await page.route("**/health", async (route) => {
    const answer = await route.fetch();
    await route.fulfill({ response: answer, json: { ...(await answer.json()), model: "phi-4" } });
  });
  await page.goto(url);
  await page.waitForSelector("#model:not(:empty)");
  for (const text of [...EARLIER, QUESTION]) {
    await page.click("#new");
    await page.fill("#question", text);
    await page.press("#question", "Enter");
    await page.waitForSelector(".message.assistant[data-state=done]");
  }
  await page.waitForSelector(".formula .katex");
  await page.waitForSelector(".hljs-keyword");
  await page.evaluate((top) => scrollTo(0, top), scroll);
  await page.mouse.move(5, height - 5);
  await page.evaluate(() => document.fonts.ready.then(() => true));
  await page.screenshot({ path: `${images}${name}.png` });
  await context.close();
}

/** A stand-in for a daemon with a real model, for the terminal. */
async function standIn() {
  const server = createServer(async (request, response) => {
    if (request.method === "GET") {
      response.end(JSON.stringify({ data: [{ id: "phi-4", max_model_len: 16384 }] }));
      return;
    }
    response.setHeader("content-type", "text/event-stream");
    for (const event of events) {
      response.write(event.replace('{"choices"', '{"model":"phi-4","choices"'));
      await new Promise((done) => { setTimeout(done, PACE); });
    }
    response.end();
  });
  await new Promise((listening) => { server.listen(0, "127.0.0.1", listening); });
  return server;
}

/** What `phi4d run` writes to a terminal of 84 columns. */
async function transcript() {
  const server = await standIn();
  const command = `stty cols 84 rows 60; exec ${program} run --url http://127.0.0.1:${server.address().port} '${QUESTION}'`;
  const child = spawn("script", ["--quiet", "--command", `sh -c "${command}"`, "/dev/null"], { env: { ...process.env, TERM: "xterm", NO_COLOR: "" }, stdio: ["pipe", "pipe", "inherit"] });
  let text = "";
  child.stdout.on("data", (data) => { text += data; });
  await new Promise((ended) => { child.on("close", ended); });
  server.close();
  return text;
}

/** Elements for the terminal's styles; a line that was overwritten is gone. */
function shown(text) {
  const classes = { 1: "bold", 2: "dim", 3: "italic", 4: "under", 9: "strike", 36: "code" };
  const escape = (part) => part.replace(/[&<>]/g, (sign) => `&#${sign.charCodeAt(0)};`);
  const lines = text.replaceAll("\r\n", "\n").replace(/[^\n]*\r\x1b\[K/g, "");
  return lines.split("\x1b[").map((part, at) => {
    if (at === 0) return escape(part);
    const end = part.indexOf("m");
    const style = part.slice(0, end).split(";").map((code) => classes[code] ?? "").join(" ");
    return `<span class="${style}">${escape(part.slice(end + 1))}</span>`;
  }).join("");
}

async function terminal(browser) {
  const page = await browser.newPage({ viewport: { width: 860, height: 200 }, deviceScaleFactor: 1.5 });
  const text = `$ phi4d run '${QUESTION}'\n${await transcript()}`;
  await page.setContent(`<style>
    body { margin: 0; padding: 18px 22px; width: max-content; background: #16181b; color: #d8d6d0 }
    pre { margin: 0; font: 14px/1.45 "DejaVu Sans Mono", monospace }
    .bold { font-weight: bold } .dim { opacity: .6 } .italic { font-style: italic } .under { text-decoration: underline }
    .strike { text-decoration: line-through } .code { color: #86c5ce }
  </style><pre>${shown(text)}</pre>`);
  await (await page.$("body")).screenshot({ path: `${images}terminal.png` });
}

const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu"] });
await picture(browser, "page", { scheme: "light", width: 1200, height: 800, scroll: 0 });
await picture(browser, "page-dark", { scheme: "dark", width: 1200, height: 800, scroll: 380 });
await picture(browser, "page-phone", { scheme: "light", width: 390, height: 780, scroll: 0 });
await terminal(browser);
await browser.close();
console.log(execFileSync("ls", ["-l", images], { encoding: "utf8" }), readFileSync(`${images}terminal.png`).length);
