// Text of PDF files by pdf.js, which is loaded when the first one is attached. It reads the file in a worker.

import { scriptUrl } from "./trusted.js";

const MOST_PAGES = 2000;

let library = null;

async function load() {
  if (!library) {
    library = await import("./vendor/pdf.min.mjs");
    const worker = new Worker(scriptUrl("pdf"), { type: "module" });
    library.GlobalWorkerOptions.workerPort = worker;
  }
  return library;
}

/** The text of one page: its runs, with a line break where pdf.js saw one. */
async function pageText(document, number) {
  const page = await document.getPage(number);
  const { items } = await page.getTextContent();
  page.cleanup();
  return items.map((item) => (item.str ?? "") + (item.hasEOL ? "\n" : "")).join("");
}

/** The text of a PDF file, pages apart; throws an error whose message says what is wrong with it. */
export async function pdfText(data, name) {
  const { getDocument } = await load();
  const task = getDocument({ data, isEvalSupported: false, useWasm: false, disableFontFace: true, useSystemFonts: false });
  try {
    const document = await task.promise;
    if (document.numPages > MOST_PAGES) throw new Error(`${name} has more than ${MOST_PAGES.toLocaleString()} pages.`);
    const pages = [];
    for (let number = 1; number <= document.numPages; number += 1) pages.push(await pageText(document, number));
    const text = pages.join("\n\n");
    if (text.trim() === "") throw new Error(`${name} has no text: its pages are pictures.`);
    return text;
  } catch (error) {
    if (error.name === "PasswordException") throw new Error(`${name} needs a password.`);
    if (error.name === "InvalidPDFException") throw new Error(`${name} is damaged.`);
    throw error;
  } finally {
    task.destroy();
  }
}
