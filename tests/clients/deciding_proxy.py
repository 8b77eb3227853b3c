"""Stands between a coding agent and the daemon in place of a model that decides to call a tool.

    deciding_proxy.py URL TOOL ARGUMENTS

The demo model calls a tool only where a request forces it, and agents leave the choice to the model. So the first
request of a conversation that offers TOOL goes on with a `tool_choice` that names it, and with the tool's schema
narrowed to ARGUMENTS; all other requests may not call any, and end after a few tokens. Answers pass as they are. Prints
its port, then for each request a line of JSON: path, status, and what the request had.
"""

import http.client
import http.server
import json
import sys
import urllib.parse

URL, TOOL, ARGUMENTS = urllib.parse.urlsplit(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
#: Tokens of an answer that is not a call.
SHORT = 8
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
    limit = "max_output_tokens" if responses else "max_tokens"
    tools = [tool for tool in body.get("tools", []) if tool.get("name") == TOOL]
    if has_result(body) or not tools:
        body[limit] = SHORT
        body["tool_choice"] = "none" if responses else {"type": "none"}
        return "answer"
    tools[0]["parameters" if responses else "input_schema"] = SCHEMA
    body[limit] = 256
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
        whole = b""
        while part := answer.read1(65536):
            self.wfile.write(part)
            self.wfile.flush()
            whole += part
        seen["status"] = answer.status
        seen["ignored"] = answer.getheader("x-phi4d-ignored-fields")
        if answer.status != 200:
            seen["error"] = whole.decode(errors="replace")
        print(json.dumps(seen), flush=True)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


#: The body has another length now, and the connection is not the client's.
SKIPPED = {"content-length", "host", "connection", "transfer-encoding", "accept-encoding"}

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
