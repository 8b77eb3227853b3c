// A conversation's messages as a tree: editing a question or regenerating an answer adds a sibling, so that
// no branch is lost. The page shows the path from the root to `leaf`.

/** At most so many messages are read from a file or kept in one conversation. */
const MOST_NODES = 20_000;

export const newId = () => {
  // randomUUID exists only in secure contexts; plain HTTP over a network is none.
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
};

/** Of two versions of one message, the complete one, else the longer one. */
function better(one, other) {
  if (Boolean(one.unfinished) !== Boolean(other.unfinished)) return one.unfinished ? other : one;
  return other.content.length > one.content.length ? other : one;
}

export class Tree {
  /** Messages by id, each after its parent. */
  nodes = new Map();
  #children = new Map();
  /** The last message of the path that is shown; null in an empty conversation. */
  leaf = null;

  /** A tree of stored messages, whose parents stand before them; throws if they do not. */
  static from(nodes, leaf = null) {
    const tree = new Tree();
    for (const node of nodes) tree.#insert(node);
    tree.leaf = tree.nodes.has(leaf) ? leaf : tree.#end(null);
    return tree;
  }

  #insert(node) {
    if (node.parent !== null && !this.nodes.has(node.parent)) throw new Error(`message ${node.id} has no parent`);
    if (this.nodes.size >= MOST_NODES) throw new Error(`a conversation has at most ${MOST_NODES} messages`);
    this.nodes.set(node.id, node);
    const siblings = this.#children.get(node.parent);
    if (siblings) siblings.push(node);
    else this.#children.set(node.parent, [node]);
  }

  /** Adds a message below `parent` and shows it. */
  add(parent, fields) {
    const node = { id: newId(), parent, at: Date.now(), ...fields };
    this.#insert(node);
    this.leaf = node.id;
    return node;
  }

  /** Removes a message that has no answers; its parent is shown then. */
  remove(node) {
    if (this.#children.has(node.id)) return;
    this.nodes.delete(node.id);
    const rest = this.siblings(node).filter((one) => one !== node);
    if (rest.length > 0) this.#children.set(node.parent, rest);
    else this.#children.delete(node.parent);
    if (this.leaf === node.id) this.leaf = node.parent;
  }

  /** The messages that are shown, first to last. */
  path() {
    const path = [];
    for (let node = this.nodes.get(this.leaf); node; node = this.nodes.get(node.parent)) path.push(node);
    return path.reverse();
  }

  /** The versions of a message, itself included, oldest first. */
  siblings(node) {
    return this.#children.get(node.parent) ?? [];
  }

  /** The newest message below `id`. */
  #end(id) {
    let end = id;
    for (let below = this.#children.get(end); below; below = this.#children.get(end)) end = below.at(-1).id;
    return end;
  }

  /** Shows this version and the newest of what follows it. */
  choose(node) {
    this.leaf = this.#end(node.id);
  }

  /** Adds what another tab has added; the path grows if it was continued there. */
  merge(nodes) {
    const wasEnd = this.leaf;
    for (const node of nodes) {
      const own = this.nodes.get(node.id);
      if (!own) this.#insert(node);
      else Object.assign(own, better(own, node));
    }
    this.leaf = this.#end(wasEnd);
  }
}

/** `stored` with the messages of `nodes`; those that only `stored` has stay. */
export function merged(stored, nodes) {
  const all = new Map(stored.map((node) => [node.id, node]));
  for (const node of nodes) {
    const other = all.get(node.id);
    all.set(node.id, other ? better(node, other) : node);
  }
  return [...all.values()];
}
