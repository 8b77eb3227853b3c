// Chats, whole and streamed, a forced call and a JSON answer by the AI SDK with its OpenAI-compatible
// provider; prints them as JSON.
//
//     ai_sdk.mjs URL
//
// Packages are looked up beside the current folder, not beside this file.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(process.cwd() + "/"));
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { generateText, streamText, jsonSchema, tool, Output } = await load("ai");
const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");

const provider = createOpenAICompatible({
  name: "phi4d",
  baseURL: process.argv[2] + "/v1",
  supportsStructuredOutputs: true,
  includeUsage: true,
});
const number = { type: "integer", minimum: 0, maximum: 99 };
const schema = jsonSchema({
  type: "object",
  properties: { a: number, b: number },
  required: ["a", "b"],
  additionalProperties: false,
});
const asked = {
  model: provider("demo"),
  prompt: "What is 12+7?",
  temperature: 0,
  maxOutputTokens: 64,
  maxRetries: 0,
};
const forced = {
  tools: { add: tool({ description: "Adds two numbers", inputSchema: schema }) },
  toolChoice: { type: "tool", toolName: "add" },
};

const chat = await generateText(asked);
const streamed = await streamText(asked).text;
const call = (await generateText({ ...asked, ...forced })).toolCalls[0];
const streamedCall = (await streamText({ ...asked, ...forced }).toolCalls)[0];
const form = (await generateText({ ...asked, output: Output.object({ schema }) })).output;
const error = await generateText({ ...asked, model: provider("other") }).then(
  () => null,
  (caught) => caught.statusCode,
);

console.log(
  JSON.stringify({
    chat: chat.text,
    stream: streamed,
    call: call.toolName,
    arguments: call.input,
    streamed_arguments: streamedCall.input,
    form,
    error,
  }),
);
