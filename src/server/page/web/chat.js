// The conversation, and the one answer that may be on its way.

import { kept } from "./store.js";

/** What a message of the assistant's begins as. */
const empty = () => ({ role: "assistant", content: "", thought: "", state: "waiting" });

export class Chat {
  /** `{role, content}`; the assistant's also have `thought`, `state` (waiting, running, done) and figures. */
  messages = [];
  #api;
  #parameters;
  #running = null;
  /** Told of each change: `(message or null for all)`. */
  onchange = () => {};
  /** Told when an answer ends: `(message)`. */
  onend = () => {};

  constructor(api, parameters) {
    this.#api = api;
    this.#parameters = parameters;
    const stored = kept.conversation.get();
    if (Array.isArray(stored)) this.messages = stored.filter((message) => typeof message?.content === "string");
    // The page was left in the middle of an answer.
    for (const message of this.messages) {
      if (message.role === "assistant" && message.state !== "done") Object.assign(message, { state: "done", stopped: true });
    }
  }

  get running() {
    return this.#running !== null;
  }

  stop() {
    this.#running?.abort();
  }

  clear() {
    this.stop();
    this.messages = [];
    this.#changed(null);
  }

  ask(text) {
    if (this.running) return;
    this.messages.push({ role: "user", content: text });
    this.#answer();
  }

  /** Answers anew what stands before the message at `index`; what follows is gone. */
  again(index) {
    if (this.running) return;
    this.messages.length = index;
    this.#answer();
  }

  /** Puts another question in the place of the one at `index`. */
  edit(index, text) {
    if (this.running) return;
    this.messages.length = index;
    this.ask(text);
  }

  #changed(message) {
    if (message?.state !== "running" && message?.state !== "waiting") {
      kept.conversation.set(this.messages.length > 0 ? this.messages : null);
    }
    this.onchange(message);
  }

  #body() {
    const system = this.#parameters.system();
    const said = this.messages
      .filter((message) => message.role === "user" || message.content !== "")
      .map(({ role, content }) => ({ role, content }));
    return { ...this.#parameters.body(), messages: [...(system ? [{ role: "system", content: system }] : []), ...said] };
  }

  async #answer() {
    const body = this.#body();
    const message = empty();
    this.messages.push(message);
    const control = new AbortController();
    this.#running = control;
    this.#changed(null);
    const began = performance.now();
    let first = null;
    let thoughtEnd = null;
    try {
      for await (const piece of this.#api.chat(body, control.signal)) {
        const now = performance.now();
        if (piece.thought || piece.content) {
          first ??= now;
          message.state = "running";
          message.thought += piece.thought;
          if (piece.content && message.thought) thoughtEnd ??= now;
          message.content += piece.content;
        }
        if (piece.finish) message.finish = piece.finish;
        if (piece.usage) message.tokens = piece.usage.completion_tokens;
        if (message.thought) message.thoughtMs = (thoughtEnd ?? now) - first;
        this.onchange(message);
      }
    } catch (error) {
      if (control.signal.aborted) message.stopped = true;
      else Object.assign(message, { error: error.message, status: error.status ?? 0, retryAfter: error.retryAfter ?? null });
    }
    if (this.#running === control) this.#running = null;
    const ended = performance.now();
    if (first !== null) {
      message.firstMs = first - began;
      // Of a moment no speed can be told.
      if (message.tokens > 1 && ended - first > 50) message.rate = ((message.tokens - 1) * 1000) / (ended - first);
    }
    message.state = "done";
    // A conversation that was cleared meanwhile does not come back.
    if (!this.messages.includes(message)) return;
    this.#changed(message);
    this.onend(message);
  }
}
