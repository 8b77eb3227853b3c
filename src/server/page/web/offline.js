// Keeps a copy of the page in the browser, so that it opens, with its conversations, while the server is away.

import { scriptUrl } from "./trusted.js";

export function startOffline() {
  // Browsers have service workers only over HTTPS and on this machine.
  navigator.serviceWorker?.register(scriptUrl("offline"), { scope: "./" }).catch(() => {});
}
