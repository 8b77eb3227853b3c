"""Stands between a coding agent and the daemon in place of a model that decides to call a tool.

    deciding_proxy.py URL TOOL ARGUMENTS

The demo model calls a tool only where a request forces it, and agents leave the choice to the model. So the first
request of a conversation that offers TOOL goes on with a `tool_choice` that names it, and with the tool's schema
narrowed to ARGUMENTS; all other requests may not call any, and their answer must be the text `"Done"`. Nothing is left
to sampling: an answer that reached a limit of tokens would be incomplete, which Codex takes for an error. Answers pass
as they are. Prints its port, then for each request a line of JSON (path, status, and what the request had), before the
agent has the end of the answer: an agent that has ended left all its lines.
"""

import http.client
import http.server
import json
import sys
import threading
import urllib.parse

URL, TOOL, ARGUMENTS = urllib.parse.urlsplit(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
#: Tokens of an answer, more than the longest that its schema has: no answer is cut.
LIMIT = 512
#: What an answer that is no call must be.
ANSWER = {"const": "Done"}
SCHEMA = {
    "type": "object",
    "properties": {name: {"const": value} for name, value in ARGUMENTS.items()},
    "required": list(ARGUMENTS),
    "additionalProperties": False,
}


def has_result(body: dict) -> bool:
    text = json.dumps(body.get("input", body.get("messages")))
    return '"function_call_output"' in text or '"tool_result"' in text


def decide(path: str, body: dict) -> str:
    """Changes the request as the model's decision would; says what it was."""
    responses = path.endswith("/responses")
    body["max_output_tokens" if responses else "max_tokens"] = LIMIT
    body["temperature"] = 0
    tools = [tool for tool in body.get("tools", []) if tool.get("name") == TOOL]
    if has_result(body) or not tools:
        body["tool_choice"] = "none" if responses else {"type": "none"}
        form = {"type": "json_schema", "schema": ANSWER}
        if responses:
            body["text"] = {"format": form | {"name": "answer"}}
        else:
            body["output_config"] = {"format": form}
        return "answer"
    tools[0]["parameters" if responses else "input_schema"] = SCHEMA
    body["tool_choice"] = {"type": "function" if responses else "tool", "name": TOOL}
    if responses:
        body["parallel_tool_calls"] = False
    else:
        body["tool_choice"]["disable_parallel_tool_use"] = True
    return "call"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.pass_on()

    def do_HEAD(self) -> None:
        self.pass_on()

    def do_POST(self) -> None:
        self.pass_on()

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = urllib.parse.urlsplit(self.path).path
        seen = {"path": path, "decided": None}
        if self.command == "POST" and path.endswith(("/responses", "/messages")):
            asked = json.loads(body)
            seen["tools"] = sorted({tool.get("type", "custom") for tool in asked.get("tools", [])})
            seen["decided"] = decide(path, asked)
            body = json.dumps(asked).encode()
        headers = {name: value for name, value in self.headers.items() if name.lower() not in SKIPPED}
        upstream = http.client.HTTPConnection(URL.hostname, URL.port, timeout=300)
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in SKIPPED:
                self.send_header(name, value)
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        whole = last = b""
        try:
            # Each part waits for the next one, so that the last is sent after the line.
            while part := answer.read1(65536):
                self.wfile.write(last)
                self.wfile.flush()
                whole, last = whole + part, part
        finally:
            seen["status"] = answer.status
            seen["ignored"] = answer.getheader("x-phi4d-ignored-fields")
            if answer.status != 200:
                seen["error"] = whole.decode(errors="replace")
            report(seen)
        self.wfile.write(last)

    def log_message(self, *_: object) -> None:
        pass


PRINTING = threading.Lock()


def report(seen: dict) -> None:
    """Prints a line; those of requests at the same time do not mix."""
    with PRINTING:
        sys.stdout.write(json.dumps(seen) + "\n")
        sys.stdout.flush()


#: The body has another length now, and the connection is not the client's.
SKIPPED = {"content-length", "host", "connection", "transfer-encoding", "accept-encoding"}

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
