// What stands below an answer: why it ended, and its figures.

import { el } from "./dom.js";

const ENDS = {
  length: "Cut off: the token limit or the context's end was reached.",
  content_filter: "Ended by a filter.",
  tool_calls: "The model calls a tool; this page has none.",
};

export function seconds(ms) {
  return ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`;
}

/** Elements for an answer that has ended; `again` answers once more. */
export function notes(message, again) {
  const note = (text) => [el("p", { class: "note" }, text)];
  if (message.error) {
    const after = message.retryAfter ? ` It asks to wait ${message.retryAfter} s.` : "";
    return [el("div", { class: "error", role: "alert" }, el("p", {}, message.error + after),
      el("button", { type: "button", class: "plain", onclick: again }, "Try again"))];
  }
  if (message.stopped) return note("Stopped.");
  if (message.unfinished) return note("Not finished: it is being answered in another tab, or the page was closed.");
  if (ENDS[message.finish]) return note(ENDS[message.finish]);
  return message.content === "" && !message.thought ? note("The answer is empty.") : [];
}

/** Tokens, speed, time to the first token and the context's use, in one line. */
export function figures(message, context) {
  const parts = [];
  if (message.tokens) parts.push(`${message.tokens.toLocaleString()} tokens`);
  if (message.rate) parts.push(`${message.rate.toFixed(message.rate < 10 ? 1 : 0)} tokens/s`);
  if (message.firstMs) parts.push(`first after ${seconds(message.firstMs)}`);
  if (message.context && context) parts.push(`context ${Math.round((100 * message.context) / context)}%`);
  return parts.join(" · ");
}
