// The daemon's API, as far as this page uses it.

/** What the daemon refused or could not do. */
export class ApiError extends Error {
  constructor(message, status = 0, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export class Api {
  /** The key, if one is needed. */
  key = null;
  /** The model to ask for; "" for the daemon's default. */
  model = "";
  /** The context's length in tokens, once it is known. */
  context = null;

  async #ask(path, options = {}) {
    const headers = { ...options.headers };
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    let response;
    try {
      // Relative, so that the page works below a path of a proxy's.
      response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "same-origin" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server can't be reached.");
    }
    if (response.ok) return response;
    const body = await response.json().catch(() => ({}));
    const text = body?.error?.message ?? `The server answered with status ${response.status}.`;
    throw new ApiError(text, response.status, response.headers.get("retry-after"));
  }

  async get(path) {
    return (await this.#ask(path)).json();
  }

  #post(path, body, signal) {
    return this.#ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
  }

  /** How many tokens a text has. */
  async count(content) {
    const answer = await (await this.#post("tokenize", { content, parse_special: false })).json();
    this.context = answer.max_model_len ?? this.context;
    return answer.count;
  }

  /** Asks for an answer and yields its pieces as they come: `{content, thought, finish, usage, model, load, progress}`. */
  async *chat(body, signal) {
    const model = this.model ? { model: this.model } : {};
    const response = await this.#post("v1/chat/completions", {
      ...model, ...body, stream: true, stream_options: { include_usage: true }, return_progress: true,
    }, signal);
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message ?? "The server broke the answer off.");
      const choice = chunk.choices?.[0];
      yield {
        content: choice?.delta?.content ?? "",
        thought: choice?.delta?.reasoning_content ?? "",
        finish: choice?.finish_reason ?? null,
        usage: chunk.usage ?? null,
        model: chunk.model ?? null,
        // What the model's load waits for, or how far it is: `{state, place, stage, value, time_ms}`.
        load: chunk.load_progress ?? null,
        // How much of the prompt has been read: `{total, cache, processed, time_ms}`.
        progress: chunk.prompt_progress ?? null,
      };
    }
    throw new ApiError("The answer broke off: the server closed the connection.");
  }
}

/** The data of each server-sent event in a body. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const raw of lines) {
        const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
        if (line === "") {
          if (data.length > 0) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } finally {
    // Who stops reading lets the daemon stop, too.
    reader.cancel().catch(() => {});
  }
}
