// What is kept in the browser: the look and the parameters for good, the conversation and, if the
// user wants, the key until the tab is closed. A browser that keeps nothing is no error.

const PREFIX = "phi4d.";

function read(storage, name) {
  try {
    return JSON.parse(storage().getItem(PREFIX + name));
  } catch {
    return null;
  }
}

function write(storage, name, value) {
  try {
    if (value === null) storage().removeItem(PREFIX + name);
    else storage().setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // Storage is full or forbidden: the page goes on without.
  }
}

const lasting = () => localStorage;
const passing = () => sessionStorage;

export const kept = {
  theme: { get: () => read(lasting, "theme"), set: (value) => write(lasting, "theme", value) },
  parameters: { get: () => read(lasting, "parameters"), set: (value) => write(lasting, "parameters", value) },
  status: { get: () => read(lasting, "status"), set: (value) => write(lasting, "status", value) },
  conversation: { get: () => read(passing, "conversation"), set: (value) => write(passing, "conversation", value) },
  key: { get: () => read(passing, "key"), set: (value) => write(passing, "key", value) },
};
