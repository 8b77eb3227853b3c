// The form in which a question is edited.

import { el } from "./dom.js";

/** `send` gets the new text, `close` is called if the user changes their mind. */
export function rewriteForm(content, send, close) {
  const area = el("textarea", { class: "rewrite", value: content, rows: 3, "aria-label": "The question, edited" });
  return el("form", {
    class: "rewriting",
    onsubmit: (event) => {
      event.preventDefault();
      if (area.value.trim()) send(area.value.trim());
    },
    onkeydown: (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      close();
    },
  }, area, el("div", { class: "choices" },
    el("button", { type: "button", class: "plain", onclick: close }, "Cancel"),
    el("button", { type: "submit", class: "solid" }, "Ask")));
}
