// The conversation that is shown, and the answers in progress: one in each conversation at most. An answer goes
// on when another conversation is opened.

import { asText } from "./files.js";
import { titleOf } from "./library.js";
import { newId, Tree } from "./tree.js";

/** How often a growing answer is saved, in milliseconds, so that a closed tab loses little of it. */
const SAVE_PACE = 5000;

const started = () => ({ id: newId(), title: "", named: false, created: Date.now(), tree: new Tree(), isNew: true });

export class Chat extends EventTarget {
  /** `{id, title, named, created, tree, isNew}`; `isNew` until it has been saved. */
  conversation = started();
  /** The messages that are shown. */
  messages = [];
  /** Settled when the conversation of before a reload is shown. */
  ready = Promise.resolve();
  #api;
  #parameters;
  #library;
  /** Answers in progress by conversation: `{control, conversation}`. */
  #runs = new Map();

  constructor(api, parameters, library) {
    super();
    this.#api = api;
    this.#parameters = parameters;
    this.#library = library;
    library.addEventListener("elsewhere", ({ detail }) => this.#elsewhere(detail));
    window.addEventListener("pagehide", () => {
      for (const { conversation } of this.#runs.values()) this.#save(conversation);
    });
  }

  /** Whether an answer of the conversation that is shown is in progress. */
  get running() {
    return this.#runs.has(this.conversation.id);
  }

  /** The context's length in tokens; null while it is not known. */
  get context() {
    return this.#api.context;
  }

  isRunning(id) {
    return this.#runs.has(id);
  }

  stop(id = this.conversation.id) {
    this.#runs.get(id)?.control.abort();
  }

  /** Shows a new, empty conversation; the one before stays in the list. */
  begin() {
    this.#show(started());
  }

  /** Shows a conversation of the library's; returns whether it exists. */
  async open(id) {
    const running = this.#runs.get(id);
    if (running) {
      this.#show(running.conversation);
      return true;
    }
    const head = this.#library.heads.find((one) => one.id === id);
    const stored = head && await this.#library.tree(id);
    if (!stored) return false;
    this.#show({ ...head, isNew: false, tree: Tree.from(stored.nodes, stored.leaf) });
    return true;
  }

  #show(conversation) {
    this.conversation = conversation;
    this.#structure("open");
  }

  /** Another tab has changed a conversation. */
  async #elsewhere(id) {
    const { conversation } = this;
    if (id !== conversation.id || this.running) return;
    const head = this.#library.heads.find((one) => one.id === id);
    if (!head) {
      if (!conversation.isNew) this.begin();
      return;
    }
    const stored = await this.#library.tree(id);
    if (!stored || conversation !== this.conversation || this.running) return;
    Object.assign(conversation, { title: head.title, named: head.named, isNew: false });
    conversation.tree.merge(stored.nodes);
    this.#structure("elsewhere");
  }

  async ask(text, files = []) {
    await this.ready;
    if (this.running) return;
    this.#question(this.conversation.tree.leaf, text, files);
  }

  #question(parent, content, files) {
    const fields = { role: "user", content, ...(files.length > 0 && { files }) };
    this.#answer(this.conversation.tree.add(parent, fields));
  }

  /** Answers again what stands before `node`, as another version; an answer without content is replaced. */
  again(node) {
    if (this.running) return;
    const { tree } = this.conversation;
    const question = tree.nodes.get(node.parent);
    if (node.content === "") tree.remove(node);
    this.#answer(question);
  }

  /** Asks another version of the question `node`. */
  edit(node, text) {
    if (!this.running) this.#question(node.parent, text, node.files ?? []);
  }

  /** The versions of a message. */
  versions(node) {
    return this.conversation.tree.siblings(node);
  }

  /** Shows another version of a message. */
  choose(node) {
    if (this.running) return;
    this.conversation.tree.choose(node);
    this.#structure("choose");
    this.#save(this.conversation);
  }

  /** What is shown has changed in more than one message. */
  #structure(why) {
    this.messages = this.conversation.tree.path();
    this.dispatchEvent(new CustomEvent("structure", { detail: why }));
  }

  async #save(conversation) {
    const { tree } = conversation;
    // What failed before it said anything is worth a retry, not a place in the history.
    const nodes = [...tree.nodes.values()].filter((node) => node.role === "user" || node.content !== "" || node.thought);
    if (nodes.length === 0) return;
    const stored = nodes.map((node) => (node.role === "user" || node.state === "done" ? node : { ...node, state: "done", unfinished: true }));
    if (!conversation.named) conversation.title = titleOf(nodes);
    const { id, title, named, created, isNew } = conversation;
    conversation.isNew = false;
    const head = await this.#library.save({ id, title, named, created, nodes: stored, leaf: tree.leaf }, isNew);
    if (head) Object.assign(conversation, { title: head.title, named: head.named });
    else if (isNew) conversation.isNew = true;
  }

  #body(messages) {
    const system = this.#parameters.system();
    const said = messages
      .filter((message) => message.role === "user" || message.content !== "")
      .map((message) => ({ role: message.role, content: asText(message) }));
    return { ...this.#parameters.body(), messages: [...(system ? [{ role: "system", content: system }] : []), ...said] };
  }

  async #answer(question) {
    const { conversation } = this;
    const { tree } = conversation;
    tree.leaf = question.id;
    const body = this.#body(tree.path());
    const message = tree.add(question.id, { role: "assistant", content: "", thought: "", state: "waiting" });
    const control = new AbortController();
    this.#runs.set(conversation.id, { control, conversation });
    this.#structure("ask");
    this.#save(conversation);
    const saving = setInterval(() => this.#save(conversation), SAVE_PACE);
    await this.#receive(message, body, control.signal);
    clearInterval(saving);
    this.#runs.delete(conversation.id);
    message.state = "done";
    if (this.conversation === conversation) this.dispatchEvent(new CustomEvent("message", { detail: message }));
    this.dispatchEvent(new CustomEvent("end", { detail: { message, shown: this.conversation === conversation } }));
    await this.#save(conversation);
  }

  /** Asks the daemon, and grows `message` by what it answers. */
  async #receive(message, body, signal) {
    const began = performance.now();
    let first = null;
    let thoughtEnd = null;
    try {
      for await (const piece of this.#api.chat(body, signal)) {
        const now = performance.now();
        if (piece.thought || piece.content) {
          first ??= now;
          message.state = "running";
          message.thought += piece.thought;
          if (piece.content && message.thought) thoughtEnd ??= now;
          message.content += piece.content;
        }
        message.load = piece.load;
        if (piece.progress) message.progress = piece.progress;
        if (piece.model) message.model = piece.model;
        if (piece.finish) message.finish = piece.finish;
        if (piece.usage) Object.assign(message, { tokens: piece.usage.completion_tokens, context: piece.usage.total_tokens });
        if (message.thought) message.thoughtMs = (thoughtEnd ?? now) - first;
        this.dispatchEvent(new CustomEvent("message", { detail: message }));
      }
    } catch (error) {
      if (signal.aborted) message.stopped = true;
      else Object.assign(message, { error: error.message, status: error.status ?? 0, retryAfter: error.retryAfter ?? null });
    }
    delete message.load;
    delete message.progress;
    if (first === null) return;
    const ended = performance.now();
    message.firstMs = first - began;
    // A moment is too short to measure a speed.
    if (message.tokens > 1 && ended - first > 50) message.rate = ((message.tokens - 1) * 1000) / (ended - first);
  }
}
