"""Abuse below requests: connections that idle, send by halves, never read, come in storms; broken framing."""

import random
import socket
import time

from bodies import CHAT
from client import Attack, End, head, post, reset
from daemon import Place
from forms import size
from surfaces import QUESTION, chat

CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303") + b"\x00" * 32


def source_of(choose: random.Random) -> str:
    return f"127.0.0.{choose.randrange(2, 8)}"


def connection(place: Place, choose: random.Random, source: str | None, key: str | None) -> tuple[End, bytes]:
    """A few connections from one address, for a moment; now and then many, for longer."""
    begun = time.monotonic()
    manner = choose.choice(MANNERS)
    streams: list[socket.socket] = []
    many = choose.random() < 0.05
    until = begun + choose.random() * (3 if many else 0.2)
    faults: list[str] = []
    try:
        for _ in range(size(choose, 200 if many else 12)):
            try:
                stream = place.connect(source, patience=0.5)
            except OSError:
                # A server may stop accepting from who holds many already.
                break
            streams.append(stream)
            manner(stream, choose, key)
        while streams and time.monotonic() < until:
            time.sleep(0.01)
    except (ConnectionError, TimeoutError, OSError):
        pass
    finally:
        for stream in streams:
            if choose.random() < 0.5:
                reset(stream)
            else:
                stream.close()
    return End(manner.__name__, time.monotonic() - begun, b"", faults), b""


def idle(stream: socket.socket, _choose: random.Random, _key: str | None) -> None:
    """Keeps alive after one small answer."""
    stream.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")


def silent(_stream: socket.socket, _choose: random.Random, _key: str | None) -> None:
    """Sends nothing."""


def half_head(stream: socket.socket, choose: random.Random, key: str | None) -> None:
    data = head("GET", "/health", key, more="X-A: " + "a" * size(choose, 60000) + "\r\n")
    stream.sendall(data[: choose.randrange(1, len(data))])


def slow_head(stream: socket.socket, choose: random.Random, _key: str | None) -> None:
    stream.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
    for _ in range(choose.randrange(1, 6)):
        stream.sendall(b"X-A: b\r\n")
        time.sleep(0.01)


def slow_body(stream: socket.socket, choose: random.Random, key: str | None) -> None:
    length = choose.choice([100, 10000, 8 << 20])
    stream.sendall(head("POST", CHAT, key, length) + b"[" * choose.randrange(1, 100))


def most_of_body(stream: socket.socket, choose: random.Random, key: str | None) -> None:
    """A large body but for its end: what was read of it takes memory."""
    stream.sendall(head("POST", CHAT, key, 8 << 20))
    stream.settimeout(0.2)
    stream.sendall(b" " * size(choose, 8_000_000))


def unread(stream: socket.socket, choose: random.Random, key: str | None) -> None:
    """A long stream that nobody reads."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stream.sendall(post(CHAT, chat(stream=True, logprobs=True, top_logprobs=20, max_tokens=choose.choice([64, 400]), ignore_eos=True), key))


def unread_answers(stream: socket.socket, path: str, key: str | None, count: int) -> None:
    """Asks `count` times, and reads nothing."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    authorized = f"Authorization: Bearer {key}\r\n" if key else ""
    stream.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{authorized}\r\n".encode() * count)


def unread_files(stream: socket.socket, choose: random.Random, key: str | None) -> None:
    path = choose.choice(["/openapi.json", "/metrics", "/tokenizer_info", "/props", "/v1/models", "/", "/page/app.js", "/api/tags"])
    stream.settimeout(0.2)
    unread_answers(stream, path, key, size(choose, 400))


def preflights(stream: socket.socket, choose: random.Random, _key: str | None) -> None:
    ask = b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nAccess-Control-Request-Method: POST\r\n\r\n"
    stream.settimeout(0.2)
    stream.sendall((ask + b"HEAD /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n") * size(choose, 2000))


def tiny_chunks(stream: socket.socket, choose: random.Random, key: str | None) -> None:
    """A body in chunks of a byte, of which each is a step of the parser's."""
    lines = ["POST /v1/completions HTTP/1.1", "Host: localhost", f"Authorization: Bearer {key}", "Content-Type: application/json", "Transfer-Encoding: chunked"]
    stream.settimeout(0.2)
    stream.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + b"1\r\n \r\n" * size(choose, 20_000))


def half_closed(stream: socket.socket, choose: random.Random, key: str | None) -> None:
    stream.sendall(post(CHAT, chat(max_tokens=64, ignore_eos=True, stream=choose.random() < 0.5), key))
    stream.shutdown(socket.SHUT_WR)


def pipelined(stream: socket.socket, choose: random.Random, _key: str | None) -> None:
    stream.settimeout(0.2)
    stream.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * size(choose, 5000))


def tls_half(stream: socket.socket, choose: random.Random, _key: str | None) -> None:
    """TLS to a port that may have none."""
    stream.sendall(CLIENT_HELLO[: choose.randrange(1, len(CLIENT_HELLO))])


def storm(stream: socket.socket, _choose: random.Random, _key: str | None) -> None:
    stream.close()


MANNERS = (idle, silent, half_head, slow_head, slow_body, most_of_body, unread, unread_files, preflights, tiny_chunks, half_closed, pipelined, tls_half, storm)


# --- framing

def framing(choose: random.Random, key: str | None) -> Attack:
    """A request that is not quite HTTP. Nothing, a 4xx or an answer, and a closed connection."""
    body = b'{"messages":[{"role":"user","content":"a"}],"max_tokens":1}'
    length = b"Content-Length: %d\r\n" % len(body)
    auth = f"Authorization: Bearer {key}\r\n".encode() if key else b""
    host = choose.choice([b"Host: localhost\r\n", b"", b"Host: a\r\nHost: b\r\n", b"Host: \xff\r\n", b"Host: " + b"a" * size(choose, 9000) + b"\r\n"])
    framed = choose.choice([
        length,
        length + length,
        length + b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 18446744073709551616\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length : 5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Expect: 100-continue\r\n" + length,
        b"Expect: cake\r\n" + length,
        b"Upgrade: websocket\r\nConnection: upgrade\r\n" + length,
        b"Content-Encoding: gzip\r\n" + length,
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\n",
    ])
    if b"chunked" in framed and choose.random() < 0.8:
        body = chunks(choose, body)
    line = choose.choice([
        b"POST /v1/chat/completions HTTP/1.1", b"POST /v1/chat/completions HTTP/1.0", b"POST /v1/chat/completions HTTP/9.9",
        b"POST  /v1/chat/completions HTTP/1.1", b"post /v1/chat/completions HTTP/1.1", b"POST http://x/v1/chat/completions HTTP/1.1",
        b"PRI * HTTP/2.0", b"GET /" + b"a" * size(choose, 100000) + b" HTTP/1.1", b"GET /%00%ff/../../etc HTTP/1.1", b"OPTIONS * HTTP/1.1",
        b"CONNECT a:1 HTTP/1.1", b"GET /\xe2\x80\xae\xe2\x80\xa8 HTTP/1.1", b"TRACE / HTTP/1.1", b"\x00\x01\x02", b"GET /health", b"HEAD /health HTTP/1.1",
    ])
    extra = choose.choice([
        b"", b"", b"X: " + b"a" * size(choose, 200000) + b"\r\n", b"".join(b"X%d: a\r\n" % number for number in range(size(choose, 3000))),
        b" folded: a\r\n", b"A\x00: b\r\n", b"Origin: http://a\r\nOrigin: http://localhost\r\n", b"traceparent: " + b"0" * size(choose, 999) + b"\r\n",
        b"x-request-id: " + b"\xe2\x80\xae" * 30 + b"\r\n",
    ])
    data = line + b"\r\n" + host + auth + b"Connection: close\r\n" + framed + extra + b"\r\n" + body
    twist = choose.randrange(10)
    if twist == 0:
        data = data.replace(b"\r\n", b"\n")
    elif twist == 1:
        place = choose.randrange(len(data))
        data = data[:place] + bytes([choose.randrange(256)]) + data[place + 1 :]
    elif twist == 2:
        data = bytes(choose.randrange(256) for _ in range(size(choose, 3000)))
    # What is not complete ends when the client gives up; the answer to what is must come.
    return Attack(data, leaves_after=1.0, lingers=0.3, also=("none", "cut", "505"), looks=True)


def chunks(choose: random.Random, body: bytes) -> bytes:
    kind = choose.randrange(7)
    if kind == 0:
        return b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    if kind == 1:
        return b"%x\r\n%s\r\n0\r\nX: y\r\n\r\n" % (len(body), body)
    if kind == 2:
        return b"ffffffffffffffffff\r\n" + body
    if kind == 3:
        return b"%x;%s\r\n%s\r\n0\r\n\r\n" % (len(body), b"a" * size(choose, 100000), body)
    if kind == 4:
        return b"-1\r\n" + body
    if kind == 5:
        return b"%x\r\n%s" % (len(body) + 5, body)
    return b"%x\r\n%s\r\n0\r\n" % (len(body), body) + b"T: y\r\n" * size(choose, 9000) + b"\r\n"


# --- quotas

def quota(choose: random.Random, place: Place) -> Attack:
    """A key with small limits that asks for much."""
    key = place.key(choose.choice(["one-at-once", "few-tokens"]))
    path, body = choose.choice([
        (CHAT, chat(n=64, max_tokens=2)),
        (CHAT, chat(max_tokens=60)),
        (CHAT, chat(max_tokens=10**6)),
        ("/v1/completions", {"prompt": ["a"] * 64, "max_tokens": 2}),
        ("/v1/completions", {"prompt": "a", "n": 2, "best_of": 64, "max_tokens": 2}),
        ("/tokenize", {"prompt": "a b c " * size(choose, 100000)}),
        ("/v1/messages/count_tokens", {"model": "demo", "messages": QUESTION}),
        ("/v1/chat/completions/render", chat()),
        ("/api/chat", {"model": "demo", "messages": QUESTION, "options": {"num_predict": 30}}),
        ("/v1/responses", {"model": "demo", "input": "2+2=", "max_output_tokens": 30}),
    ])
    return Attack(post(path, body, key))
