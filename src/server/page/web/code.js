// Code, highlighted by highlight.js, which is loaded when the first block comes.

import { copyButton, el } from "./dom.js";
import { say } from "./say.js";

let highlighter = null;
let loading = null;

function load() {
  loading ??= import("./vendor/highlight.min.js").then((module) => {
    highlighter = module.default;
  });
  return loading;
}

/** Longer code stays as it is: each new token would colour all of it again. */
const MOST = 40_000;

const ENTITIES = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#x27;": "'" };

/** Elements of what highlight.js writes: spans with a class, and text with five entities. */
function elements(html) {
  const root = document.createDocumentFragment();
  const open = [root];
  for (const [part] of html.matchAll(/<span class="[^"]*">|<\/span>|[^<]+/g)) {
    const top = open[open.length - 1];
    if (part === "</span>") {
      if (open.length > 1) open.pop();
    } else if (part.startsWith("<")) {
      const span = el("span", { class: part.slice(13, -2) });
      top.append(span);
      open.push(span);
    } else {
      top.append(part.replace(/&(?:amp|lt|gt|quot|#x27);/g, (entity) => ENTITIES[entity]));
    }
  }
  return root;
}

function colour(node, text, language) {
  if (text.length > MOST || !highlighter.getLanguage(language)) return;
  node.replaceChildren(elements(highlighter.highlight(text, { language, ignoreIllegals: true }).value));
}

/** A block of code with its language's name and a button that copies it. */
export function codeBlock(text, language) {
  const code = el("code", {}, text);
  const name = /^[\w+#.-]{1,24}$/.test(language) ? language : "";
  if (name) {
    if (highlighter) colour(code, text, name);
    else load().then(() => colour(code, text, name), () => {});
  }
  const label = name ? `Code in ${name}` : "Code";
  return el("figure", { class: "code" },
    el("figcaption", {}, el("span", {}, name), copyButton(() => text, "Copy the code", say)),
    el("pre", { class: "scroller", role: "region", "aria-label": label }, code));
}
