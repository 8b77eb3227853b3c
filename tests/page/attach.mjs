// Files that are attached: text, Markdown and PDF, read in the browser and counted by the daemon.
//
//     attach.mjs URL
import assert from "node:assert/strict";
import { answering, ask, base, isFirefox, open, reload, run } from "./browser.mjs";

const file = (name, content) => ({ name, mimeType: "application/octet-stream", buffer: Buffer.from(content) });

/** A PDF with a page for each text. */
function pdf(...texts) {
  const streams = texts.map((text) => `BT /F1 12 Tf 72 720 Td (${text}) Tj ET`);
  const objects = [
    "<< /Type /Catalog /Pages 2 0 R >>",
    `<< /Type /Pages /Kids [${texts.map((_, at) => `${4 + 2 * at} 0 R`).join(" ")}] /Count ${texts.length} >>`,
    "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ...streams.flatMap((stream, at) => [
      `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> /Contents ${5 + 2 * at} 0 R >>`,
      `<< /Length ${stream.length} >>\nstream\n${stream}\nendstream`,
    ]),
  ];
  let text = "%PDF-1.4\n";
  const places = objects.map((object, at) => {
    const place = text.length;
    text += `${at + 1} 0 obj\n${object}\nendobj\n`;
    return `${String(place).padStart(10, "0")} 00000 n \n`;
  });
  const start = text.length;
  return `${text}xref\n0 ${objects.length + 1}\n0000000000 65535 f \n${places.join("")}trailer\n<< /Size ${objects.length + 1} /Root 1 0 R >>\nstartxref\n${start}\n%%EOF\n`;
}

/** Opens the page with made-up answers; what it sends is kept in it, as Firefox does not show the debugger bodies. */
async function opened(page) {
  await answering(page, { content: "So." });
  await page.addInitScript(() => {
    const { fetch } = globalThis;
    globalThis.sent = [];
    globalThis.fetch = (path, options) => {
      if (String(path).endsWith("chat/completions")) globalThis.sent.push(JSON.parse(options.body));
      return fetch(path, options);
    };
  });
  await open(page);
}

/** The first message of the last question that the page sent. */
const sent = (page) => page.evaluate(() => globalThis.sent.at(-1).messages[0].content);

async function attach(page, ...files) {
  await page.setInputFiles("#attach-file", files);
  await page.waitForFunction((count) => {
    const rows = [...document.querySelectorAll("#attached .file .aside")];
    return rows.length === count && rows.every((row) => /tokens/.test(row.textContent));
  }, files.length);
}

async function counted(content) {
  const response = await fetch(`${base}/tokenize`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ content, parse_special: false }),
  });
  return (await response.json()).count;
}

await run({
  async "text and Markdown are sent in the question, in a block that they can't end, with their tokens shown"(page) {
    await opened(page);
    const notes = "# Notes\r\n\r\n```sh\nls\n```";
    await attach(page, file("notes.md", notes), file("naïve.txt", "\ufeffwords"));
    const text = notes.replaceAll("\r\n", "\n");
    const shown = await page.$$eval("#attached .file", (all) => all.map((one) => one.textContent));
    assert.deepEqual(shown, [`notes.md${await counted(text)} tokens`, `naïve.txt${await counted("words")} tokens`]);
    await ask(page, "What do they say?");
    assert.equal(await sent(page), `File: notes.md\n\`\`\`\`\n${text}\n\`\`\`\`\n\nFile: naïve.txt\n\`\`\`\nwords\n\`\`\`\n\nWhat do they say?`);
    assert.equal(await page.isVisible("#attached"), false);
    assert.deepEqual(await page.$$eval(".message .file span:first-of-type", (all) => all.map((one) => one.textContent)), ["notes.md", "naïve.txt"]);
    assert.equal(await page.textContent(".said"), "What do they say?");
    // They stay with the question: in the next request, after a reload, and when it is edited.
    await reload(page);
    await page.waitForSelector(".message.assistant");
    await page.click('[aria-label="Edit the question"]');
    await page.fill(".rewrite", "And now?");
    await page.click(".rewriting .solid");
    await page.waitForFunction(() => document.querySelector(".said")?.textContent === "And now?");
    await page.waitForSelector(".message.assistant[data-state=done]");
    assert.ok((await sent(page)).startsWith("File: notes.md\n"));
  },

  async "the text of a PDF, page by page, under the page's policy"(page) {
    await opened(page);
    await attach(page, file("paper.pdf", pdf("The first page", "The second page")));
    await page.press("#question", "Enter");
    await page.waitForSelector(".message.assistant[data-state=done]");
    assert.equal(await sent(page), "File: paper.pdf\n```\nThe first page\n\nThe second page\n```");
    // A conversation without a typed question is named by its file.
    await page.waitForFunction(() => document.querySelector(".row .title")?.textContent === "paper.pdf");
  },

  async "what has no text is refused, with the reason, and the rest stays"(page) {
    await opened(page);
    await attach(page, file("good.txt", "good"));
    for (const [bad, reason] of [
      [file("picture.png", Buffer.from([0x89, 0x50, 0x4e, 0x47, 0, 1, 2])), "picture.png is neither text nor a PDF."],
      [file("zeros.txt", "a\0b"), "zeros.txt is neither text nor a PDF."],
      [file("empty.txt", " \n"), "empty.txt has no text."],
      [file("scan.pdf", pdf("")), "scan.pdf has no text: its pages are pictures."],
      [file("broken.pdf", "%PDF-1.4 nothing"), "broken.pdf is damaged."],
    ]) {
      await page.setInputFiles("#attach-file", bad);
      await page.waitForFunction((reason) => document.getElementById("toast-text").textContent === reason, reason);
    }
    assert.deepEqual(await page.$$eval("#attached .file span:first-of-type", (all) => all.map((one) => one.textContent)), ["good.txt"]);
    await page.click('[aria-label="Remove good.txt"]');
    assert.equal(await page.isVisible("#attached"), false);
    assert.equal(await page.evaluate(() => document.activeElement.id), "question");
  },

  async "files that fill the context are warned of before they are sent"(page) {
    await opened(page);
    await attach(page, file("long.txt", "many words ".repeat(20_000)));
    assert.match(await page.textContent("#attached-fault"), /^The files have [\d,]+ tokens; the model's context has [\d,]+\.$/);
    await page.click('[aria-label="Remove long.txt"]');
    assert.equal(await page.isVisible("#attached-fault"), false);
  },

  ...(!isFirefox && {
    async "files can be dropped on the page"(page) {
      await opened(page);
      await page.evaluate(() => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File(["dropped text"], "dropped.txt"));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
      });
      await page.waitForSelector("#attached .file:has-text('dropped.txt')");
    },
  }),
});
