// Text of attached files: text in UTF-8 or UTF-16, and PDF. They are read in the browser; only their text is
// sent, in the question.

const MOST_BYTES = 64 * 1024 * 1024;
/** Longer texts fit no model's context. */
const MOST_TEXT = 8 * 1024 * 1024;

const isPdf = (bytes) => new TextDecoder("latin1").decode(bytes.subarray(0, 1024)).includes("%PDF-");

/** The text in `bytes`; throws if they are something else. */
function decoded(bytes) {
  const [one, two] = bytes;
  const wide = one === 0xff && two === 0xfe ? "utf-16le" : one === 0xfe && two === 0xff ? "utf-16be" : null;
  const text = new TextDecoder(wide ?? "utf-8", { fatal: true }).decode(bytes);
  if (text.includes("\0")) throw new TypeError("binary");
  return text;
}

/** `{name, text}` of a file that the user chose; throws an error whose message says why not. */
export async function read(file) {
  if (file.size > MOST_BYTES) throw new Error(`${file.name} is larger than ${MOST_BYTES / 1024 / 1024} MiB.`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text;
  if (isPdf(bytes)) {
    const { pdfText } = await import("./pdf.js");
    text = await pdfText(bytes, file.name);
  } else {
    try {
      text = decoded(bytes);
    } catch {
      throw new Error(`${file.name} is neither text nor a PDF.`);
    }
  }
  text = text.replace(/\r\n?/g, "\n").trim();
  if (text === "") throw new Error(`${file.name} has no text.`);
  if (text.length > MOST_TEXT) throw new Error(`${file.name} has more than 8 million characters.`);
  return { name: file.name, text };
}

/** A fence that `text` does not contain, so that it cannot end its own block. */
function fence(text) {
  const longest = (text.match(/`{3,}/g) ?? []).reduce((most, run) => Math.max(most, run.length), 2);
  return "`".repeat(longest + 1);
}

/** What is sent for a message: its files, each in a block below its name, and its text. */
export function asText({ content, files = [] }) {
  const blocks = files.map(({ name, text }) => {
    const mark = fence(text);
    return `File: ${name.replace(/\s+/g, " ")}\n${mark}\n${text}\n${mark}`;
  });
  return [...blocks, content].filter(Boolean).join("\n\n");
}
