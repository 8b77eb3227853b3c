// Where questions are typed and sent.

import { byId } from "./dom.js";
import { say } from "./say.js";

export class Composer {
  #chat;
  #attachments;
  #question = byId("question");

  constructor(chat, attachments) {
    this.#chat = chat;
    this.#attachments = attachments;
    byId("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    byId("stop").addEventListener("click", () => chat.stop());
    this.#question.addEventListener("input", () => this.#grow());
    this.#question.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && chat.running && !document.querySelector("dialog:modal")) chat.stop();
    });
  }

  /** Shows whether an answer is in progress. */
  showRunning() {
    const { running } = this.#chat;
    const hadFocus = document.activeElement === byId("stop");
    byId("send").hidden = running;
    byId("stop").hidden = !running;
    document.body.classList.toggle("answering", running);
    if (hadFocus && !running) this.focus();
  }

  focus() {
    this.#question.focus();
  }

  #grow() {
    this.#question.style.height = "auto";
    this.#question.style.height = `${Math.min(this.#question.scrollHeight, window.innerHeight * 0.4)}px`;
  }

  #send() {
    const text = this.#question.value.trim();
    if (this.#chat.running || (text === "" && this.#attachments.count === 0)) return;
    if (this.#attachments.isReading) {
      say("A file is still being read.");
      return;
    }
    this.#question.value = "";
    this.#grow();
    this.#chat.ask(text, this.#attachments.take());
  }
}
