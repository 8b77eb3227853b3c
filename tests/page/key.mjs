// A server that asks for a key.
//
//     key.mjs URL KEY
import assert from "node:assert/strict";
import { answers, ended, open, reload, run, set } from "./browser.mjs";

const KEY = process.argv[3];
const stored = (page) => page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }]));

async function give(page, key, keep) {
  await page.waitForSelector("#key[open]");
  await page.fill("#key-text", key);
  if (keep) await page.check("#key-keep");
  await page.click("#key .solid");
}

async function begin(page) {
  await open(page);
  await set(page, { temperature: "0" });
  await page.fill("#question", "What is 12+7?");
  await page.press("#question", "Enter");
}

await run({
  async "a wrong key is reported, a right one lets the question through and is kept nowhere"(page) {
    await begin(page);
    await give(page, "wrong", false);
    await page.waitForSelector("text=The server does not know this key");
    await give(page, KEY, false);
    await page.waitForFunction(() => document.querySelector(".message.assistant[data-state=done] .prose")?.textContent);
    await ended(page);
    assert.equal((await answers(page)).length, 1);
    assert.ok(!(await stored(page)).includes(KEY));
    await reload(page);
    await page.fill("#question", "And now?");
    await page.press("#question", "Enter");
    await page.waitForSelector("#key[open]");
    await page.click("#key .plain");
    assert.match(await page.textContent(".error"), /key/);
  },

  async "a key is kept for the tab if that is wanted, and gone with it"(page, context) {
    await begin(page);
    await give(page, KEY, true);
    await page.waitForFunction(() => document.querySelector(".message.assistant[data-state=done] .prose")?.textContent);
    const [lasting, passing] = JSON.parse(await stored(page));
    assert.ok(!JSON.stringify(lasting).includes(KEY) && JSON.stringify(passing).includes(KEY));
    await reload(page);
    await page.fill("#question", "And now?");
    await page.press("#question", "Enter");
    await page.waitForFunction(() => document.querySelectorAll(".message.assistant[data-state=done] .prose:not(:empty)").length === 2);
    const other = await context.newPage();
    await open(other);
    assert.ok(!(await stored(other)).includes(KEY));
  },
});
