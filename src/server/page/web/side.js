// The list of conversations: open, search, rename, export, delete. Beside the conversation in a wide window, over
// it in a narrow one.

import { byId, el, icon, tool } from "./dom.js";
import { say } from "./say.js";
import { kept } from "./store.js";
import { toast } from "./toast.js";
import { exportRecords, recordsOf } from "./transfer.js";

const WIDE = "(min-width: 64rem)";
/** Searching waits until typing pauses, in milliseconds. */
const PAUSE = 150;

const size = (bytes) => (bytes < 1024 * 1024 ? `${Math.ceil(bytes / 1024)} KiB` : `${(bytes / 1024 / 1024).toFixed(1)} MiB`);

export class Side {
  #chat;
  #library;
  #dialog = byId("side");
  #wide = matchMedia(WIDE);
  /** Excerpts by id while something is searched for. */
  #found = null;
  /** Rows by id, with what they look like. */
  #rows = new Map();
  #search = new AbortController();
  #timer = null;

  constructor(chat, library) {
    this.#chat = chat;
    this.#library = library;
    library.addEventListener("change", () => this.#list());
    chat.addEventListener("structure", () => this.#list());
    chat.addEventListener("end", () => this.#list());
    this.#wide.addEventListener("change", () => this.#place());
    byId("conversations").addEventListener("click", () => this.#toggle());
    byId("side-close").addEventListener("click", () => this.#toggle());
    this.#dialog.addEventListener("close", () => this.#expanded());
    byId("search").addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#find(), PAUSE);
    });
    byId("export").addEventListener("click", async () => exportRecords(await library.records()));
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", () => this.#import());
    this.#place();
  }

  /** Opens or closes it as the window's width and the user's choice have it. */
  #place() {
    if (this.#dialog.open) this.#dialog.close();
    // Not by show(), which would take the focus.
    if (this.#wide.matches && kept.side.get() !== false) this.#dialog.setAttribute("open", "");
    this.#expanded();
  }

  #expanded() {
    byId("conversations").setAttribute("aria-expanded", String(this.#dialog.open));
    document.body.classList.toggle("with-side", this.#dialog.open && this.#wide.matches);
  }

  #toggle() {
    const open = !this.#dialog.open;
    if (this.#wide.matches) kept.side.set(open);
    if (!open) this.#dialog.close();
    else if (this.#wide.matches) this.#dialog.setAttribute("open", "");
    else this.#dialog.showModal();
    this.#expanded();
  }

  async #find() {
    const text = byId("search").value.trim();
    this.#search.abort();
    this.#search = new AbortController();
    const { signal } = this.#search;
    const found = text === "" ? null : await this.#library.search(text, signal);
    if (signal.aborted) return;
    this.#found = found;
    this.#list();
    if (found) say(`${this.#shown().length} found`);
  }

  /** The heads that are listed: all, or those with what is searched for. */
  #shown() {
    if (!this.#found) return this.#library.heads;
    const wanted = byId("search").value.trim().toLowerCase();
    return this.#library.heads.filter(({ id, title }) => this.#found.has(id) || title.toLowerCase().includes(wanted));
  }

  #list() {
    const { heads, fault, bytes } = this.#library;
    const shown = this.#shown();
    const held = this.#dialog.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    // A name that is being typed is not taken away.
    if (!byId("list").querySelector("form")) this.#arrange(shown.map((head) => this.#rowOf(head)));
    if (held) this.#dialog.querySelector(`[data-key="${held}"]`)?.focus();
    byId("side-none").hidden = shown.length > 0;
    byId("side-none").textContent = this.#found ? "Nothing found." : "No conversations yet.";
    byId("side-fault").textContent = fault;
    byId("side-fault").hidden = fault === "";
    byId("export").disabled = heads.length === 0;
    byId("side-size").textContent = heads.length > 0 ? `${heads.length} kept in this browser, ${size(bytes)}` : "";
  }

  /** Shows these rows in this order. Of a thousand, mostly one has moved. */
  #arrange(rows) {
    const list = byId("list");
    for (const [at, row] of rows.entries()) {
      if (list.children[at] !== row) list.insertBefore(row, list.children[at] ?? null);
    }
    while (list.children.length > rows.length) list.lastElementChild.remove();
  }

  /** The row of a conversation: the one before, if it would look the same. */
  #rowOf(head) {
    const isOpen = head.id === this.#chat.conversation.id;
    const looks = JSON.stringify([head.title, isOpen, this.#chat.isRunning(head.id), this.#found?.get(head.id)]);
    const before = this.#rows.get(head.id);
    if (before?.looks === looks) return before.row;
    const row = this.#row(head);
    this.#rows.set(head.id, { row, looks });
    return row;
  }

  #row(head) {
    const isOpen = head.id === this.#chat.conversation.id;
    const open = el("button", {
      type: "button", class: "open", "aria-current": isOpen ? "true" : null, "data-key": `open-${head.id}`,
      onclick: () => this.#open(head.id),
    }, el("span", { class: "title" }, head.title));
    if (this.#chat.isRunning(head.id)) open.append(el("span", { class: "aside" }, "answering…"));
    else if (this.#found?.get(head.id)) open.append(el("span", { class: "aside" }, this.#found.get(head.id)));
    const button = (name, label, act) => {
      const made = tool(name, `${label}: ${head.title}`, act);
      made.dataset.key = `${name}-${head.id}`;
      made.title = label;
      return made;
    };
    const row = el("li", { class: isOpen ? "row current" : "row" }, open, el("div", { class: "row-tools" },
      button("edit", "Rename", () => this.#rename(row, head)),
      button("save", "Export", async () => exportRecords(await this.#library.records([head.id]))),
      button("remove", "Delete", () => this.#remove(head))));
    return row;
  }

  async #open(id) {
    await this.#chat.open(id);
    if (!this.#wide.matches) this.#dialog.close();
    byId("question").focus();
  }

  #rename(row, head) {
    const input = el("input", { type: "text", value: head.title, maxLength: 200, "aria-label": "Name of the conversation" });
    const close = () => {
      form.remove();
      this.#rows.delete(head.id);
      this.#list();
      this.#dialog.querySelector(`[data-key="edit-${head.id}"]`)?.focus();
    };
    const form = el("form", {
      class: "naming",
      onsubmit: async (event) => {
        event.preventDefault();
        const title = input.value.trim();
        if (title && title !== head.title) {
          if (this.#chat.conversation.id === head.id) Object.assign(this.#chat.conversation, { title, named: true });
          await this.#library.rename(head.id, title);
        }
        close();
      },
      onkeydown: (event) => {
        if (event.key !== "Escape") return;
        event.preventDefault();
        event.stopPropagation();
        close();
      },
    }, input, el("button", { type: "submit", class: "tool small", "aria-label": "Save the name" }, icon("done")));
    row.replaceChildren(form);
    input.select();
  }

  async #remove({ id, title }) {
    this.#chat.stop(id);
    const wasOpen = this.#chat.conversation.id === id;
    await this.#library.remove(id);
    this.#rows.delete(id);
    if (wasOpen) this.#chat.begin();
    byId("search").focus();
    say("Deleted");
    toast(`Deleted “${title}”.`, "Undo", async () => {
      await this.#library.restore(id);
      if (wasOpen && this.#chat.messages.length === 0) await this.#chat.open(id);
      say("Restored");
    });
  }

  async #import() {
    const input = byId("import-file");
    const [file] = input.files;
    input.value = "";
    if (!file) return;
    try {
      const records = await recordsOf(file);
      let saved = 0;
      for (const record of records) if (await this.#library.save(record, true)) saved += 1;
      toast(saved === records.length ? `Imported ${saved} conversations.` : `Imported ${saved} of ${records.length} conversations. ${this.#library.fault}`);
    } catch (error) {
      toast(error.message);
    }
  }
}
