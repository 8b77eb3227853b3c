// The parameters of requests: their fields in the drawer, and what a request gets of them. An empty
// field leaves the choice to the daemon.

import { byId, el } from "./dom.js";
import { kept } from "./store.js";

const number = (key, label, hint, min, max, step) => ({ key, label, hint, min, max, step, kind: "number" });

const MAIN = [
  { key: "system", label: "System prompt", hint: "What holds for the whole conversation.", kind: "text", rows: 4 },
  number("temperature", "Temperature", "0 always takes the likeliest token.", 0, 2, "any"),
  number("top_p", "Top-p", "Chooses among the likeliest tokens of this share.", 0, 1, "any"),
  number("max_tokens", "Most tokens", "Where an answer is cut off. Empty: what fits.", 1, 10_000_000, 1),
];

const MORE = [
  number("top_k", "Top-k", "Chooses among so many tokens; 0 among all.", -1, 1_000_000, 1),
  number("min_p", "Min-p", "Leaves out tokens less likely than this share of the likeliest.", 0, 1, "any"),
  number("repetition_penalty", "Repetition penalty", "Above 1, what was said gets less likely.", 0.01, 10, "any"),
  number("presence_penalty", "Presence penalty", "For each token that was said.", -2, 2, "any"),
  number("frequency_penalty", "Frequency penalty", "For each time that it was.", -2, 2, "any"),
  number("seed", "Seed", "Equal seeds give nearly always equal answers; always if the server is set to be reproducible.", -9_007_199_254_740_991, 9_007_199_254_740_991, 1),
  { key: "stop", label: "Stop at", hint: "One text a line; an answer ends before it.", kind: "lines", rows: 2 },
  {
    key: "reasoning_effort", label: "Thought", hint: "For models that think.", kind: "choice",
    options: [["", "As the model likes"], ["none", "None"], ["minimal", "Very short"], ["low", "Short"], ["medium", "Medium"], ["high", "No limit"]],
  },
  { key: "more", label: "Further fields", hint: "A JSON object that is put into each request.", kind: "json", rows: 3 },
];

/** What is wrong with a field's text, or "". */
function fault(field, text) {
  if (text === "") return "";
  if (field.kind === "number") {
    const value = Number(text);
    if (!Number.isFinite(value)) return "A number is expected.";
    if (field.step === 1 && !Number.isInteger(value)) return "A whole number is expected.";
    const open = field.key === "top_p" && value === 0;
    if (value < field.min || value > field.max || open) {
      return open ? "Expected is more than 0." : `Expected is ${field.min} to ${field.max}.`;
    }
  }
  if (field.kind === "json") {
    try {
      const value = JSON.parse(text);
      if (value === null || typeof value !== "object" || Array.isArray(value)) return "An object is expected: { … }.";
    } catch {
      return "This is no JSON.";
    }
  }
  return "";
}

export class Parameters {
  #texts = {};

  constructor() {
    const stored = kept.parameters.get();
    for (const field of [...MAIN, ...MORE]) {
      const text = stored?.[field.key];
      if (typeof text === "string" && fault(field, text) === "") this.#texts[field.key] = text;
    }
    this.#build();
  }

  /** Fields for a request's body. */
  body() {
    const body = {};
    for (const field of [...MAIN, ...MORE]) {
      const text = this.#texts[field.key] ?? "";
      if (text === "" || field.key === "system") continue;
      if (field.kind === "number") body[field.key] = Number(text);
      else if (field.kind === "lines") body[field.key] = text.split("\n").filter((line) => line !== "");
      else if (field.kind === "json") Object.assign(body, JSON.parse(text));
      else body[field.key] = text;
    }
    return body;
  }

  /** The system prompt; "" for none. */
  system() {
    return this.#texts.system ?? "";
  }

  #set(field, text) {
    if (text === "") delete this.#texts[field.key];
    else this.#texts[field.key] = text;
    kept.parameters.set(this.#texts);
    byId("tune").classList.toggle("set", Object.keys(this.#texts).length > 0);
  }

  #build() {
    const more = el("details", { class: "more", open: MORE.some((field) => this.#texts[field.key]) },
      el("summary", {}, "More"), ...MORE.map((field) => this.#field(field)));
    byId("fields").replaceChildren(...MAIN.map((field) => this.#field(field)), more);
    byId("tune").classList.toggle("set", Object.keys(this.#texts).length > 0);
    byId("tune").addEventListener("click", () => byId("parameters").showModal());
    byId("reset").addEventListener("click", () => {
      for (const input of byId("fields").querySelectorAll("[name]")) {
        input.value = "";
        input.dispatchEvent(new Event("input"));
      }
    });
  }

  #field(field) {
    const id = `p-${field.key}`;
    const common = { id, name: field.key, "aria-describedby": `${id}-hint ${id}-fault` };
    let input;
    if (field.kind === "choice") {
      input = el("select", common, ...field.options.map(([value, text]) => el("option", { value }, text)));
    } else if (field.kind === "number") {
      input = el("input", { ...common, type: "text", inputMode: "decimal", autocomplete: "off", placeholder: "default" });
    } else {
      input = el("textarea", { ...common, rows: field.rows, spellcheck: field.kind === "text" });
      if (field.kind === "json") input.placeholder = '{"ignore_eos": false}';
    }
    input.value = this.#texts[field.key] ?? "";
    const wrong = el("p", { id: `${id}-fault`, class: "fault", role: "alert" });
    input.addEventListener("input", () => {
      const text = field.kind === "number" ? input.value.trim().replace(",", ".") : input.value;
      const found = fault(field, text);
      wrong.textContent = found;
      input.setCustomValidity(found);
      input.toggleAttribute("aria-invalid", found !== "");
      if (found === "") this.#set(field, text);
    });
    return el("div", { class: `field ${field.kind}` },
      el("label", { for: id }, field.label),
      el("p", { id: `${id}-hint`, class: "hint" }, field.hint), input, wrong);
  }
}
