// Puts the parts together.

import { Api } from "./api.js";
import { Chat } from "./chat.js";
import { byId, el } from "./dom.js";
import { askForKey, keptKey } from "./key.js";
import { Messages } from "./messages.js";
import { Parameters } from "./parameters.js";
import { say } from "./say.js";
import { Status } from "./status.js";
import { startTheme } from "./theme.js";

const IDEAS = [
  "What is 12+7?",
  "Explain how a hash table works, with a short example in Python.",
  "Show me why the square root of 2 is irrational.",
];

const question = byId("question");

startTheme();
const api = new Api();
api.key = keptKey();
const parameters = new Parameters();
const chat = new Chat(api, parameters);
const messages = new Messages(chat);
const status = new Status(api);

status.onmodel = (name) => {
  byId("model").textContent = name;
  document.title = `${name} · phi4d`;
  messages.rename(name);
};

function showRunning() {
  byId("send").hidden = chat.running;
  byId("stop").hidden = !chat.running;
  document.body.classList.toggle("answering", chat.running);
  status.busy = chat.running;
}

chat.onchange = (message) => {
  messages.update(message);
  if (message !== null) return;
  showRunning();
  if (chat.running) {
    say("The answer begins.");
    status.soon();
  }
};

chat.onend = async (message) => {
  const hadFocus = document.activeElement === byId("stop");
  showRunning();
  if (hadFocus) question.focus();
  status.soon();
  if (message.error) {
    if (message.status === 401 && await askForKey(api, api.key !== null)) {
      status.soon();
      chat.again(chat.messages.indexOf(message));
    }
    return;
  }
  const words = message.content.trim().split(/\s+/).filter(Boolean).length;
  const short = message.content.length <= 300 ? `: ${message.content}` : `, ${words} words.`;
  say(message.stopped ? "Stopped." : `The answer is there${short}`);
};

function grow() {
  question.style.height = "auto";
  question.style.height = `${Math.min(question.scrollHeight, window.innerHeight * 0.4)}px`;
}

function send() {
  const text = question.value.trim();
  if (text === "" || chat.running) return;
  question.value = "";
  grow();
  chat.ask(text);
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
byId("stop").addEventListener("click", () => chat.stop());
byId("new").addEventListener("click", () => {
  chat.clear();
  showRunning();
  say("A new conversation.");
  question.focus();
});
question.addEventListener("input", grow);
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chat.running && !document.querySelector("dialog[open]")) chat.stop();
});

byId("ideas").replaceChildren(...IDEAS.map((text) => el("li", {}, el("button", {
  type: "button",
  class: "idea",
  onclick: () => {
    chat.ask(text);
    question.focus();
  },
}, text))));

messages.update(null);
showRunning();
question.focus();
