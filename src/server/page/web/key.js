// The API key, for servers that ask for one.

import { byId } from "./dom.js";
import { kept } from "./store.js";

/** Asks for a key. Gives whether there is a new one. */
export function askForKey(api, wrong) {
  const dialog = byId("key");
  if (dialog.open) return Promise.resolve(false);
  byId("key-title").textContent = wrong ? "The server does not know this key" : "This server asks for a key";
  byId("key-text").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  byId("key-text").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const key = byId("key-text").value.trim();
      byId("key-text").value = "";
      if (dialog.returnValue !== "ok" || key === "") return resolve(false);
      api.key = key;
      kept.key.set(byId("key-keep").checked ? key : null);
      return resolve(true);
    }, { once: true });
  });
}

/** The key that was kept, if one was. */
export function keptKey() {
  const key = kept.key.get();
  return typeof key === "string" && key !== "" ? key : null;
}
