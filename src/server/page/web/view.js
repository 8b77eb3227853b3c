// One message's element. Markdown, formulas, code and buttons are made only while the message is near the
// window: before, it holds its plain text, which a search in the page and a screen reader find.

import { copyButton, el, icon, reachScrollers, tool } from "./dom.js";
import { Rendered } from "./markdown.js";
import { figures, notes, seconds } from "./notes.js";
import { rewriteForm } from "./rewrite.js";
import { say } from "./say.js";

/** A growing answer is laid out at most this often, in milliseconds. */
const PACE = 80;

export class View {
  #body = null;
  #thought = null;
  #thoughtOpen = false;
  #timer = null;
  #shown = 0;
  #form = null;
  isDrawn = false;

  /** `onsize` is called when the element has been drawn and may have another height. */
  constructor(message, chat, name, onsize) {
    this.message = message;
    this.chat = chat;
    this.onsize = onsize;
    this.isMine = message.role === "user";
    const id = `m-${message.id}`;
    this.head = el("h2", { id, class: "who" }, this.isMine ? "You" : message.model ?? name);
    this.prose = el("div", { class: this.isMine ? "said" : "prose plain" }, message.content);
    this.notes = el("div", { class: "notes" });
    this.actions = el("div", { class: "actions" });
    this.article = el("article", { "aria-labelledby": id }, this.head, this.prose, this.notes, this.actions);
    this.node = el("div", { class: `message ${message.role}`, role: "listitem" }, this.article);
    this.node.dataset.state = message.state ?? "done";
    if (message.files) this.prose.before(this.#files());
  }

  #files() {
    return el("ul", { class: "files", "aria-label": "Attached files" }, ...this.message.files.map(({ name, tokens }) => (
      el("li", { class: "file" }, icon("file"), el("span", {}, name), tokens ? el("span", { class: "aside" }, `${tokens.toLocaleString()} tokens`) : null))));
  }

  /** Makes what the message looks like. */
  draw() {
    if (this.isDrawn) return;
    this.isDrawn = true;
    if (this.isMine) {
      this.#mine();
    } else {
      this.prose.classList.remove("plain");
      this.prose.replaceChildren();
      this.#body = new Rendered(this.prose);
      this.#grow();
      if (this.message.state === "done") this.#finish();
    }
    this.onsize();
  }

  /** Goes back to plain text, unless the user is in there or it is growing. */
  undraw() {
    const isBusy = this.message.state && this.message.state !== "done";
    const selection = document.getSelection();
    if (!this.isDrawn || isBusy || this.#form || this.node.contains(document.activeElement)
      || (!selection.isCollapsed && selection.containsNode(this.node, true))) return;
    this.isDrawn = false;
    this.actions.replaceChildren();
    if (this.isMine) return;
    this.notes.replaceChildren();
    this.#thoughtOpen = this.#thought?.details.open ?? false;
    this.#thought?.details.remove();
    this.#thought = null;
    this.#body = null;
    this.prose.classList.add("plain");
    this.prose.replaceChildren(this.message.content);
  }

  /** The message has changed. */
  update() {
    if (this.message.state === "done") {
      clearTimeout(this.#timer);
      this.#timer = null;
      this.#grow();
      this.#finish();
      this.onsize();
    } else if (this.#timer === null) {
      this.#timer = setTimeout(() => {
        this.#timer = null;
        this.#grow();
        this.onsize();
      }, Math.max(0, PACE - (performance.now() - this.#shown)));
    }
  }

  #grow() {
    this.#shown = performance.now();
    const { message } = this;
    this.node.dataset.state = message.state;
    this.prose.setAttribute("aria-busy", String(message.state !== "done"));
    if (message.model && this.head.textContent !== message.model) this.head.textContent = message.model;
    if (message.thought) this.#drawThought();
    this.#drawProgress();
    this.#body.show(message.content);
  }

  /** How far the model's load is, then how much of the prompt has been read, until the answer begins. */
  #drawProgress() {
    const { load, progress, state = "done" } = this.message;
    if (state === "done") return;
    if (state !== "waiting" || !(load || progress)) {
      this.notes.replaceChildren();
      return;
    }
    const [bar, text] = load ? this.#load() : [
      { max: Math.max(1, progress.total), value: progress.processed, "aria-label": "The prompt that has been read" },
      `Reading the prompt: ${progress.processed.toLocaleString()} of ${progress.total.toLocaleString()} tokens`];
    this.notes.replaceChildren(el("div", { class: "reading" }, el("progress", bar), el("p", { class: "note" }, text)));
  }

  /** The bar and the words for the model's load; without a value the bar only moves. */
  #load() {
    const { load, model } = this.message;
    const name = model ?? "the model";
    if (load.state === "waiting") return [{ "aria-label": "Waiting for the model" }, `Waiting for ${name}: place ${load.place} in the line`];
    const label = { "aria-label": "The model's weights that are loaded" };
    if (load.value === undefined) return [label, `Loading ${name}`];
    return [{ ...label, max: 1, value: load.value }, `Loading ${name}: ${Math.floor(load.value * 100)}%`];
  }

  #drawThought() {
    const { message } = this;
    if (!this.#thought) {
      const text = el("div", { class: "thought-text prose" });
      const title = el("span", {});
      const details = el("details", { class: "thought", open: this.#thoughtOpen }, el("summary", {}, icon("fold"), title), text);
      this.head.after(details);
      this.#thought = { title, details, rendered: new Rendered(text), text: "" };
    }
    const thinking = message.state !== "done" && message.content === "";
    this.#thought.details.classList.toggle("now", thinking);
    const long = (message.thoughtMs ?? 0) >= 500;
    const title = thinking ? "Thinking…" : long ? `Thought for ${seconds(message.thoughtMs)}` : "Thought";
    if (this.#thought.title.textContent !== title) this.#thought.title.textContent = title;
    if (this.#thought.text !== message.thought) {
      this.#thought.text = message.thought;
      this.#thought.rendered.show(message.thought.trim());
    }
  }

  #mine() {
    this.actions.replaceChildren(
      tool("edit", "Edit the question", () => this.#edit()),
      copyButton(() => this.message.content, "Copy the question", say),
      ...this.#versions());
  }

  #finish() {
    const { message, chat } = this;
    const again = () => chat.again(message);
    this.notes.replaceChildren(...notes(message, again));
    this.actions.replaceChildren(
      copyButton(() => message.content, "Copy the answer", say),
      tool("again", "Answer again", again),
      ...this.#versions(),
      el("span", { class: "figures-line" }, figures(message, chat.context)));
    reachScrollers(this.node);
  }

  /** Buttons that show the other versions of the message, if there are any. */
  #versions() {
    const all = this.chat.versions(this.message);
    if (all.length < 2) return [];
    const at = all.indexOf(this.message);
    const step = (name, label, other) => {
      const button = tool(name, label, () => {
        this.chat.choose(other);
        say(`Version ${all.indexOf(other) + 1} of ${all.length}`);
      });
      button.disabled = !other;
      return button;
    };
    return [el("span", { class: "versions", role: "group", "aria-label": "Versions" },
      step("before", "Previous version", all[at - 1]),
      el("span", { class: "version" }, `${at + 1} of ${all.length}`),
      step("after", "Next version", all[at + 1]))];
  }

  /** What follows from siblings that came or went. */
  refresh() {
    if (!this.isDrawn || (this.message.state && this.message.state !== "done")) return;
    if (this.isMine) this.#mine();
    else this.#finish();
  }

  #edit() {
    if (this.chat.running || this.#form) return;
    const close = () => {
      this.#form.replaceWith(this.prose);
      this.#form = null;
      this.actions.hidden = false;
      this.actions.querySelector("button").focus();
    };
    this.#form = rewriteForm(this.message.content, (text) => this.chat.edit(this.message, text), close);
    this.prose.replaceWith(this.#form);
    this.actions.hidden = true;
    this.#form.querySelector("textarea").focus();
  }
}
