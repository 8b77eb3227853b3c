// A conversation of 1,000 turns with code: what a token costs, and that only what is in view is drawn.
//
//     long.mjs URL
import assert from "node:assert/strict";
import { open, run } from "./browser.mjs";

const TURNS = 1000;
/** What one more token may cost, from its arrival until the next frame has been laid out, in milliseconds. */
const MOST_MS = 50;

/** Puts a long conversation into the database and opens it. */
async function openLong(page) {
  await page.evaluate(async (turns) => {
    const { Database } = await import("./page/database.js");
    const database = await Database.open();
    const nodes = [];
    let parent = null;
    const add = (role, content) => {
      const id = `n${nodes.length}`;
      nodes.push({ id, parent, role, content, state: "done" });
      parent = id;
    };
    for (let turn = 0; turn < turns; turn += 1) {
      add("user", `Question ${turn}: how is a list reversed?`);
      add("assistant", `Answer **${turn}**, with $x_{${turn}}$:\n\n\`\`\`python\ndef reverse(items):\n    # ${turn}\n    return items[::-1]\n\`\`\`\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n${"Some more words. ".repeat(20)}`);
    }
    await database.save({ id: "long", title: "Long", named: true, created: 1, nodes, leaf: parent }, true);
  }, TURNS);
  await page.reload();
  await page.waitForSelector(".row .open");
  const began = Date.now();
  await page.click(".row .open");
  await page.waitForFunction((turns) => document.querySelectorAll(".message").length === 2 * turns
    && document.querySelector(".group:last-child .hljs-keyword"), TURNS);
  return Date.now() - began;
}

/** Answers by pieces which the test sends. */
const streamed = () => {
  const { fetch } = globalThis;
  globalThis.fetch = (path, options) => {
    if (!String(path).endsWith("chat/completions")) return fetch(path, options);
    const body = new ReadableStream({
      start: (control) => {
        globalThis.comes = (content) => control.enqueue(new TextEncoder().encode(`data: ${JSON.stringify({ choices: [{ delta: { content } }] })}\n\n`));
        globalThis.ends = () => {
          control.enqueue(new TextEncoder().encode("data: [DONE]\n\n"));
          control.close();
        };
      },
    });
    return Promise.resolve(new Response(body, { status: 200 }));
  };
};

await run({
  async "a token costs little, however long the conversation is"(page) {
    await page.addInitScript(streamed);
    await open(page);
    const opening = await openLong(page);
    assert.ok(opening < 5000, `opened in ${opening} ms`);
    await page.fill("#question", "And another?");
    await page.press("#question", "Enter");
    await page.waitForFunction(() => globalThis.comes);
    const costs = await page.evaluate(async () => {
      const costs = [];
      const text = "Here is `code`:\n\n```python\ndef f(x):\n    return x + 1  # one more\n```\n\nand *words* that follow it. ";
      const pieces = text.repeat(8).match(/[\s\S]{1,4}/g);
      for (const piece of pieces) {
        // Work of the page's own since the last frame counts, waiting for the frame does not.
        performance.mark("token");
        globalThis.comes(piece);
        // The piece passes through the stream's promises, then the layout timer may be due.
        await new Promise((done) => { setTimeout(done, 0); });
        document.body.getBoundingClientRect();
        costs.push(performance.measure("token", "token").duration);
        await new Promise(requestAnimationFrame);
      }
      return costs;
    });
    const sorted = costs.toSorted((one, other) => one - other);
    const at = (share) => sorted[Math.floor(sorted.length * share)];
    console.log(`   opened ${TURNS} turns in ${opening} ms; a token: median ${at(0.5).toFixed(1)} ms, 95% ${at(0.95).toFixed(1)} ms, most ${sorted.at(-1).toFixed(1)} ms`);
    assert.ok(at(0.95) < MOST_MS, `${at(0.95)} ms`);
    await page.evaluate(() => globalThis.ends());
  },

  async "only what is near the window is drawn, the rest is there as text, and scrolling draws it"(page) {
    await open(page);
    await openLong(page);
    const drawn = () => page.$$eval(".message .code", (all) => all.length);
    assert.ok(await drawn() < 30, `${await drawn()} are drawn`);
    assert.match(await page.textContent(".message.assistant >> nth=0"), /def reverse\(items\)/, "a search in the page finds it");
    await page.evaluate(() => scrollTo(0, 0));
    await page.waitForFunction(() => document.querySelector(".message.assistant .hljs-keyword"));
    await page.waitForFunction(() => !document.querySelector(".group:last-child .code"));
    assert.ok(await drawn() < 30, `${await drawn()} are drawn`);
    await page.click('.message.user [aria-label="Edit the question"] >> nth=0');
    await page.evaluate(() => scrollTo(0, document.body.scrollHeight));
    await page.waitForFunction(() => document.querySelector(".group:last-child .code"));
    assert.equal(await page.$$eval(".rewrite", (all) => all.length), 1, "what is being edited stays");
  },
});
