// Markdown to elements. `marked` cuts the text into tokens, each of which becomes elements here; HTML in the
// text stays text.

import { Marked } from "./vendor/marked.esm.js";
import { codeBlock } from "./code.js";
import { el } from "./dom.js";
import { math, mathExtensions } from "./maths.js";

// A single line break is one on the page, too: models write verses and addresses so.
const marked = new Marked({ gfm: true, breaks: true, extensions: undefined });
marked.use({ extensions: mathExtensions });

const ENTITIES = {
  amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", copy: "©", reg: "®", trade: "™",
  hellip: "…", mdash: "—", ndash: "–", lsquo: "‘", rsquo: "’", ldquo: "“", rdquo: "”", laquo: "«",
  raquo: "»", times: "×", divide: "÷", plusmn: "±", deg: "°", middot: "·", bull: "•", le: "≤", ge: "≥",
  ne: "≠", larr: "←", rarr: "→", uarr: "↑", darr: "↓", euro: "€", pound: "£", sect: "§", para: "¶",
};

function decoded(text) {
  return text.replace(/&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([a-zA-Z]{2,8}));/g, (whole, decimal, hex, name) => {
    if (name) return ENTITIES[name] ?? whole;
    const code = decimal ? Number(decimal) : Number.parseInt(hex, 16);
    return code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000) ? String.fromCodePoint(code) : "\ufffd";
  });
}

/** Where a link may lead; null for nowhere. */
function safeHref(href) {
  try {
    const url = new URL(href);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function link(href, title, children) {
  const target = safeHref(decoded(href));
  if (!target) return el("span", { title: href }, ...children);
  return el("a", { href: target, target: "_blank", rel: "noopener noreferrer nofollow", title: title || undefined }, ...children);
}

const INLINE = {
  text: (token) => (token.tokens ? inline(token.tokens) : [decoded(token.text)]),
  escape: (token) => [token.text],
  strong: (token) => [el("strong", {}, ...inline(token.tokens))],
  em: (token) => [el("em", {}, ...inline(token.tokens))],
  del: (token) => [el("del", {}, ...inline(token.tokens))],
  codespan: (token) => [el("code", {}, token.text)],
  br: () => [el("br")],
  link: (token) => [link(token.href, token.title, inline(token.tokens))],
  // A picture is a request to a host that the text chose, with what it likes in the address.
  image: (token) => [link(token.href, token.title, [token.text || token.href])],
  html: (token) => (/^<br\s*\/?>$/i.test(token.raw.trim()) ? [el("br")] : [token.raw]),
  math: (token) => [math(token.tex, token.display)],
};

function inline(tokens = []) {
  return tokens.flatMap((token) => (INLINE[token.type] ?? ((other) => [other.raw]))(token));
}

function item(token) {
  // A tight item's text stands without a paragraph.
  const inner = token.tokens.flatMap((part) => {
    if (part.type === "checkbox") return [];
    if (!token.loose && part.type === "text") return inline(part.tokens ?? [part]);
    if (!token.loose && part.type === "paragraph") return inline(part.tokens);
    return blocks([part]);
  });
  if (!token.task) return el("li", {}, ...inner);
  const box = el("input", { type: "checkbox", disabled: true, checked: token.checked, "aria-label": token.checked ? "done" : "open" });
  return el("li", { class: "task" }, box, " ", ...inner);
}

function row(cells, tag, align) {
  return el("tr", {}, ...cells.map((cell, at) => {
    const made = el(tag, { class: align[at] ? `to-${align[at]}` : undefined }, ...inline(cell.tokens));
    if (tag === "th") made.scope = "col";
    return made;
  }));
}

const BLOCKS = {
  space: () => [],
  def: () => [],
  hr: () => [el("hr")],
  // The page has h1 and a h2 for each message.
  heading: (token) => [el(`h${Math.min(token.depth + 2, 6)}`, { class: `level${token.depth}` }, ...inline(token.tokens))],
  paragraph: (token) => [el("p", {}, ...inline(token.tokens))],
  text: (token) => [el("p", {}, ...INLINE.text(token))],
  html: (token) => [el("p", { class: "raw" }, token.raw.trimEnd())],
  blockquote: (token) => [el("blockquote", {}, ...blocks(token.tokens))],
  code: (token) => [codeBlock(token.text, (token.lang ?? "").trim().split(/\s+/)[0])],
  list: (token) => [el(token.ordered ? "ol" : "ul", { start: token.ordered && token.start > 1 ? token.start : undefined }, ...token.items.map(item))],
  table: (token) => [el("div", { class: "scroller table", role: "region", "aria-label": "Table" }, el("table", {},
    el("thead", {}, row(token.header, "th", token.align)),
    el("tbody", {}, ...token.rows.map((cells) => row(cells, "td", token.align)))))],
  mathBlock: (token) => [math(token.tex, true)],
};

function blocks(tokens) {
  return tokens.flatMap((token) => (BLOCKS[token.type] ?? ((other) => [el("p", {}, ...inline([other]))]))(token));
}

/** Shows a growing text in an element; what has not changed since the last time stays as it is. */
export class Rendered {
  #shown = [];

  constructor(root) {
    this.root = root;
  }

  show(text) {
    const tokens = marked.lexer(text);
    // Links by reference change what stands before them.
    const links = JSON.stringify(tokens.links ?? {});
    let same = 0;
    if (links === this.links) {
      while (same < tokens.length && same < this.#shown.length && this.#shown[same].raw === tokens[same].raw
        && this.#shown[same].type === tokens[same].type) same += 1;
    }
    this.links = links;
    for (const gone of this.#shown.splice(same)) gone.nodes.forEach((node) => node.remove());
    for (const token of tokens.slice(same)) {
      const nodes = blocks([token]);
      this.root.append(...nodes);
      this.#shown.push({ raw: token.raw, type: token.type, nodes });
    }
  }
}
