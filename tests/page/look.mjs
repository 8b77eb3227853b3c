// How the page looks and how it is reached: light and dark, narrow and wide, by keyboard, by axe-core.
//
//     look.mjs URL
import assert from "node:assert/strict";
import { ANSWER } from "./answer.mjs";
import { answering, ask, faults, open, run, shot } from "./browser.mjs";

const colour = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
const isDark = (text) => text.match(/\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) < 200;
/** Waits until what the last key scrolled has been drawn: the way to the end goes when the end is in view. */
const drawn = (page) => page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
const focused = (page) => page.evaluate(() => {
  const at = document.activeElement;
  return at.getAttribute("aria-label")?.replace(/: First.*/, "") ?? (at.id || at.className || at.localName);
});

/** Every state of the page that looks different, each examined. */
function examined(scheme, narrow) {
  return async (page) => {
    const name = (what) => `${scheme}-${narrow ? "narrow" : "wide"}-${what}`;
    const examine = async (what) => {
      await shot(page, name(what));
      assert.deepEqual(await faults(page), [], what);
      const over = await page.evaluate(() => document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth);
      assert.equal(over, 0, `${what}: nothing is wider than the window`);
    };
    await page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" });
    if (narrow) await page.setViewportSize({ width: 320, height: 640 });
    await answering(page, ANSWER);
    await open(page);
    assert.equal(isDark(await colour(page)), scheme === "dark");
    await examine("welcome");
    if (narrow) await page.click("#conversations");
    await examine("no-conversations");
    if (narrow) await page.keyboard.press("Escape");
    await ask(page, "Show me why the square root of 2 is irrational, with code.");
    await page.waitForSelector(".formula .katex");
    await page.waitForSelector(".hljs-keyword");
    await page.evaluate(() => scrollTo(0, 0));
    await examine("answer");
    await page.click(".thought summary");
    await page.evaluate(() => scrollTo(0, document.body.scrollHeight));
    await page.click("#load");
    await page.waitForFunction(() => document.getElementById("s-slots").textContent === "8");
    await examine("thought-and-server");
    await page.click('[aria-label="Edit the question"]');
    await examine("edit");
    await page.keyboard.press("Escape");
    await page.click('[aria-label="Answer again"]');
    await page.waitForSelector('.message.assistant[data-state=done] [aria-label="Previous version"]');
    await page.setInputFiles("#attach-file", [{ name: "notes.md", mimeType: "text/markdown", buffer: Buffer.from("# Notes\n") }]);
    await page.waitForSelector("#attached .aside:not(:empty)");
    await examine("versions-and-file");
    await page.click('[aria-label="Remove notes.md"]');
    if (narrow) await page.click("#conversations");
    await page.hover(".row");
    await page.click('.row [aria-label^="Rename"]');
    await examine("rename");
    await page.keyboard.press("Escape");
    await page.click('.row [aria-label^="Delete"]');
    await page.waitForSelector("#toast:not([hidden])");
    await examine("deleted");
    await page.click("#toast-action button");
    await page.waitForSelector(".row.current");
    if (narrow) await page.click("#side-close");
    await page.waitForSelector(".message.assistant");
    await page.click("#tune");
    await page.click(".more summary");
    await page.fill("#p-temperature", "9");
    await examine("parameters");
    await page.click("#reset");
    await page.keyboard.press("Escape");
    await page.unroute("**/v1/chat/completions");
    await page.route("**/v1/chat/completions", (route) => route.fulfill({ status: 503, headers: { "retry-after": "7" }, json: { error: { message: "The queue is full." } } }));
    await ask(page, "And then?");
    assert.match(await page.textContent(".error"), /The queue is full\. It asks to wait 7 s\./);
    await examine("refused");
    await page.route("**/v1/chat/completions", (route) => route.fulfill({ status: 401, json: { error: { message: "No key." } } }));
    await page.click("text=Try again");
    await page.waitForSelector("#key[open]");
    await examine("key");
  };
}

await run({
  "light and wide": examined("light", false),
  "dark and wide": examined("dark", false),
  "light and narrow": examined("light", true),
  "dark and narrow": examined("dark", true),

  async "the switch of colours goes over the system's, and back"(page) {
    await page.emulateMedia({ colorScheme: "dark" });
    await open(page);
    assert.equal(await page.getAttribute("#theme", "aria-label"), "Colours: as the system");
    assert.equal(isDark(await colour(page)), true);
    await page.click("#theme");
    assert.equal(isDark(await colour(page)), false);
    await page.reload();
    assert.equal(isDark(await colour(page)), false, "the choice stays");
    await page.emulateMedia({ colorScheme: "light" });
    await page.click("#theme");
    assert.equal(isDark(await colour(page)), true);
    await page.click("#theme");
    assert.equal(isDark(await colour(page)), false);
  },

  async "the end stays in view, however much comes at once, until the user scrolls up"(page) {
    await page.addInitScript(() => {
      const { fetch } = globalThis;
      globalThis.fetch = (path, options) => {
        if (!String(path).endsWith("chat/completions")) return fetch(path, options);
        const body = new ReadableStream({
          start: (control) => {
            globalThis.comes = (content) => control.enqueue(new TextEncoder().encode(
              `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content }, finish_reason: null }] })}\n\n`));
          },
        });
        return Promise.resolve(new Response(body, { status: 200 }));
      };
    });
    await open(page);
    await page.fill("#question", "Go on.");
    await page.press("#question", "Enter");
    await page.waitForFunction(() => globalThis.comes);
    let count = 0;
    const more = async () => {
      count += 1;
      await page.evaluate((count) => globalThis.comes(`Part ${count}\n\n${"A line.\n\n".repeat(40)}`), count);
      await page.waitForFunction((count) => document.querySelector(".assistant .prose").textContent.includes(`Part ${count}`), count);
      await drawn(page);
    };
    const left = () => page.evaluate(() => {
      const { scrollHeight, scrollTop, clientHeight } = document.scrollingElement;
      return Math.round(scrollHeight - scrollTop - clientHeight);
    });
    for (let times = 0; times < 3; times += 1) {
      await more();
      assert.equal(await left(), 0);
      assert.equal(await page.isVisible("#latest"), false);
    }
    await page.mouse.move(600, 300);
    await page.mouse.wheel(0, -400);
    await page.waitForSelector("#latest");
    const top = await page.evaluate(() => document.scrollingElement.scrollTop);
    await more();
    assert.equal(await page.evaluate(() => document.scrollingElement.scrollTop), top, "who reads further up stays there");
    await page.click("#latest");
    await drawn(page);
    assert.equal(await left(), 0);
    await more();
    assert.equal(await left(), 0);
  },

  async "all of it by the keyboard"(page) {
    await answering(page, ANSWER);
    await open(page);
    assert.equal(await focused(page), "question");
    await page.keyboard.type("First line");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("second line");
    await page.keyboard.press("Enter");
    await page.waitForSelector(".message.assistant[data-state=done]");
    assert.equal(await page.textContent(".said"), "First line\nsecond line");
    assert.equal(await focused(page), "question");
    // From the top: the link that skips the rest comes first and does what it says.
    for (let count = 0; count < 30 && await focused(page) !== "skip"; count += 1) await page.keyboard.press("Shift+Tab");
    assert.equal(await focused(page), "skip");
    const seen = [];
    for (let count = 0; count < 30; count += 1) {
      await page.keyboard.press("Tab");
      await drawn(page);
      const at = await focused(page);
      seen.push(at);
      const box = await page.evaluate(() => {
        const at = document.activeElement;
        const style = getComputedStyle(at);
        const shown = style.outlineStyle !== "none" || getComputedStyle(at.closest(".ask") ?? at).outlineStyle !== "none";
        const rect = at.getBoundingClientRect();
        return { shown, inView: rect.bottom > 0 && rect.top < innerHeight };
      });
      assert.deepEqual(box, { shown: true, inView: true }, at);
      if (at === "Send") break;
    }
    assert.deepEqual(seen.filter((at) => at !== "a"), [
      "Conversations", "load", "Colours: as the system", "Parameters", "New conversation", "Close the list", "Search conversations",
      "open", "Rename", "Export", "Delete", "import", "export", "Edit the question", "Copy the question", "summary",
      "Copy the code", "Code in python", "Copy the answer", "Answer again", "Attach files", "question", "Send",
    ].filter((at) => seen.includes(at) || at !== "Code in python"));
    // The drawer keeps the focus and gives it back.
    await page.focus("#tune");
    await page.keyboard.press("Enter");
    for (let count = 0; count < 12; count += 1) {
      await page.keyboard.press("Tab");
      assert.ok(await page.evaluate(() => document.activeElement === document.body || document.activeElement.closest("#parameters")), await focused(page));
    }
    await page.keyboard.press("Escape");
    assert.equal(await focused(page), "Parameters");
    await page.focus(".skip");
    await page.keyboard.press("Enter");
    assert.equal(await focused(page), "question");
  },

  async "what moves stands still for those who ask for that"(page) {
    await page.emulateMedia({ reducedMotion: "reduce" });
    await open(page);
    const moving = await page.evaluate(() => {
      document.body.dataset.server = "busy";
      return [...document.querySelectorAll("*")].filter((one) => getComputedStyle(one).animationName !== "none").length;
    });
    assert.equal(moving, 0);
  },
});
