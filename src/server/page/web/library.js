// All conversations, as every tab of this page sees them. Changes go to the database first, then to the other
// tabs by a channel.

import { Database, Full, Gone, LIMITS } from "./database.js";

/** What the list says of a conversation that has no name of its own: its first question, cut at a word. */
export function titleOf(nodes) {
  const first = nodes.find((node) => node.role === "user");
  const text = (first?.content || first?.files?.[0]?.name || "New conversation").replace(/\s+/g, " ").trim();
  return text.length <= 60 ? text : `${text.slice(0, 60).replace(/\s\S*$/, "")}…`;
}

/** The text around the first place of `wanted` (lower case) in a tree; null if it is not in there. */
function excerpt(tree, wanted) {
  for (const { content } of tree.nodes) {
    const at = content.toLowerCase().indexOf(wanted);
    if (at >= 0) return content.slice(Math.max(0, at - 30), at + 60).replace(/\s+/g, " ");
  }
  return null;
}

export class Library extends EventTarget {
  #database = null;
  #channel = new BroadcastChannel("phi4d");
  /** The list, most recently changed first. */
  heads = [];
  /** Why nothing is kept; "" if it is. */
  fault = "";

  /** Opens the database; a browser that keeps nothing is no error. */
  async open() {
    try {
      this.#database = await Database.open();
      await this.#refresh();
    } catch {
      this.fault = "This browser does not let the page keep conversations: they end with this tab.";
    }
    this.#channel.onmessage = async ({ data }) => {
      await this.#refresh();
      this.dispatchEvent(new CustomEvent("elsewhere", { detail: data.id }));
    };
    this.dispatchEvent(new Event("change"));
  }

  async #refresh() {
    if (!this.#database) return;
    this.heads = await this.#database.heads();
    this.dispatchEvent(new Event("change"));
  }

  async #changed(id) {
    await this.#refresh();
    this.#channel.postMessage({ id });
  }

  has(id) {
    return this.heads.some((head) => head.id === id);
  }

  get bytes() {
    return this.heads.reduce((sum, head) => sum + head.bytes, 0);
  }

  tree(id) {
    return this.#database?.tree(id);
  }

  /** Writes a conversation; returns its head, or null if it was deleted or can't be kept. */
  async save(record, isNew) {
    if (!this.#database) return null;
    try {
      const head = await this.#database.save(record, isNew);
      this.fault = "";
      await this.#changed(record.id);
      return head;
    } catch (error) {
      if (error instanceof Gone) return null;
      this.fault = error instanceof Full
        ? `Storage is full (${LIMITS.conversations.toLocaleString()} conversations or ${LIMITS.bytes / 1024 / 1024} MiB): this conversation is not saved. Export and delete old ones.`
        : `This conversation could not be saved: ${error.message}.`;
      this.dispatchEvent(new Event("change"));
      return null;
    }
  }

  async rename(id, title) {
    await this.#database.rename(id, title);
    await this.#changed(id);
  }

  async remove(id) {
    await this.#database.remove(id);
    await this.#changed(id);
  }

  async restore(id) {
    await this.#database.restore(id);
    await this.#changed(id);
  }

  /** Excerpts by id, of conversations that contain `text`; empty if `signal` aborts. */
  async search(text, signal) {
    const found = new Map();
    const wanted = text.toLowerCase();
    await this.#database?.each((tree) => {
      const part = excerpt(tree, wanted);
      if (part !== null) found.set(tree.id, part);
      return !signal.aborted;
    });
    return found;
  }

  /** All conversations, or those of `ids`, as they are exported. */
  async records(ids = this.heads.map((head) => head.id)) {
    const records = [];
    for (const id of ids) {
      const head = this.heads.find((one) => one.id === id);
      const tree = await this.tree(id);
      if (head && tree) records.push({ ...head, nodes: tree.nodes, leaf: tree.leaf });
    }
    return records;
  }
}
