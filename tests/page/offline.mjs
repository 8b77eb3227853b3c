// The page installed and without its server: manifest, icons, service worker.
//
//     offline.mjs URL
import assert from "node:assert/strict";
import { answering, ask, base, faults, open, reload, run } from "./browser.mjs";

await run({
  async "the manifest says what a browser needs to install the page"(page) {
    await open(page);
    const href = await page.getAttribute("link[rel=manifest]", "href");
    const response = await page.request.get(new URL(href, `${base}/`).href);
    assert.match(response.headers()["content-type"], /^application\/manifest\+json/);
    const manifest = await response.json();
    const at = new URL(href, `${base}/`);
    assert.equal(new URL(manifest.start_url, at).href, `${base}/`);
    assert.equal(manifest.display, "standalone");
    for (const { src, sizes, type } of manifest.icons) {
      const picture = await page.request.get(new URL(src, at).href);
      assert.equal(picture.status(), 200, src);
      assert.equal(picture.headers()["content-type"], type);
      if (sizes === "any") continue;
      const bytes = await picture.body();
      assert.equal(`${bytes.readUInt32BE(16)}x${bytes.readUInt32BE(20)}`, sizes, "a PNG's size stands in its head");
    }
    // Chromium's own list of what keeps a page from being installed.
    const session = await page.context().newCDPSession(page);
    await page.evaluate(() => navigator.serviceWorker.ready.then(() => true));
    const { installabilityErrors } = await session.send("Page.getInstallabilityErrors");
    // Windows without a history are refused installing; so Playwright's are.
    assert.deepEqual(installabilityErrors.map(({ errorId }) => errorId).filter((id) => id !== "in-incognito"), []);
  },

  async "without its server the page opens with its conversations, and says what is missing"(page, context) {
    await answering(page, { content: "Kept." });
    await open(page);
    await page.evaluate(() => navigator.serviceWorker.ready.then(() => true));
    await page.reload();
    await page.waitForFunction(() => navigator.serviceWorker.controller !== null);
    await ask(page, "First?");
    await page.waitForSelector(".row");
    await page.unroute("**/v1/chat/completions");
    await context.setOffline(true);
    await reload(page);
    await page.waitForSelector(".message.assistant");
    assert.equal(await page.textContent(".assistant .prose"), "Kept.");
    await page.waitForFunction(() => document.getElementById("load-text").textContent === "no answer");
    await page.fill("#question", "And now?");
    await page.press("#question", "Enter");
    await page.waitForSelector(".error");
    assert.match(await page.textContent(".error"), /The server can't be reached\./);
    assert.deepEqual(await faults(page), []);
    // What the API answers is never kept.
    const kept = await page.evaluate(async () => {
      const cache = await caches.open("phi4d-page");
      return (await cache.keys()).map((request) => new URL(request.url).pathname);
    });
    assert.deepEqual(kept.filter((path) => path !== "/" && !path.startsWith("/page/")), []);
    await context.setOffline(false);
    await page.waitForFunction(() => document.getElementById("load-text").textContent === "ready");
  },
}, { serviceWorkers: "allow" });
