// Export and import of conversations as JSON. A conversation that `phi4d chat` saved can be imported, too.

import { titleOf } from "./library.js";
import { newId, Tree } from "./tree.js";

const MOST_BYTES = 128 * 1024 * 1024;

/** Fields of a message that are exported and imported, with their types. */
const FIELDS = {
  at: "number", thought: "string", thoughtMs: "number", finish: "string", tokens: "number", rate: "number",
  firstMs: "number", context: "number", model: "string", stopped: "boolean", unfinished: "boolean",
};

/** Lets the user save a file. */
function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

function exported({ id, parent, role, content, files, ...rest }) {
  const message = { id, parent, role, content };
  if (files) message.files = files;
  for (const name of Object.keys(FIELDS)) if (rest[name] !== undefined) message[name] = rest[name];
  return message;
}

/** Saves these records of the library's as a file. */
export function exportRecords(records) {
  const conversations = records.map(({ id, title, named, created, leaf, nodes }) => (
    { id, title, named, created, leaf, messages: nodes.map(exported) }));
  const day = new Date().toISOString().slice(0, 10);
  const name = records.length === 1 ? records[0].title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40) : "conversations";
  download(`phi4d-${name}-${day}.json`, JSON.stringify({ phi4d_conversations: 1, conversations }, null, 1));
}

const isText = (value) => typeof value === "string";

function files(value) {
  if (!Array.isArray(value)) throw new Error("files is a list");
  return value.map(({ name, text, tokens }) => {
    if (!isText(name) || !isText(text)) throw new Error("a file has a name and a text");
    return { name, text, tokens: Number.isInteger(tokens) ? tokens : null };
  });
}

function message(value) {
  const { id, parent, role, content } = value;
  if (!isText(id) || id.length > 64) throw new Error("a message's id is a text of at most 64 characters");
  if (parent !== null && !isText(parent)) throw new Error("a message's parent is an id or null");
  if (role !== "user" && role !== "assistant") throw new Error("a message's role is user or assistant");
  if (!isText(content)) throw new Error("a message's content is a text");
  const node = { id, parent, role, content };
  if (value.files !== undefined) node.files = files(value.files);
  for (const [name, type] of Object.entries(FIELDS)) if (typeof value[name] === type) node[name] = value[name];
  if (role === "assistant") node.state = "done";
  return node;
}

/** A conversation saved by `phi4d chat`: messages in a row. The system message is a parameter here. */
function fromTerminal(value) {
  let parent = null;
  const messages = [];
  for (const { role, content } of value.messages) {
    if (role === "system") continue;
    const id = newId();
    messages.push({ id, parent, role, content });
    parent = id;
  }
  return { id: newId(), created: Date.now(), messages };
}

function record(value) {
  if (!isText(value.id) || value.id.length > 64) throw new Error("a conversation's id is a text of at most 64 characters");
  if (!Array.isArray(value.messages)) throw new Error("messages is a list");
  const nodes = value.messages.map(message);
  // Checks that parents precede their children, so there are no cycles.
  const { leaf } = Tree.from(nodes, isText(value.leaf) ? value.leaf : null);
  return {
    id: value.id, nodes, leaf, named: value.named === true,
    created: Number.isFinite(value.created) ? value.created : Date.now(),
    title: isText(value.title) && value.title ? value.title.slice(0, 200) : titleOf(nodes),
  };
}

/** The conversations in a file; throws an error whose message says what is wrong with it. */
export async function recordsOf(file) {
  if (file.size > MOST_BYTES) throw new Error(`${file.name} is larger than 128 MiB`);
  let value;
  try {
    value = JSON.parse(await file.text());
  } catch {
    throw new Error(`${file.name} is not JSON`);
  }
  try {
    if (value?.phi4d_chat === 1) return [record(fromTerminal(value))];
    if (value?.phi4d_conversations === 1) return value.conversations.map(record);
  } catch (error) {
    throw new Error(`${file.name} is damaged: ${error.message}`);
  }
  throw new Error(`${file.name} holds no conversations of phi4d`);
}
