// Conversations in the browser's IndexedDB: a small record of each for the list (`heads`), and its messages
// (`trees`). Both are bounded; what does not fit is refused, never dropped silently.

import { merged } from "./tree.js";

export const LIMITS = { conversations: 1000, bytes: 64 * 1024 * 1024 };

/** The database is full, by our bounds or the browser's. */
export class Full extends Error {}

/** The conversation was deleted meanwhile, by another tab. */
export class Gone extends Error {}

/** A deleted conversation can be restored for so long, in milliseconds. */
const KEPT_AFTER_DELETE = 60_000;

const settled = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

export class Database {
  #db;

  /** Opens it; rejects if the browser keeps nothing. */
  static async open() {
    const request = indexedDB.open("phi4d", 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("heads", { keyPath: "id" });
      request.result.createObjectStore("trees", { keyPath: "id" });
    };
    const database = new Database();
    database.#db = await settled(request);
    // A newer release in another tab must be able to upgrade it.
    database.#db.onversionchange = () => database.#db.close();
    await database.#purge();
    return database;
  }

  /** Runs `work` in one transaction over both stores; all of its writes happen or none. */
  async #transact(mode, work) {
    const transaction = this.#db.transaction(["heads", "trees"], mode);
    const done = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error ?? new Error("the browser stopped writing"));
    });
    // Its failure is reported by `work`, too; whichever comes first is thrown.
    done.catch(() => {});
    try {
      const result = await work(transaction.objectStore("heads"), transaction.objectStore("trees"));
      await done;
      return result;
    } catch (error) {
      try {
        transaction.abort();
      } catch {
        // It has ended already.
      }
      throw error.name === "QuotaExceededError" ? new Full() : error;
    }
  }

  /** The list, most recently changed first, without what is deleted. */
  async heads() {
    const all = await this.#transact("readonly", (heads) => settled(heads.getAll()));
    return all.filter((head) => !head.deleted).sort((one, other) => other.changed - one.changed);
  }

  /** `{id, nodes, leaf}`, or undefined. */
  tree(id) {
    return this.#transact("readonly", (_, trees) => settled(trees.get(id)));
  }

  /**
   * Writes a conversation, with what other tabs have added to it; returns its head.
   * `isNew`: it has not been saved before, so it cannot have been deleted.
   */
  save({ id, title, named, created, nodes, leaf }, isNew) {
    return this.#transact("readwrite", async (heads, trees) => {
      const [all, stored] = await Promise.all([settled(heads.getAll()), settled(trees.get(id))]);
      const before = all.find((head) => head.id === id);
      if (!isNew && (!before || before.deleted)) throw new Gone();
      const tree = { id, nodes: stored ? merged(stored.nodes, nodes) : nodes, leaf };
      const bytes = JSON.stringify(tree).length;
      const others = all.filter((head) => head.id !== id);
      const used = others.reduce((sum, head) => sum + head.bytes, 0);
      if (others.length >= LIMITS.conversations || used + bytes > LIMITS.bytes) throw new Full();
      const head = {
        id, created, bytes, changed: Date.now(), count: tree.nodes.length,
        // A name that another tab gave stays.
        title: before?.named && !named ? before.title : title, named: Boolean(named || before?.named),
      };
      await Promise.all([settled(heads.put(head)), settled(trees.put(tree))]);
      return head;
    });
  }

  async #change(id, change) {
    await this.#transact("readwrite", async (heads) => {
      const head = await settled(heads.get(id));
      if (head) await settled(heads.put(change(head)));
    });
  }

  rename(id, title) {
    return this.#change(id, (head) => ({ ...head, title, named: true }));
  }

  /** Takes it off the list; `restore` brings it back for a minute. */
  remove(id) {
    return this.#change(id, (head) => ({ ...head, deleted: Date.now() }));
  }

  restore(id) {
    return this.#change(id, ({ deleted, ...head }) => head);
  }

  /** Deletes for good what was deleted a while ago. */
  #purge() {
    return this.#transact("readwrite", async (heads, trees) => {
      const all = await settled(heads.getAll());
      const old = all.filter((head) => head.deleted && head.deleted < Date.now() - KEPT_AFTER_DELETE);
      await Promise.all(old.flatMap(({ id }) => [settled(heads.delete(id)), settled(trees.delete(id))]));
    });
  }

  /** Calls `visit` with each tree, one after another, so that only one is in memory. */
  each(visit) {
    return this.#transact("readonly", (_, trees) => new Promise((resolve, reject) => {
      const request = trees.openCursor();
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (!cursor || visit(cursor.value) === false) resolve();
        else cursor.continue();
      };
    }));
  }
}
