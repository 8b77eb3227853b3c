// Three turns by the AI SDK with its default OpenAI provider, which speaks the responses API and names
// items of earlier turns by their ids; then one that goes on by `previousResponseId`. Prints JSON.
//
//     ai_sdk_turns.mjs URL
//
// Packages are looked up beside the current folder, not beside this file.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(process.cwd() + "/"));
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { generateText, streamText } = await load("ai");
const { createOpenAI } = await load("@ai-sdk/openai");

let references = 0;
const provider = createOpenAI({
  baseURL: process.argv[2] + "/v1",
  apiKey: "none",
  fetch: (url, options) => {
    references += (options?.body?.match(/"item_reference"/g) ?? []).length;
    return fetch(url, options);
  },
});
const model = provider("demo");
const asked = { model, temperature: 0, maxOutputTokens: 24, maxRetries: 0 };
const messages = [{ role: "user", content: "What is 12+7?" }];

const first = await generateText({ ...asked, messages });
messages.push(...first.response.messages, { role: "user", content: "And 3*4?" });
const second = streamText({ ...asked, messages });
const said = await second.text;
messages.push(...(await second.response).messages, { role: "user", content: "And 9-2?" });
const third = await generateText({ ...asked, messages });
const next = await generateText({
  ...asked,
  prompt: "And 9-2?",
  providerOptions: {
    openai: { previousResponseId: (await second.providerMetadata).openai.responseId },
  },
});

console.log(
  JSON.stringify({ texts: [first.text, said, third.text], next: next.text, references }),
);
