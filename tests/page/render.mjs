// What becomes of answers: Markdown, code, mathematics, thought, and attempts at more.
//
//     render.mjs URL
import assert from "node:assert/strict";
import { answering, ask, base, open, run, shot } from "./browser.mjs";

/** Shows this answer. */
async function show(page, answer) {
  const asked = await answering(page, answer);
  await open(page);
  await ask(page, "Go on.");
  return asked;
}

const PROSE = ".message.assistant .prose:not(.thought-text)";

/** Names of the elements that were made of the answer, each once. */
const made = (page) => page.$$eval(`${PROSE} *`, (all) => [...new Set(all.map((one) => one.localName))]);

const ATTACKS = [
  "<script>alert(1)</script>",
  "<img src=x onerror=alert(1)>",
  "<svg onload=alert(1)><animate onbegin=alert(1)></svg>",
  "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
  "Text with <b onclick=alert(1)>HTML</b> and <a href='javascript:alert(1)'>a link</a>.",
  "[a](javascript:alert(1)) [b](JaVaScRiPt:alert(1)) [c](data:text/html,<script>alert(1)</script>) [d](vbscript:x)",
  "[e](&#106;avascript:alert(1)) [f](java&Tab;script:alert(1)) <javascript:alert(1)>",
  "![p](https://elsewhere.example/p.png?q=secret) ![q](x\"onerror=\"alert(1))",
  "```\"><img src=x onerror=alert(1)>\n</code></pre><script>alert(1)</script>\n```",
  "```html\n<img src=x onerror=alert(1)>&lt;script&gt;\n```",
  "| <img src=x onerror=alert(1)> | b |\n|---|---|\n| <script>alert(1)</script> | `<i>` |",
  "$\\href{javascript:alert(1)}{x}$ $\\htmlStyle{position:fixed}{x}$ $\\includegraphics{https://elsewhere.example/a.png}$",
  "$$\\url{javascript:alert(1)}$$",
  "<style>*{display:none}</style><link rel=stylesheet href=//elsewhere.example/x><base href=//elsewhere.example/>",
  "<form action=//elsewhere.example><input name=a></form><meta http-equiv=refresh content=0>",
  "<!--<img src=\"--><img src=x onerror=alert(1)//\">",
];

await run({
  async "Markdown"(page) {
    await show(page, {
      content: "# One\n\nText with **strong**, *stress*, ~~gone~~, `code` and &lt;, &copy;, &#8364;.\nSame line.\n\n"
        + "- a\n- b\n  1. c\n\n3. three\n4. four\n\n- [x] done\n- [ ] open\n\n> quoted\n\n---\n\n"
        + "| a | b |\n|:--|--:|\n| 1 | 2<br>3 |\n\n[there](https://example.org/?a=1&b=2) and https://example.org/bare\n\nThe end.",
    });
    const text = await page.textContent(PROSE);
    assert.match(text, /Text with strong, stress, gone, code and <, ©, €\./);
    assert.deepEqual(await page.$$eval(`${PROSE} > *`, (all) => all.map((one) => one.localName)),
      ["h3", "p", "ul", "ol", "ul", "blockquote", "hr", "div", "p", "p"]);
    assert.equal(await page.getAttribute(`${PROSE} > ol`, "start"), "3");
    assert.deepEqual(await page.$$eval(`${PROSE} input`, (all) => all.map((one) => [one.checked, one.disabled])), [[true, true], [false, true]]);
    assert.deepEqual(await page.$$eval(`${PROSE} a`, (all) => all.map((one) => [one.href, one.rel, one.target])), [
      ["https://example.org/?a=1&b=2", "noopener noreferrer nofollow", "_blank"],
      ["https://example.org/bare", "noopener noreferrer nofollow", "_blank"],
    ]);
    assert.equal(await page.$$eval(`${PROSE} td br`, (all) => all.length), 1);
  },

  async "a haiku has three lines, and each stays one however it comes"(page) {
    const lines = ["An old silent pond", "A frog jumps into the pond", "Splash! Silence again"];
    for (const separator of ["\n", "  \n", "\\\n"]) {
      await page.unroute("**/v1/chat/completions").catch(() => {});
      await show(page, { content: lines.join(separator) });
      assert.deepEqual((await page.innerText(PROSE)).split("\n").map((line) => line.trim()), lines);
      await page.click("#new");
    }
  },

  async "code is highlighted, letter for letter the same, and can be copied"(page, context) {
    const code = 'def f(x: int) -> str:\n    return f"<b>{x}</b>" if x > 1 && \'a\' else None  # &amp; done';
    await context.grantPermissions(["clipboard-read", "clipboard-write"]);
    await show(page, { content: `\`\`\`python\n${code}\n\`\`\`\n\n\`\`\`nonsense\n<a>\n\`\`\`\n\n    indented` });
    await page.waitForSelector(".hljs-keyword");
    assert.deepEqual(await page.$$eval(".code code", (all) => all.map((one) => one.textContent)), [code, "<a>", "indented"]);
    assert.deepEqual(await page.$$eval(".code figcaption span", (all) => all.map((one) => one.textContent)), ["python", "nonsense", ""]);
    await page.click('[aria-label="Copy the code"] >> nth=0');
    await page.waitForFunction(() => document.getElementById("say").textContent === "Copied");
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), code);
  },

  async "mathematics in every spelling, and money is none"(page) {
    await show(page, {
      content: "Inline $a^2$ and \\(b_1\\), shown $$c=1$$ here.\n\n$$\n\\int_0^1 x\\,dx\n$$\n\n\\[\n\\frac{1}{2}\n\\]\n\n"
        + "It costs $5 and $10, or $ 3 $.\n\n`$code$` and \\$escaped$.\n\nBroken: $\\frac{1$ and $\\nosuch{x}$.",
    });
    await page.waitForSelector(".katex");
    await page.waitForFunction(() => document.querySelectorAll(".formula .katex-display").length === 3);
    assert.equal(await page.$$eval(".formula-inline .katex", (all) => all.length), 2);
    const sources = await page.$$eval("annotation", (all) => all.map((one) => one.textContent));
    assert.deepEqual(sources, ["a^2", "b_1", "c=1", "\\int_0^1 x\\,dx", "\\frac{1}{2}"]);
    const text = await page.textContent(PROSE);
    assert.match(text, /It costs \$5 and \$10, or \$ 3 \$\./);
    assert.match(text, /\$code\$ and \$escaped\$\./);
    assert.ok(text.includes("\\frac{1") && text.includes("\\nosuch{x}"), text);
    // They are fetched once something is laid out in them.
    const main = await page.waitForFunction(() => [...document.fonts].find((font) =>
      font.family.includes("KaTeX_Main") && ["loaded", "error"].includes(font.status))?.status);
    assert.equal(await main.jsonValue(), "loaded", "the font of KaTeX's letters");
  },

  async "the model's load and how much of the prompt has been read are shown until the answer begins"(page) {
    await page.addInitScript(() => {
      const { fetch } = globalThis;
      globalThis.fetch = (path, options) => {
        if (!String(path).endsWith("chat/completions")) return fetch(path, options);
        const body = new ReadableStream({
          start: (control) => { globalThis.comes = (chunk) => control.enqueue(new TextEncoder().encode(`data: ${JSON.stringify(chunk)}\n\n`)); },
        });
        return Promise.resolve(new Response(body, { status: 200 }));
      };
    });
    await open(page);
    await page.fill("#question", "Long?");
    await page.press("#question", "Enter");
    await page.waitForFunction(() => globalThis.comes);
    for (const [load_progress, text, position] of [
      [{ state: "waiting", place: 2, time_ms: 1 }, "Waiting for phi: place 2 in the line", -1],
      [{ state: "loading", stage: "weights", value: 0.429, time_ms: 2 }, "Loading phi: 42%", 0.429],
      [{ state: "loading", stage: "tokenizer", time_ms: 3 }, "Loading phi", -1],
    ]) {
      await page.evaluate((load_progress) => globalThis.comes({ model: "phi", choices: [], load_progress }), load_progress);
      await page.waitForSelector(`.reading >> text="${text}"`);
      assert.equal(await page.$eval(".reading progress", (bar) => bar.position), position);
    }
    await page.evaluate(() => globalThis.comes({ model: "phi", choices: [{ delta: { role: "assistant", content: "" } }] }));
    await page.waitForSelector(".reading", { state: "detached" });
    for (const processed of [500, 1500]) {
      await page.evaluate((processed) => globalThis.comes({ choices: [], prompt_progress: { total: 2000, cache: 0, processed, time_ms: 9 } }), processed);
      await page.waitForSelector(`text=Reading the prompt: ${processed.toLocaleString("en-US")} of 2,000 tokens`);
      assert.equal(await page.$eval(".reading progress", (bar) => bar.position), processed / 2000);
    }
    await page.evaluate(() => globalThis.comes({ choices: [{ delta: { content: "So." } }] }));
    await page.waitForSelector(".reading", { state: "detached" });
    assert.equal(await page.textContent(PROSE), "So.");
  },

  async "thought is folded, and unfolds"(page) {
    await show(page, { thought: "First **this**.\n\nThen that.", content: "So." });
    assert.equal(await page.isVisible(".thought-text"), false);
    assert.equal(await page.textContent(".thought summary"), "Thought");
    await page.focus(".thought summary");
    await page.keyboard.press("Enter");
    assert.equal(await page.isVisible(".thought-text"), true);
    assert.equal(await page.textContent(".thought-text strong"), "this");
    assert.equal(await page.textContent(PROSE), "So.");
  },

  async "the thought is not sent back"(page) {
    const asked = await show(page, { thought: "Hm.", content: "So." });
    await ask(page, "And?");
    assert.deepEqual(asked[1].messages.map((message) => message.content), ["Go on.", "So.", "And?"]);
  },

  async "what tries to be more than text stays text"(page) {
    const elsewhere = [];
    page.on("request", (request) => {
      if (!request.url().startsWith(base)) elsewhere.push(request.url());
    });
    await show(page, { content: ATTACKS.join("\n\n") });
    await page.waitForSelector(".katex, .formula-inline code");
    const forbidden = ["script", "img", "iframe", "style", "link", "form", "object", "embed", "base", "meta", "b", "i"];
    const found = await made(page);
    assert.deepEqual(found.filter((name) => forbidden.includes(name)), []);
    const text = await page.textContent(PROSE);
    for (const said of ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<iframe srcdoc=", "<style>*{display:none}</style>"]) {
      assert.ok(text.includes(said), said);
    }
    const handlers = await page.$$eval(`${PROSE} *`, (all) => all.flatMap((one) => [...one.attributes].filter((attribute) => attribute.name.startsWith("on")).map((attribute) => attribute.name)));
    assert.deepEqual(handlers, []);
    const links = await page.$$eval(`${PROSE} a`, (all) => all.map((one) => new URL(one.href).protocol));
    assert.ok(links.every((protocol) => protocol === "https:" || protocol === "mailto:"), `${links}`);
    assert.deepEqual(elsewhere, [], "nothing is asked of other hosts");
    await shot(page, "attacks");
  },

  async "the question stays text, too"(page) {
    await answering(page, { content: "So." });
    await open(page);
    await ask(page, ATTACKS.join("\n"));
    assert.equal(await page.textContent(".said"), ATTACKS.join("\n"));
    assert.deepEqual(await page.$$eval(".said *", (all) => all.length), 0);
  },

  async "growing text is laid out as if it had come at once"(page) {
    const content = "# T\n\nA [link][l] and $x$.\n\n- a\n- b\n\n```js\nlet a = 1;\n```\n\n| a |\n|---|\n| 1 |\n\n[l]: https://example.org/x\n\nEnd.";
    await open(page);
    const same = await page.evaluate(async (text) => {
      const { Rendered } = await import("./page/markdown.js");
      const shape = (node) => [...node.querySelectorAll("*")].filter((one) => !one.closest(".katex, pre")).map((one) => one.localName + (one.children.length ? "" : one.textContent)).join();
      const [grown, whole] = [document.createElement("div"), document.createElement("div")];
      const rendered = new Rendered(grown);
      for (let end = 1; end <= text.length; end += 1) rendered.show(text.slice(0, end));
      new Rendered(whole).show(text);
      return [shape(grown) === shape(whole), shape(grown), whole.querySelectorAll("a").length];
    }, content);
    assert.deepEqual([same[0], same[2]], [true, 1], same[1]);
  },

  async "a page of text does not keep the browser from its work"(page) {
    await open(page);
    const longest = await page.evaluate(async () => {
      const { Rendered } = await import("./page/markdown.js");
      const rendered = new Rendered(document.body.appendChild(document.createElement("div")));
      let text = "";
      let most = 0;
      for (let part = 0; part < 300; part += 1) {
        text += `## Part ${part}\n\nSome *text* with $x_{${part}}$ and \`code\`, ${"word ".repeat(20)}\n\n`;
        const began = performance.now();
        rendered.show(text);
        most = Math.max(most, performance.now() - began);
      }
      return most;
    });
    assert.ok(longest < 500, `${longest} ms`);
  },

  async "the policy holds: a script that is no file of ours is refused"(page) {
    await open(page);
    const refused = await page.evaluate(() => {
      const tries = [
        () => { document.body.innerHTML = "<p>x</p>"; },
        () => { document.createElement("script").text = "1"; },
      ];
      const thrown = tries.map((attempt) => {
        try {
          attempt();
          return "done";
        } catch (error) {
          return error.name;
        }
      });
      return new Promise((resolve) => {
        setTimeout(() => {
          const seen = globalThis.refused.length;
          globalThis.refused = [];
          // The debugger may make code of text; a timer's function is the page's own.
          try {
            new Function("1");
            resolve([[...thrown, "done"], seen]);
          } catch {
            resolve([thrown, seen]);
          }
        }, 50);
      });
    });
    assert.deepEqual(refused[0].filter((what) => what === "done"), []);
    assert.ok(refused[1] >= 2, `${refused}`);
    // These tries are reported later than they fail.
    await page.waitForFunction(() => globalThis.refused.length > 0);
    await page.evaluate(() => { globalThis.refused = []; });
  },
});
