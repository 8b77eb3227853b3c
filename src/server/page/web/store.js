// Small things that are kept in the browser: the look, the parameters and the model for good, which conversation
// is shown and, if the user wants, the key until the tab is closed. A browser that keeps nothing is no error.
// Conversations are in `database.js`.

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

const entry = (storage, name) => ({ get: () => read(storage, name), set: (value) => write(storage, name, value) });

export const kept = {
  theme: entry(lasting, "theme"),
  parameters: entry(lasting, "parameters"),
  status: entry(lasting, "status"),
  side: entry(lasting, "side"),
  model: entry(lasting, "model"),
  conversation: entry(passing, "conversation"),
  key: entry(passing, "key"),
};
