// Puts the parts together.

import { Api } from "./api.js";
import { Attachments } from "./attachments.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { byId, el } from "./dom.js";
import { askForKey, keptKey } from "./key.js";
import { Library } from "./library.js";
import { Messages } from "./messages.js";
import { Models } from "./models.js";
import { startOffline } from "./offline.js";
import { Parameters } from "./parameters.js";
import { say } from "./say.js";
import { Side } from "./side.js";
import { Status } from "./status.js";
import { kept } from "./store.js";
import { startTheme } from "./theme.js";

const IDEAS = [
  "What is 12+7?",
  "Explain how a hash table works, with a short example in Python.",
  "Show me why the square root of 2 is irrational.",
];

startTheme();
const api = new Api();
api.key = keptKey();
const library = new Library();
const chat = new Chat(api, new Parameters(), library);
const messages = new Messages(chat);
const composer = new Composer(chat, new Attachments(api));
const status = new Status(api);
const models = new Models(api);
new Side(chat, library);

status.onmodel = (name) => {
  byId("model").textContent = name;
  document.title = `${name} · phi4d`;
  messages.rename(name);
  models.refresh(name);
};

chat.addEventListener("structure", ({ detail }) => {
  composer.showRunning();
  status.busy = chat.running;
  kept.conversation.set(chat.conversation.id);
  if (detail !== "ask") return;
  say("The answer begins.");
  status.soon();
});

chat.addEventListener("end", async ({ detail: { message, shown } }) => {
  composer.showRunning();
  status.busy = chat.running;
  status.soon();
  if (!shown) {
    say("An answer in another conversation is complete.");
    return;
  }
  if (message.error) {
    if (message.status === 401 && await askForKey(api, api.key !== null)) {
      models.again();
      status.soon();
      chat.again(message);
    }
    return;
  }
  const words = message.content.trim().split(/\s+/).filter(Boolean).length;
  const short = message.content.length <= 300 ? `: ${message.content}` : `, ${words} words.`;
  say(message.stopped ? "Stopped." : `The answer is complete${short}`);
});

byId("new").addEventListener("click", () => {
  chat.begin();
  say("A new conversation.");
  composer.focus();
});

byId("ideas").replaceChildren(...IDEAS.map((text) => el("li", {}, el("button", {
  type: "button",
  class: "idea",
  onclick: () => {
    chat.ask(text);
    composer.focus();
  },
}, text))));

composer.showRunning();
composer.focus();
startOffline();

// What was shown before a reload is shown again. Questions wait for it.
const before = kept.conversation.get();
chat.ready = library.open().then(() => before && chat.open(before));
