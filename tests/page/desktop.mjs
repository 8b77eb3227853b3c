// What a desktop's user does first on the page of an installed service: asks, and finds it again later.
//
//     desktop.mjs URL
import assert from "node:assert/strict";
import { answers, ask, open, reload, run, SHOTS, set } from "./browser.mjs";

await run({
  async "the page answers, and keeps the conversation"(page) {
    const begun = performance.now();
    await open(page);
    await set(page, { temperature: "0" });
    await ask(page, "What is 12+7?");
    assert.deepEqual(await answers(page), ["19"]);
    console.log(`    from opening the page to its answer: ${(performance.now() - begun).toFixed()} ms`);
    if (SHOTS) await page.screenshot({ path: `${SHOTS}/desktop.png` });
    await reload(page);
    await page.waitForSelector(".message.assistant[data-state=done]");
    assert.deepEqual(await answers(page), ["19"]);
  },
});
