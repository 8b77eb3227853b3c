// Conversations that stay: list, search, rename, delete with undo, export, import, several tabs, and what is full.
//
//     keep.mjs URL
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { answering, answers, ask, base, isFirefox, open, reload, run } from "./browser.mjs";

const titles = (page) => page.$$eval(".row .title", (all) => all.map((one) => one.textContent));
const listed = (page, expected) => page.waitForFunction((expected) => (
  JSON.stringify([...document.querySelectorAll(".row .title")].map((one) => one.textContent)) === JSON.stringify(expected)), expected);

/** A page with made-up answers, at which these questions were asked, each in a conversation of its own. */
async function asked(page, ...questions) {
  await answering(page, { content: "A made-up **answer** about otters." });
  await open(page);
  for (const [at, question] of questions.entries()) {
    if (at > 0) await page.click("#new");
    await ask(page, question);
  }
  await listed(page, questions.toReversed());
}

/** What an export button saves. */
async function exported(page, selector) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click(selector)]);
  return { name: download.suggestedFilename(), text: await readFile(await download.path(), "utf8") };
}

async function importFile(page, name, text) {
  // What was said of the file before must not be taken for what is said of this one.
  await page.evaluate(() => { document.querySelector("#toast").hidden = true; });
  await page.setInputFiles("#import-file", { name, mimeType: "application/json", buffer: Buffer.from(text) });
  await page.waitForSelector("#toast:not([hidden])");
  return page.textContent("#toast-text");
}

const tests = {
  async "a new conversation discards nothing, and a reload shows the one that was open"(page) {
    await asked(page, "First?", "Second?");
    await page.click("#new");
    assert.deepEqual(await answers(page), []);
    assert.deepEqual(await titles(page), ["Second?", "First?"]);
    await page.click(".row .open >> nth=1");
    await page.waitForSelector(".message.assistant");
    assert.equal(await page.textContent(".said"), "First?");
    await reload(page);
    await page.waitForSelector(".message.assistant");
    assert.equal(await page.textContent(".said"), "First?");
    assert.equal(await page.getAttribute(".row.current .open", "aria-current"), "true");
    await ask(page, "And more?");
    await listed(page, ["First?", "Second?"]);
  },

  async "conversations are found by their titles and by what was said in them"(page) {
    await asked(page, "First?", "Second?");
    await page.fill("#search", "fIRs");
    await listed(page, ["First?"]);
    await page.fill("#search", "otters");
    await listed(page, ["Second?", "First?"]);
    assert.match(await page.textContent(".row .aside"), /otters/);
    await page.fill("#search", "badgers");
    await listed(page, []);
    assert.equal(await page.textContent("#side-none"), "Nothing found.");
    await page.fill("#search", "");
    await listed(page, ["Second?", "First?"]);
  },

  async "a name that was given stays, by keyboard, and Escape changes nothing"(page) {
    await asked(page, "First?");
    await page.focus('.row [aria-label^="Rename"]');
    await page.keyboard.press("Enter");
    await page.keyboard.type("My name for it");
    await page.keyboard.press("Enter");
    await listed(page, ["My name for it"]);
    await page.waitForFunction(() => document.activeElement.getAttribute("aria-label") === "Rename: My name for it");
    await page.keyboard.press("Enter");
    await page.keyboard.type("Another");
    await page.keyboard.press("Escape");
    await ask(page, "And?");
    await listed(page, ["My name for it"]);
    await reload(page);
    await listed(page, ["My name for it"]);
  },

  async "what was deleted can be brought back"(page) {
    await asked(page, "First?", "Second?");
    await page.hover(".row >> nth=0");
    await page.click('.row [aria-label="Delete: Second?"]');
    await listed(page, ["First?"]);
    assert.deepEqual(await answers(page), [], "an open conversation is closed");
    await page.click("#toast-action button");
    await listed(page, ["Second?", "First?"]);
    await page.waitForSelector(".message.assistant");
    assert.equal(await page.textContent(".said"), "Second?");
    await page.hover(".row >> nth=1");
    await page.click('.row [aria-label="Delete: First?"]');
    await listed(page, ["Second?"]);
    await reload(page);
    await listed(page, ["Second?"]);
  },

  async "tabs agree: on what is new, continued, renamed and deleted"(page, context) {
    await asked(page, "First?");
    const other = await context.newPage();
    await answering(other, { content: "From the other tab." });
    await open(other);
    await listed(other, ["First?"]);
    await other.click(".row .open");
    await other.waitForSelector(".message.assistant");
    await ask(other, "Continued?");
    await page.waitForFunction(() => document.querySelectorAll(".message").length === 4);
    // Both continue at once, as branches or one after the other: neither loses anything.
    await Promise.all([ask(page, "Here?"), ask(other, "There?")]);
    const kept = () => page.evaluate(async () => {
      const { Database } = await import("./page/database.js");
      const database = await Database.open();
      const [head] = await database.heads();
      return (await database.tree(head.id)).nodes.map((node) => node.content);
    });
    let all = await kept();
    // The last answer may still be on its way to the database.
    while (all.length < 8) all = await kept();
    await reload(page);
    await page.waitForSelector(".message");
    for (const said of ["First?", "Continued?", "Here?", "There?"]) assert.ok(all.includes(said), `${all}`);
    assert.equal(all.length, 8);
    await page.hover(".row");
    await page.click('.row [aria-label^="Delete"]');
    await listed(other, []);
    await other.waitForSelector("#welcome:not([hidden])");
  },

  async "an answer goes on while another conversation is shown"(page) {
    await answering(page, { content: "At once." });
    await page.addInitScript(() => {
      const { fetch } = globalThis;
      globalThis.fetch = (path, options) => {
        if (!String(path).endsWith("chat/completions") || !options.body.includes("Slow?")) return fetch(path, options);
        const body = new ReadableStream({
          start: (control) => {
            const send = (text) => control.enqueue(new TextEncoder().encode(`data: ${text}\n\n`));
            send(JSON.stringify({ choices: [{ delta: { content: "It " } }] }));
            globalThis.complete = () => {
              send(JSON.stringify({ choices: [{ delta: { content: "went on." }, finish_reason: "stop" }] }));
              send("[DONE]");
              control.close();
            };
          },
        });
        return Promise.resolve(new Response(body, { status: 200 }));
      };
    });
    await open(page);
    await page.fill("#question", "Slow?");
    await page.press("#question", "Enter");
    await page.waitForSelector(".message.assistant[data-state=running]");
    await page.click("#new");
    await ask(page, "Quick?");
    assert.equal(await page.textContent(".row:not(.current) .aside"), "answering…");
    await page.evaluate(() => globalThis.complete());
    await page.waitForFunction(() => !document.querySelector(".row:not(.current) .aside"));
    await page.click(".row:not(.current) .open");
    await page.waitForFunction(() => document.querySelector(".message.assistant .prose")?.textContent === "It went on.");
  },

  async "a file that is not one of ours is refused, with the reason"(page) {
    await answering(page, { content: "So." });
    await open(page);
    for (const [text, reason] of [
      ["{", /is not JSON/],
      ["{}", /holds no conversations/],
      ['{"phi4d_conversations": 1, "conversations": 5}', /damaged/],
      ['{"phi4d_conversations": 1, "conversations": [{"id": "a", "messages": [{"id": "1", "parent": "2", "role": "user", "content": ""}]}]}', /has no parent/],
      ['{"phi4d_conversations": 1, "conversations": [{"id": "a", "messages": [{"id": "1", "parent": null, "role": "root", "content": ""}]}]}', /user or assistant/],
      ['{"phi4d_conversations": 1, "conversations": [{"id": "a", "messages": [{"id": "1", "parent": null, "role": "user", "content": 1}]}]}', /content is a text/],
    ]) {
      assert.match(await importFile(page, "x.json", text), reason);
      assert.deepEqual(await titles(page), []);
    }
    // HTML in a file stays text, in titles, too.
    const attack = "<img src=x onerror=alert(1)>";
    const messages = [{ id: "1", parent: null, role: "user", content: attack }, { id: "2", parent: "1", role: "assistant", content: attack }];
    await importFile(page, "x.json", JSON.stringify({ phi4d_conversations: 1, conversations: [{ id: "a", title: attack, messages }] }));
    await listed(page, [attack]);
    await page.click(".row .open");
    await page.waitForSelector(".message.assistant");
    assert.equal(await page.$$eval("main img[onerror], .side img", (all) => all.length), 0);
    const saved = { phi4d_chat: 1, messages: [{ role: "system", content: "Be brief." }, { role: "user", content: "From the terminal?" }, { role: "assistant", content: "19" }], parameters: {} };
    await importFile(page, "saved.json", JSON.stringify(saved));
    await listed(page, ["From the terminal?", attack]);
  },

  async "what does not fit is refused with a warning, and what is there stays"(page) {
    await asked(page, "First?");
    await page.evaluate(async () => {
      const { LIMITS } = await import("./page/database.js");
      LIMITS.bytes = 1600;
    });
    await page.click("#new");
    await ask(page, `Second? ${"long ".repeat(300)}`);
    await page.waitForSelector("#side-fault:not([hidden])");
    assert.match(await page.textContent("#side-fault"), /Storage is full/);
    assert.deepEqual(await titles(page), ["First?"]);
    assert.equal((await answers(page)).length, 1, "the conversation itself goes on");
    await page.click("#new");
    await ask(page, "Third?");
    await listed(page, ["Third?", "First?"]);
    assert.equal(await page.isVisible("#side-fault"), false);
  },

  async "a browser that keeps nothing says so, and the page works"(page) {
    await page.addInitScript(() => { Object.defineProperty(globalThis, "indexedDB", { value: { open: () => { throw new Error("no"); } } }); });
    await answering(page, { content: "So." });
    await open(page);
    await ask(page, "First?");
    assert.match(await page.textContent("#side-fault"), /does not let the page keep/);
    assert.deepEqual((await answers(page)).length, 1);
  },
};

// Firefox's BiDi has no downloads in the release that Debian has.
if (!isFirefox) {
  tests["what is exported can be imported, on another browser, with its branches"] = async (page) => {
    await asked(page, "First?", "Second?");
    await page.click('[aria-label="Answer again"]');
    await page.waitForSelector(".version");
    const one = await exported(page, '.row.current [aria-label^="Export"]');
    assert.match(one.name, /^phi4d-Second-.*\.json$/);
    assert.equal(JSON.parse(one.text).conversations[0].messages.length, 3);
    const all = await exported(page, "#export");
    const other = await page.context().browser().newContext({ serviceWorkers: "block" });
    const fresh = await other.newPage();
    await answering(fresh, { content: "So." });
    await fresh.goto(`${base}/`);
    await fresh.waitForSelector("#model:not(:empty)");
    assert.equal(await importFile(fresh, "all.json", all.text), "Imported 2 conversations.");
    await importFile(fresh, "all.json", all.text);
    assert.equal((await titles(fresh)).length, 2, "twice is once");
    await fresh.click(".row .open:has-text('Second?')");
    await fresh.waitForSelector(".version");
    assert.equal(await fresh.textContent(".version"), "2 of 2");
    await other.close();
  };
}

await run(tests);
