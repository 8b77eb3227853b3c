// What a screen reader announces, in few words: the answers themselves are read where they stand.

import { byId } from "./dom.js";

export function say(text) {
  const region = byId("say");
  // The same words twice are a change only if something stands between.
  region.textContent = region.textContent === text ? `${text}\u00a0` : text;
}
