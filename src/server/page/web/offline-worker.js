// The service worker: the page's files come from the server while it answers, so that they are of one release,
// and from the copy of the last visit while it does not. The API is never cached.

const CACHE = "phi4d-page";
/** The page's folder, also below a proxy's path. */
const PAGE = new URL("./", self.location.href);
const ROOT = new URL("../", PAGE);

/** What an offline start needs; all else is kept when it is first used. */
const SHELL = [
  "api.js", "attachments.js", "chat.js", "code.js", "composer.js", "database.js", "dom.js", "files.js",
  "icon-192.png", "icon.svg", "key.js", "library.js", "main.js", "manifest.webmanifest", "markdown.js", "maths.js",
  "messages.js", "models.js", "notes.js", "offline.js", "page.css", "panels.css", "parameters.js", "pdf.js",
  "prose.css", "rewrite.js", "say.js", "side.css", "side.js", "status.js", "store.js", "theme.js", "toast.js",
  "transfer.js", "tree.js", "trusted.js", "view.js", "vendor/marked.esm.js", "vendor/highlight.min.js",
  "vendor/katex.min.js", "vendor/katex.min.css",
];

self.addEventListener("install", (event) => {
  const files = [ROOT.href, ...SHELL.map((path) => new URL(path, PAGE).href)];
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(files)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

async function answered(request, key) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    // What is refused, such as 403, replaces nothing.
    if (response.ok) await cache.put(key, response.clone());
    return response;
  } catch (error) {
    const copy = await cache.match(key);
    if (copy) return copy;
    throw error;
  }
}

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const { href, origin, pathname } = new URL(request.url);
  const isPage = pathname === ROOT.pathname || href.startsWith(PAGE.href);
  if (request.method === "GET" && origin === ROOT.origin && isPage) {
    event.respondWith(answered(request, origin + pathname));
  }
});
