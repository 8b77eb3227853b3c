"""A stand-in for Hugging Face with one repository, microsoft/phi-4-onnx, whose CPU export is the demo model.

    hub.py PORT FOLDER
"""

import hashlib
import http.server
import json
import pathlib
import sys

COMMIT = "0123456789abcdef0123456789abcdef01234567"
API = "/api/models/microsoft/phi-4-onnx"
RESOLVE = f"/microsoft/phi-4-onnx/resolve/{COMMIT}/"
EXPORT = "cpu_and_mobile/cpu-int4-rtn-block-32-acc-level-4"
folder = pathlib.Path(sys.argv[2])


def listed(path):
    content = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {"type": "file", "path": f"{EXPORT}/{path.name}", "size": len(content), "oid": blob}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.split("?")[0]
        if path == f"{API}/revision/main":
            self.answer(json.dumps({"sha": COMMIT}).encode())
        elif path == f"{API}/tree/{COMMIT}":
            self.answer(json.dumps([listed(path) for path in folder.iterdir()]).encode())
        elif path.startswith(f"{RESOLVE}{EXPORT}/"):
            self.answer((folder / path.rsplit("/", 1)[1]).read_bytes())
        else:
            self.send_error(404)

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
