// The conversation on the page: a list of messages, of which only those near the window are drawn.

import { byId, el, reachScrollers } from "./dom.js";
import { View } from "./view.js";

/** Messages within this distance of the window are drawn. */
const NEAR = "100% 0px";
/**
 * Messages are drawn, and skipped by the browser's layout, in groups of so many: watching each of thousands would
 * cost more in every frame than drawing some more.
 */
const GROUP = 8;

export class Messages {
  #views = [];
  #groups = [];
  /** Whether the end stays in view as it moves: until the user scrolls up, and from when they are back at it. */
  #following = true;
  #top = 0;
  #observer;
  /** The model's name. */
  name = "Answer";

  constructor(chat) {
    this.chat = chat;
    this.list = byId("messages");
    this.#observer = new IntersectionObserver((entries) => this.#seen(entries), { rootMargin: NEAR });
    chat.addEventListener("structure", ({ detail }) => this.#structure(detail));
    chat.addEventListener("message", ({ detail }) => this.#viewOf(detail)?.update());
    document.fonts.addEventListener("loadingdone", () => reachScrollers(this.list));
    window.addEventListener("resize", () => reachScrollers(this.list));
    window.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    // Opening a thought must not scroll away from who reads there.
    this.list.addEventListener("toggle", () => {
      this.#following = this.#near();
      this.#latest();
    }, true);
    byId("latest").addEventListener("click", () => this.follow(true));
    this.#structure("open");
  }

  rename(name) {
    if (name === this.name) return;
    this.name = name;
    for (const { message, head } of this.#views) {
      if (message.role === "assistant" && !message.model) head.textContent = name;
    }
  }

  #viewOf(message) {
    // Nearly always the last one.
    return this.#views.findLast((view) => view.message === message);
  }

  #seen(entries) {
    for (const { target, isIntersecting } of entries) {
      const first = GROUP * this.#groups.indexOf(target);
      if (first < 0) continue;
      for (const view of this.#views.slice(first, first + GROUP)) {
        if (isIntersecting) view.draw();
        else view.undraw();
      }
    }
  }

  /** Removes the messages from `index` on. */
  #cut(index) {
    for (const { node } of this.#views.splice(index)) node.remove();
    for (const group of this.#groups.splice(Math.ceil(index / GROUP))) {
      this.#observer.unobserve(group);
      group.remove();
    }
  }

  #add(message) {
    const view = new View(message, this.chat, this.name, () => this.follow(this.#following));
    if (this.#views.length % GROUP === 0) {
      const group = el("div", { class: "group" });
      this.#groups.push(group);
      this.list.append(group);
      this.#observer.observe(group);
    }
    this.#views.push(view);
    this.#groups.at(-1).append(view.node);
    return view;
  }

  /** Shows what was added or taken away. */
  #structure(why) {
    const { messages } = this.chat;
    const changed = this.#views.findIndex((view, at) => view.message !== messages[at]);
    const same = changed < 0 ? this.#views.length : changed;
    this.#cut(same);
    for (const message of messages.slice(same)) this.#add(message);
    // The observer reports only changes, so what was added to a group in view would stay as it is.
    const grown = this.#groups[Math.floor(same / GROUP)];
    if (grown) {
      this.#observer.unobserve(grown);
      this.#observer.observe(grown);
    }
    // The end is what is looked at; it must not be plain text for a moment.
    for (const view of this.#views.slice(same).slice(-2)) view.draw();
    for (const view of this.#views.slice(Math.max(0, same - 1))) view.refresh();
    byId("welcome").hidden = messages.length > 0;
    if (why === "choose") this.#near() || this.#latest();
    else if (why !== "elsewhere" || this.#following) this.follow(true);
  }

  #near() {
    const root = document.scrollingElement;
    return root.scrollHeight - root.scrollTop - root.clientHeight < 120;
  }

  // What grew since the last scrolling moved the end away, not the user: only scrolling up is theirs.
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
