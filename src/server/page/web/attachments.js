// Files that are attached to the next question: chosen, dropped or pasted, read here, and counted in tokens.

import { byId, el, icon, tool } from "./dom.js";
import { read } from "./files.js";
import { say } from "./say.js";
import { toast } from "./toast.js";

const MOST_FILES = 20;

export class Attachments {
  #api;
  #files = [];
  /** Called when files come, go or are counted. */
  onchange = () => {};

  constructor(api) {
    this.#api = api;
    byId("attach").addEventListener("click", () => byId("attach-file").click());
    byId("attach-file").addEventListener("change", async () => {
      const input = byId("attach-file");
      const chosen = [...input.files];
      input.value = "";
      await this.add(chosen);
      byId("question").focus();
    });
    document.addEventListener("dragover", (event) => {
      if (event.dataTransfer.types.includes("Files")) event.preventDefault();
    });
    document.addEventListener("drop", (event) => {
      if (event.dataTransfer.files.length === 0) return;
      event.preventDefault();
      this.add([...event.dataTransfer.files]);
    });
    byId("question").addEventListener("paste", (event) => {
      if (event.clipboardData.files.length === 0) return;
      event.preventDefault();
      this.add([...event.clipboardData.files]);
    });
  }

  /** Whether a file is being read. */
  get isReading() {
    return this.#files.some((file) => file.text === null);
  }

  get count() {
    return this.#files.length;
  }

  /** The files, which are then no longer attached. */
  take() {
    const files = this.#files.map(({ name, text, tokens }) => ({ name, text, tokens }));
    this.#files = [];
    this.#show();
    return files;
  }

  async add(chosen) {
    for (const file of chosen) {
      if (this.#files.length >= MOST_FILES) {
        toast(`At most ${MOST_FILES} files can be attached.`);
        return;
      }
      const entry = { name: file.name, text: null, tokens: null };
      this.#files.push(entry);
      this.#show();
      try {
        Object.assign(entry, await read(file));
        this.#show();
        say(`Attached ${entry.name}`);
        // Without a count, such as without a key, the file can be sent all the same.
        entry.tokens = await this.#api.count(entry.text).catch(() => null);
      } catch (error) {
        this.#remove(entry);
        toast(error.message);
      }
      this.#show();
    }
  }

  #remove(entry) {
    this.#files = this.#files.filter((one) => one !== entry);
    this.#show();
  }

  #show() {
    const list = byId("attached");
    list.hidden = this.#files.length === 0;
    list.replaceChildren(...this.#files.map((entry) => el("li", { class: "file" }, icon("file"), el("span", {}, entry.name),
      el("span", { class: "aside" }, entry.text === null ? "reading…" : entry.tokens === null ? "" : `${entry.tokens.toLocaleString()} tokens`),
      tool("close", `Remove ${entry.name}`, () => {
        this.#remove(entry);
        byId("question").focus();
      }))));
    this.#warn();
    this.onchange();
  }

  /** Says so if the files alone fill the context. */
  #warn() {
    const tokens = this.#files.reduce((sum, file) => sum + (file.tokens ?? 0), 0);
    const { context } = this.#api;
    const warning = byId("attached-fault");
    warning.hidden = !context || tokens < context;
    warning.textContent = warning.hidden ? ""
      : `The files have ${tokens.toLocaleString()} tokens; the model's context has ${context.toLocaleString()}.`;
  }
}
