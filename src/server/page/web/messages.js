// The conversation on the page.

import { byId, copyButton, el, icon, reachScrollers, tool } from "./dom.js";
import { Rendered } from "./markdown.js";
import { say } from "./say.js";

/** Not more often than this is a growing answer laid out, in milliseconds. */
const PACE = 80;

const ENDS = {
  length: "Cut off: no more tokens were allowed, or no room was left.",
  content_filter: "Ended by a filter.",
  tool_calls: "The model calls a function, which this page has none of.",
};

function seconds(ms) {
  return ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`;
}

/** One message's element, kept up to date. */
class View {
  #body;
  #thought = null;
  #timer = null;
  #shown = 0;

  constructor(message, index, chat, name) {
    this.message = message;
    this.chat = chat;
    const mine = message.role === "user";
    const id = `m-${index}`;
    this.head = el("h2", { id, class: "who" }, mine ? "You" : name);
    this.prose = el("div", { class: mine ? "said" : "prose" });
    this.notes = el("div", { class: "notes" });
    this.actions = el("div", { class: "actions" });
    this.node = el("li", { class: `message ${message.role}` },
      el("article", { "aria-labelledby": id }, this.head, this.prose, this.notes, this.actions));
    if (mine) {
      this.prose.textContent = message.content;
      this.actions.append(
        tool("edit", "Edit the question", () => this.#edit(index)),
        copyButton(() => message.content, "Copy the question", say));
    } else {
      this.#body = new Rendered(this.prose);
      this.#draw();
      if (message.state === "done") this.#finish(index);
    }
  }

  /** The message has changed. */
  update(index) {
    if (this.message.state === "done") {
      clearTimeout(this.#timer);
      this.#timer = null;
      this.#draw();
      this.#finish(index);
      return;
    }
    if (this.#timer !== null) return;
    const wait = Math.max(0, PACE - (performance.now() - this.#shown));
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#draw();
      this.onsize?.();
    }, wait);
  }

  #draw() {
    this.#shown = performance.now();
    const { message } = this;
    this.node.dataset.state = message.state;
    this.prose.setAttribute("aria-busy", String(message.state !== "done"));
    if (message.thought) this.#drawThought();
    this.#body.show(message.content);
  }

  #drawThought() {
    const { message } = this;
    if (!this.#thought) {
      const text = el("div", { class: "thought-text prose" });
      const title = el("span", {});
      const details = el("details", { class: "thought" }, el("summary", {}, icon("fold"), title), text);
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

  #finish(index) {
    const { message, chat } = this;
    const again = () => chat.again(index);
    this.notes.replaceChildren();
    if (message.error) {
      const after = message.retryAfter ? ` It asks to wait ${message.retryAfter} s.` : "";
      this.notes.append(el("div", { class: "error", role: "alert" }, el("p", {}, message.error + after),
        el("button", { type: "button", class: "plain", onclick: again }, "Try again")));
    } else if (message.stopped) {
      this.notes.append(el("p", { class: "note" }, "Stopped."));
    } else if (ENDS[message.finish]) {
      this.notes.append(el("p", { class: "note" }, ENDS[message.finish]));
    } else if (message.content === "" && !message.thought) {
      this.notes.append(el("p", { class: "note" }, "The model said nothing."));
    }
    const figures = [];
    if (message.tokens) figures.push(`${message.tokens} tokens`);
    if (message.rate) figures.push(`${message.rate.toFixed(message.rate < 10 ? 1 : 0)} tokens/s`);
    if (message.firstMs) figures.push(`first after ${seconds(message.firstMs)}`);
    this.actions.replaceChildren(
      copyButton(() => message.content, "Copy the answer", say),
      tool("again", "Answer again", again),
      el("span", { class: "figures-line" }, figures.join(" · ")));
    reachScrollers(this.node);
  }

  #edit(index) {
    if (this.chat.running || this.node.querySelector("form")) return;
    const area = el("textarea", { class: "rewrite", value: this.message.content, rows: 3, "aria-label": "The question, to be asked anew" });
    const close = () => {
      form.replaceWith(this.prose);
      this.actions.hidden = false;
      this.actions.querySelector("button").focus();
    };
    const form = el("form", {
      class: "rewriting",
      onsubmit: (event) => {
        event.preventDefault();
        if (area.value.trim()) this.chat.edit(index, area.value.trim());
      },
      onkeydown: (event) => {
        if (event.key === "Escape") {
          event.stopPropagation();
          close();
        }
      },
    }, area, el("div", { class: "choices" },
      el("button", { type: "button", class: "plain", onclick: close }, "Cancel"),
      el("button", { type: "submit", class: "solid" }, "Ask anew")));
    this.prose.replaceWith(form);
    this.actions.hidden = true;
    area.focus();
  }
}

/** The list of all messages. */
export class Messages {
  #views = [];
  /** Whether the end stays in view as it moves: until the user scrolls up, and from when they are back at it. */
  #following = true;
  #top = 0;
  /** The model's name. */
  name = "Answer";

  constructor(chat) {
    this.chat = chat;
    this.list = byId("messages");
    document.fonts.addEventListener("loadingdone", () => reachScrollers(this.list));
    window.addEventListener("resize", () => reachScrollers(this.list));
    window.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    // A thought opened or closed: who reads there is not taken away from it.
    this.list.addEventListener("toggle", () => {
      this.#following = this.#near();
      this.#latest();
    }, true);
    byId("latest").addEventListener("click", () => this.follow(true));
  }

  rename(name) {
    if (name === this.name) return;
    this.name = name;
    for (const view of this.#views) if (view.message.role === "assistant") view.head.textContent = name;
  }

  /** Shows what has changed: one message, or what was added or taken away. */
  update(message) {
    const { messages } = this.chat;
    if (message === null) {
      const same = this.#views.findIndex((view, at) => view.message !== messages[at]);
      if (same >= 0) this.#views.splice(same).forEach((view) => view.node.remove());
      for (const added of messages.slice(this.#views.length)) {
        const view = new View(added, this.#views.length, this.chat, this.name);
        view.onsize = () => this.follow(this.#following);
        this.#views.push(view);
        this.list.append(view.node);
      }
      byId("welcome").hidden = messages.length > 0;
      this.follow(true);
      return;
    }
    const index = this.#views.findIndex((view) => view.message === message);
    if (index < 0) return;
    this.#views[index].update(index);
    this.follow(this.#following);
  }

  #near() {
    const root = document.scrollingElement;
    return root.scrollHeight - root.scrollTop - root.clientHeight < 120;
  }

  // What grew since the last scrolling took the end away, and not the user: only a way up is theirs.
  #scrolled() {
    const { scrollTop } = document.scrollingElement;
    if (this.#near()) this.#following = true;
    else if (scrollTop < this.#top) this.#following = false;
    this.#top = scrollTop;
    this.#latest();
  }

  /** Scrolls to the end, if `wanted`. */
  follow(wanted) {
    if (wanted) {
      this.#following = true;
      const root = document.scrollingElement;
      root.scrollTo({ top: root.scrollHeight, behavior: "instant" });
    }
    this.#latest();
  }

  #latest() {
    byId("latest").hidden = this.#near() || this.chat.messages.length === 0;
  }
}
