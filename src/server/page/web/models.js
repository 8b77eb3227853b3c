// The choice of a model, if the server has several.

import { byId, el } from "./dom.js";
import { kept } from "./store.js";

/** What llama-server's and our list say of a model that is not in memory. */
const STATES = { loading: " (loading)", unloaded: " (not loaded)", sleeping: " (not loaded)" };

export class Models {
  #api;
  #seen = null;

  constructor(api) {
    this.#api = api;
    byId("models").addEventListener("change", ({ target }) => {
      api.model = target.value;
      kept.model.set(target.value || null);
    });
  }

  /** Reads the list; `name` is the model that the server names as its own. */
  async refresh(name) {
    if (this.#seen === name) return;
    this.#seen = name;
    let models;
    try {
      models = (await this.#api.get("v1/models")).data ?? [];
    } catch {
      // Without a key the list can't be read; the next refresh tries again.
      this.#seen = null;
      return;
    }
    const own = models.find(({ id }) => id === name) ?? models[0];
    this.#api.context ??= own?.max_model_len ?? own?.meta?.n_ctx ?? null;
    const select = byId("models");
    select.hidden = models.length < 2;
    byId("model").classList.toggle("sr", models.length >= 2);
    const option = ({ id, status }) => el("option", { value: id }, id + (STATES[status?.value] ?? ""));
    select.replaceChildren(...models.map(option));
    const wanted = kept.model.get();
    const known = models.some(({ id }) => id === wanted);
    select.value = known ? wanted : name;
    this.#api.model = known && models.length > 1 ? wanted : "";
  }

  /** Reads the list again at the next refresh. */
  again() {
    this.#seen = null;
  }
}
