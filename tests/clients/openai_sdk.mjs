// One chat, one streamed chat, one call of a function and its result, one answer by a JSON Schema, one
// completion and one error by the OpenAI SDK; prints the answers as JSON.
//
//     openai_sdk.mjs URL [SOCKET]
//
// Packages are looked up beside the current folder, not beside this file.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(process.cwd() + "/"));
const { NotFoundError, OpenAI } = require("openai");
const { Agent, fetch } = require("undici");

const [url, socket] = process.argv.slice(2);
const options = { baseURL: url, apiKey: "none", maxRetries: 0 };
if (socket) {
  options.fetch = fetch;
  options.fetchOptions = { dispatcher: new Agent({ connect: { socketPath: socket } }) };
}
const client = new OpenAI(options);
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "What is 12+7?" }];

const chat = await client.chat.completions.create({ model, messages, temperature: 0 });
const stream = await client.chat.completions.create({
  model,
  messages,
  temperature: 0,
  stream: true,
  stream_options: { include_usage: true },
});
const chunks = [];
for await (const chunk of stream) chunks.push(chunk);

const asked = {
  model,
  messages,
  temperature: 0,
  tools: JSON.parse(process.env.TOOLS),
  tool_choice: "required",
  parallel_tool_calls: false,
};
const called = (await client.chat.completions.create(asked)).choices[0];
const call = called.message.tool_calls[0];
const calls = client.chat.completions.stream(asked);
let callDone = false;
calls.on("tool_calls.function.arguments.done", () => (callDone = true));
const callStreamed = (await calls.finalChatCompletion()).choices[0].message.tool_calls[0];
const followed = await client.chat.completions.create({
  ...asked,
  messages: [...messages, called.message, { role: "tool", tool_call_id: call.id, content: "19" }],
  tool_choice: "auto",
  max_tokens: 8,
});

const held = { model, messages, temperature: 0, response_format: JSON.parse(process.env.FORM) };
const form = await client.chat.completions.create(held);
const formStream = client.chat.completions.stream(held);
const formStreamed = (await formStream.finalChatCompletion()).choices[0].message.content;

const completion = await client.completions.create({
  model,
  prompt: "12+7=",
  temperature: 0,
  max_tokens: 8,
});
const error = await client.chat.completions.create({ model: "other", messages }).then(
  () => {
    throw new Error("an unknown model was not refused");
  },
  (caught) => caught,
);
if (!(error instanceof NotFoundError)) throw error;

const choices = chunks.flatMap((chunk) => chunk.choices);
console.log(
  JSON.stringify({
    model,
    chat: chat.choices[0].message.content,
    chat_finish: chat.choices[0].finish_reason,
    chat_tokens: chat.usage.completion_tokens,
    stream: choices.map((choice) => choice.delta.content ?? "").join(""),
    stream_finish: choices.at(-1).finish_reason,
    stream_tokens: chunks.at(-1).usage.completion_tokens,
    call: [call.function.name, call.function.arguments],
    call_finish: called.finish_reason,
    call_streamed: [callStreamed.function.name, callStreamed.function.arguments],
    call_done: callDone,
    followed: followed.choices[0].message.role,
    form: form.choices[0].message.content,
    form_streamed: formStreamed,
    completion: completion.choices[0].text,
    error: error.constructor.name,
    error_status: error.status,
    error_code: error.code,
  }),
);
