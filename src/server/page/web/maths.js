// Mathematics by KaTeX, which is loaded when the first formula comes.

import { el, reachScrollers } from "./dom.js";

let katex = null;
let loading = null;

function load() {
  loading ??= import("./vendor/katex.min.js").then(() => {
    katex = globalThis.katex;
  });
  return loading;
}

const OPTIONS = { throwOnError: true, strict: "ignore", trust: false, maxExpand: 1000, maxSize: 20 };

function set(node, tex, display) {
  try {
    katex.render(tex, node, { ...OPTIONS, displayMode: display });
  } catch {
    // Not yet whole, or not what KaTeX knows: the source says it.
    node.replaceChildren(el("code", {}, tex));
  }
}

/** A formula. Until KaTeX is there, and where it can't, its source. */
export function math(tex, display) {
  const node = el("span", { class: display ? "scroller formula" : "formula-inline" });
  if (katex) set(node, tex, display);
  else {
    node.append(el("code", {}, tex));
    load().then(() => {
      set(node, tex, display);
      if (node.parentElement) reachScrollers(node.parentElement);
    }, () => {});
  }
  return node;
}

// What may stand between the signs; a single dollar is money unless it hugs both ends.
const INLINE = [
  { rule: /^\\\(([\s\S]+?)\\\)/, display: false },
  { rule: /^\\\[([\s\S]+?)\\\]/, display: true },
  { rule: /^\$\$((?:\\.|[^$\\])+?)\$\$/, display: true },
  { rule: /^\$(?![\s$])((?:\\.|[^$\\\n])*?(?:\\.|[^\s$\\]))\$(?![\d$])/, display: false },
];
const BLOCK = [/^ {0,3}\$\$\s*\n?([\s\S]+?)\n?\s*\$\$[ \t]*(?:\n+|$)/, /^ {0,3}\\\[\s*([\s\S]+?)\s*\\\][ \t]*(?:\n+|$)/];

/** Extensions of `marked`: tokens `math` and `mathBlock` with `tex`. */
export const mathExtensions = [
  {
    name: "mathBlock",
    level: "block",
    start: (text) => text.match(/(?:^|\n) {0,3}(?:\$\$|\\\[)/)?.index,
    tokenizer(text) {
      for (const rule of BLOCK) {
        const found = rule.exec(text);
        // A blank line ends whatever it was.
        if (found && !/\n\s*\n/.test(found[1])) return { type: "mathBlock", raw: found[0], tex: found[1] };
      }
      return undefined;
    },
  },
  {
    name: "math",
    level: "inline",
    start: (text) => text.match(/\$|\\[([]/)?.index,
    tokenizer(text) {
      for (const { rule, display } of INLINE) {
        const found = rule.exec(text);
        if (found) return { type: "math", raw: found[0], tex: found[1], display };
      }
      return undefined;
    },
  },
];
