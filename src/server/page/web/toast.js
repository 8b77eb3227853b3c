// A message at the bottom with one action, such as undoing a deletion. It stays while it is pointed at or focused.

import { byId, el } from "./dom.js";

const SHOWN_FOR = 15_000;

let timer = null;

function hide() {
  const toast = byId("toast");
  if (toast.matches(":hover, :focus-within")) schedule();
  else toast.hidden = true;
}

function schedule() {
  clearTimeout(timer);
  timer = setTimeout(hide, SHOWN_FOR);
}

/** Shows `text`, and a button named `action` that calls `act`; without an action only the text. */
export function toast(text, action = null, act = null) {
  const button = action && el("button", {
    type: "button",
    class: "plain",
    onclick: () => {
      byId("toast").hidden = true;
      act();
    },
  }, action);
  byId("toast-text").textContent = text;
  byId("toast-action").replaceChildren(...(button ? [button] : []));
  // Behind a modal dialog it could be neither seen nor used.
  (document.querySelector("dialog:modal") ?? document.body).append(byId("toast"));
  byId("toast").hidden = false;
  schedule();
}
