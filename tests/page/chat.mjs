// Chats on the page with the real daemon.
//
//     chat.mjs URL
import assert from "node:assert/strict";
import { answers, ask, base, ended, open, reload, run, set } from "./browser.mjs";

const QUESTION = "What is 12+7?";
/** Fields by which the model goes on and on. */
const LONG = { more: '{"ignore_eos": true}', temperature: "0" };

const health = async () => (await fetch(`${base}/health`)).json();

async function asPlain(messages) {
  const response = await fetch(`${base}/v1/chat/completions`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ messages, temperature: 0 }),
  });
  return (await response.json()).choices[0].message.content;
}

/** The bodies of all questions that the page asks from now on. */
function watch(page) {
  const bodies = [];
  page.on("request", (request) => {
    if (request.url().endsWith("/v1/chat/completions")) bodies.push(request.postDataJSON());
  });
  return bodies;
}

await run({
  async "a question is answered as the API answers it, and the next one follows on it"(page) {
    await open(page);
    await set(page, { temperature: "0" });
    await ask(page, QUESTION);
    const expected = await asPlain([{ role: "user", content: QUESTION }]);
    assert.deepEqual(await answers(page), [expected]);
    assert.match(await page.textContent(".figures-line"), /\d+ tokens/);
    const bodies = watch(page);
    await ask(page, "And 3 more?");
    assert.deepEqual(bodies[0].messages, [
      { role: "user", content: QUESTION }, { role: "assistant", content: expected }, { role: "user", content: "And 3 more?" },
    ]);
    assert.deepEqual(await page.$$eval(".who", (all) => all.map((one) => one.textContent)), ["You", "demo", "You", "demo"]);
  },

  async "an answer grows, and a stop ends it in the daemon, too"(page) {
    await open(page);
    await set(page, LONG);
    const before = await health();
    await page.evaluate(() => {
      globalThis.lengths = new Set();
      globalThis.words = 0;
      const prose = document.getElementById("messages");
      new MutationObserver(() => globalThis.lengths.add(prose.textContent.length)).observe(prose, { childList: true, subtree: true, characterData: true });
      new MutationObserver(() => { globalThis.words += 1; }).observe(document.getElementById("say"), { childList: true, characterData: true, subtree: true });
    });
    await page.fill("#question", QUESTION);
    await page.press("#question", "Enter");
    await page.waitForFunction(() => globalThis.lengths.size > 4);
    assert.equal(await page.isVisible("#send"), false);
    await page.press("#question", "Escape");
    await ended(page);
    assert.equal(await page.textContent(".note"), "Stopped.");
    assert.ok((await answers(page))[0].length > 0, "what came before stays");
    for (;;) {
      const now = await health();
      if (now.running === 0 && now.cancelled === before.cancelled + 1) break;
    }
    assert.equal(await page.evaluate(() => globalThis.words), 2, "a screen reader announces the beginning and the end");
    assert.equal(await page.evaluate(() => document.activeElement.id), "question");
  },

  async "figures move while the daemon works"(page) {
    await open(page);
    await page.click("#load");
    await page.waitForFunction(() => document.getElementById("load-text").textContent === "ready");
    // Somebody else's, one after the other for as long as it takes: the page looks once a second.
    const stop = new AbortController();
    const work = (async () => {
      while (!stop.signal.aborted) {
        const body = JSON.stringify({ prompt: "a", max_tokens: 4000, ignore_eos: true });
        const headers = { "Content-Type": "application/json" };
        await (await fetch(`${base}/v1/completions`, { method: "POST", headers, body, signal: stop.signal })).text();
      }
    })().catch((error) => assert.equal(error.name, "AbortError"));
    await page.waitForFunction(() => document.getElementById("s-running").textContent === "1"
      && document.getElementById("load-text").textContent === "1 of 8 busy"
      && Number(document.getElementById("s-rate").textContent.replaceAll(",", "")) > 0);
    stop.abort();
    await work;
    await page.waitForFunction(() => document.getElementById("load-text").textContent === "ready");
  },

  async "the button stops, too, and an answer can be made again"(page) {
    await open(page);
    await set(page, LONG);
    await page.evaluate(() => {
      new MutationObserver((_, observer) => {
        if (!document.querySelector(".message.assistant[data-state=running]")) return;
        observer.disconnect();
        document.getElementById("stop").click();
      }).observe(document.getElementById("messages"), { childList: true, subtree: true, attributes: true });
    });
    await page.fill("#question", QUESTION);
    await page.click("#send");
    await page.waitForSelector("text=Stopped.");
    await ended(page);
    await set(page, { more: "" });
    const bodies = watch(page);
    const stopped = await answers(page);
    await page.click('[aria-label="Answer again"]');
    await page.waitForSelector(".note", { state: "detached" });
    await ended(page);
    const full = [await asPlain([{ role: "user", content: QUESTION }])];
    assert.deepEqual(await answers(page), full);
    // The stopped one is kept as another version, if it had any text.
    if (stopped[0] !== "") {
      await page.click('[aria-label="Previous version"]');
      assert.deepEqual(await answers(page), stopped);
      await page.click('[aria-label="Next version"]');
      assert.deepEqual(await answers(page), full);
    }
    assert.deepEqual(bodies.map((body) => body.messages), [[{ role: "user", content: QUESTION }]]);
  },

  async "parameters are sent, stay, and are refused where they are wrong"(page) {
    await open(page);
    await set(page, {
      system: "Be brief.", temperature: "0,5", top_p: "0.9", max_tokens: "3", top_k: "7", seed: "-1",
      stop: "END\n###", reasoning_effort: "low", more: '{"min_tokens": 3}',
    });
    await reload(page);
    const bodies = watch(page);
    await ask(page, QUESTION);
    assert.deepEqual(bodies[0], {
      messages: [{ role: "system", content: "Be brief." }, { role: "user", content: QUESTION }],
      temperature: 0.5, top_p: 0.9, max_tokens: 3, top_k: 7, seed: -1, stop: ["END", "###"],
      reasoning_effort: "low", min_tokens: 3, stream: true, stream_options: { include_usage: true }, return_progress: true,
    });
    assert.match(await page.textContent(".note"), /^Cut off/);
    assert.match(await page.textContent(".figures-line"), /^3 tokens/);
    await page.click("#tune");
    for (const [field, text] of [["temperature", "3"], ["top_p", "0"], ["max_tokens", "1.5"], ["more", "[]"], ["more", "{"], ["seed", "x"]]) {
      await page.fill(`#p-${field}`, text);
      assert.notEqual(await page.textContent(`#p-${field}-fault`), "", `${field} = ${text}`);
    }
    await page.click("#reset");
    assert.equal(await page.textContent("#p-temperature-fault"), "");
    await page.click("#parameters footer .solid");
    await ask(page, QUESTION);
    assert.deepEqual(Object.keys(bodies[1]), ["messages", "stream", "stream_options", "return_progress"]);
  },

  async "a question can be edited, and the branch before stays"(page) {
    await open(page);
    await set(page, { temperature: "0" });
    await ask(page, "What is 1+1?");
    await ask(page, "What is 2+2?");
    const before = await answers(page);
    await page.click('[aria-label="Edit the question"] >> nth=0');
    await page.fill(".rewrite", QUESTION);
    await page.click(".rewriting .solid");
    await page.waitForFunction(() => document.querySelectorAll(".message").length === 2);
    await ended(page);
    const expected = await asPlain([{ role: "user", content: QUESTION }]);
    assert.deepEqual(await answers(page), [expected]);
    await page.click('[aria-label="Previous version"]');
    assert.deepEqual(await answers(page), before);
    await page.click('[aria-label="Next version"]');
    assert.deepEqual(await answers(page), [expected]);
    await reload(page);
    await page.waitForSelector(".message.assistant");
    assert.deepEqual(await answers(page), [expected], "the branch that was shown is shown again");
    await page.click('[aria-label="Previous version"]');
    assert.deepEqual(await answers(page), before, "and the other one is still there");
  },

  async "a refusal says why, and the next try may do"(page) {
    await open(page);
    await set(page, { temperature: "0", more: '{"model": "other"}' });
    await ask(page, QUESTION);
    assert.match(await page.textContent(".error"), /other/);
    await set(page, { more: "" });
    await page.click("text=Try again");
    await page.waitForSelector(".error", { state: "detached" });
    await ended(page);
    assert.deepEqual(await answers(page), [await asPlain([{ role: "user", content: QUESTION }])]);
  },

  async "a server with several models lets one be chosen, which stays chosen"(page) {
    const models = [{ id: "demo" }, { id: "phi-4-mini", status: { value: "unloaded" } }];
    await page.route("**/v1/models", (route) => route.fulfill({ json: { object: "list", data: models } }));
    await open(page);
    await page.waitForSelector("#models:not([hidden])");
    assert.deepEqual(await page.$$eval("#models option", (all) => all.map((one) => one.textContent)), ["demo", "phi-4-mini (not loaded)"]);
    await page.selectOption("#models", "phi-4-mini");
    await reload(page);
    await page.waitForSelector("#models:not([hidden])");
    assert.equal(await page.$eval("#models", (select) => select.value), "phi-4-mini");
    const bodies = watch(page);
    await ask(page, QUESTION);
    assert.equal(bodies[0].model, "phi-4-mini");
    // The daemon has only one model, and says so.
    assert.match(await page.textContent(".error"), /phi-4-mini/);
  },

  async "a server that takes long to answer is loading its model"(page) {
    let answer;
    const held = new Promise((release) => { answer = release; });
    await page.route("**/health", async (route) => {
      await held;
      await route.continue();
    });
    await page.goto(`${base}/`);
    await page.waitForFunction(() => document.getElementById("load-text").textContent === "loading");
    answer();
    await page.waitForFunction(() => document.getElementById("load-text").textContent === "ready");
  },

  async "who may not see the slots asks for them once"(page) {
    let asked = 0;
    page.on("request", (request) => { if (request.url().endsWith("/slots")) asked += 1; });
    await open(page);
    await page.click("#load");
    const looks = [];
    page.on("response", (response) => { if (response.url().endsWith("/health")) looks.push(response); });
    while (looks.length < 3) await page.waitForResponse((response) => response.url().endsWith("/health"));
    assert.equal(asked, 1);
    assert.equal(await page.isVisible("#s-list"), false);
    assert.equal(await page.$$eval(".cell.idle", (cells) => cells.length), 8);
  },
});
