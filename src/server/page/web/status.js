// The live view of the server: queue, slots, KV cache, tokens per second.

import { byId, el } from "./dom.js";
import { kept } from "./store.js";

const POINTS = 40;
/** A server that takes longer to say how it is, in milliseconds, is loading its model. */
const SLOW = 2000;
const number = new Intl.NumberFormat();

export class Status {
  #api;
  #last = null;
  #rates = [];
  #mayLook = true;
  #timer = null;
  /** Whether an answer is on its way, so that figures move. */
  busy = false;
  /** Called with the model's name. */
  onmodel = () => {};

  constructor(api) {
    this.#api = api;
    const open = kept.status.get() === true;
    this.#show(open);
    byId("load").addEventListener("click", () => this.#show(byId("status").hidden));
    document.addEventListener("visibilitychange", () => this.#schedule(0));
    this.#schedule(0);
  }

  /** Looks at once, such as when a key was given or an answer begins. */
  soon() {
    this.#mayLook = true;
    this.#schedule(50);
  }

  #show(open) {
    byId("status").hidden = !open;
    byId("load").setAttribute("aria-expanded", String(open));
    kept.status.set(open ? true : null);
    if (open) this.#schedule(0);
  }

  #schedule(delay) {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    this.#timer = setTimeout(() => this.#look(), delay);
  }

  async #look() {
    // A daemon accepts connections before its model is loaded, and answers them when it is.
    const slow = setTimeout(() => {
      document.body.dataset.server = "draining";
      byId("load-text").textContent = "loading";
    }, SLOW);
    let sleeps = false;
    try {
      const health = await this.#api.get("health");
      sleeps = health.sleeps_when_idle;
      this.#figures(health);
      await this.#requests();
    } catch {
      document.body.dataset.server = "away";
      byId("load-text").textContent = "no answer";
      this.#last = null;
    }
    clearTimeout(slow);
    // A page that is only left open must not start a daemon again and again.
    if (sleeps && !this.busy && byId("status").hidden) return;
    this.#schedule(this.busy || !byId("status").hidden ? 1000 : 4000);
  }

  #figures(health) {
    const now = performance.now();
    if (this.#last && health.generated_tokens >= this.#last.tokens) {
      const seconds = (now - this.#last.at) / 1000;
      if (seconds > 0.2) this.#rates.push((health.generated_tokens - this.#last.tokens) / seconds);
      this.#rates = this.#rates.slice(-POINTS);
    }
    this.#last = { at: now, tokens: health.generated_tokens };
    const rate = this.#rates.at(-1) ?? 0;
    const running = health.running > 0;
    document.body.dataset.server = health.status === "ok" ? (running ? "busy" : "idle") : "draining";
    const text = health.status !== "ok" ? "stopping" : running ? `${health.running} of ${health.slots} busy` : "ready";
    byId("load-text").textContent = health.waiting > 0 ? `${text}, ${health.waiting} waiting` : text;
    this.onmodel(health.model);
    if (byId("status").hidden) return;
    const live = health.kv_tokens - health.kv_cached_tokens;
    const share = health.kv_tokens / Math.max(1, health.kv_budget_tokens);
    byId("s-rate").textContent = rate < 10 && rate > 0 ? rate.toFixed(1) : number.format(Math.round(rate));
    byId("s-running").textContent = number.format(health.running);
    byId("s-slots").textContent = number.format(health.slots);
    byId("s-waiting").textContent = number.format(health.waiting);
    byId("s-done").textContent = `${number.format(health.finished)} answered, ${number.format(health.cancelled)} stopped, ${number.format(health.failed)} failed`;
    byId("s-kv").textContent = `${Math.round(share * 100)}%`;
    byId("s-kv-text").textContent = `${number.format(live)} in use, ${number.format(health.kv_cached_tokens)} kept of ${number.format(health.kv_budget_tokens)} tokens`;
    byId("s-meter").value = share;
    this.#cells(Array.from({ length: Math.min(health.slots, 64) }, (_, at) => (at < health.running ? "decode" : "idle")));
    this.#line();
  }

  #cells(states) {
    const cells = byId("s-cells");
    if (cells.dataset.states === states.join()) return;
    cells.dataset.states = states.join();
    cells.replaceChildren(...states.map((state) => el("span", { class: `cell ${state}` })));
  }

  #line() {
    const top = Math.max(1, ...this.#rates);
    const step = 120 / (POINTS - 1);
    const from = POINTS - this.#rates.length;
    const points = this.#rates.map((rate, at) => `${((from + at) * step).toFixed(1)},${(26 - (rate / top) * 24).toFixed(1)}`);
    byId("s-line").querySelector("polyline").setAttribute("points", points.join(" "));
  }

  /** What is in each slot, for those who may see that. */
  async #requests() {
    const list = byId("s-list");
    if (byId("status").hidden || !this.#mayLook) return;
    try {
      const slots = await this.#api.get("slots");
      this.#cells(slots.filter((slot) => slot.id !== null).slice(0, 64).map((slot) => slot.state));
      const shown = slots.filter((slot) => slot.state !== "idle").slice(0, 32);
      list.hidden = shown.length === 0;
      list.replaceChildren(...shown.map((slot) => el("li", {},
        el("span", { class: `cell ${slot.state}`, "aria-hidden": "true" }),
        `${slot.state}: ${number.format(slot.n_prompt_tokens)} + ${number.format(slot.n_decoded)} tokens, ${slot.caller}, ${(slot.age_ms / 1000).toFixed(1)} s`)));
    } catch (error) {
      // For administrators only; the counters above are for everyone.
      if (error.status === 401 || error.status === 403) this.#mayLook = false;
      list.hidden = true;
    }
  }
}
