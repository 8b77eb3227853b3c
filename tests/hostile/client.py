"""A client on bare sockets: sends bytes as they are, and names how the exchange ended."""

import json
import select
import socket
import struct
import time
from dataclasses import dataclass, field

# Who takes longer than this to send a request may lose its answer: of a refused body the rest is read for two seconds,
# and a connection that owes its head makes room for others. What is sent to a closed socket resets the connection.
PROMPT = 1.0
# What an answer may be. 504 is the request's own deadline.
REFUSED_WITH_RETRY = ("429", "503")


@dataclass
class Attack:
    """One exchange: the bytes to send, and how the client behaves."""

    data: bytes
    # Part of the bytes that is sent before the client leaves; None: all, and the answer is read.
    leaves_after: float | None = None
    # How long the client stays after that.
    lingers: float = 0.0
    # Statuses that this attack may end in beside those of every attack.
    also: tuple[str, ...] = ()
    bound: float | None = None
    # Whether what came before the client left is looked at.
    looks: bool = False
    # When all was sent.
    sent: float | None = None


@dataclass
class End:
    """`kind` is a status, or what happened in place of one."""

    kind: str
    seconds: float
    body: bytes = b""
    faults: list[str] = field(default_factory=list)


def head(method: str, path: str, key: str | None = None, length: int | None = None, more: str = "") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    if length is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n" + more + "\r\n").encode()


def post(path: str, body: object, key: str | None = None) -> bytes:
    """A request. `body` is a value to be written as JSON, or bytes to be sent as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return head("POST", path, key, len(data)) + data


def exchange(stream: socket.socket, attack: Attack, bound: float, connected: float) -> End:
    """Sends the attack's bytes and reads to the end, both within `bound` seconds."""
    begun = time.monotonic()
    bound = attack.bound or bound
    data, attack.sent = attack.data, None
    if attack.leaves_after is not None:
        data = data[: max(1, int(len(data) * attack.leaves_after))]
    try:
        answer, whole = talk(stream, data, begun + bound, attack)
    except (ConnectionError, BrokenPipeError, TimeoutError):
        answer, whole = b"", True
    seconds = time.monotonic() - begun
    slow = (attack.sent or time.monotonic()) - connected > PROMPT
    if attack.leaves_after is not None:
        return judged(answer, seconds, attack, slow) if attack.looks and answer else End("left", seconds)
    if not whole:
        return End("late", seconds, answer, [f"no end within {bound:.0f} s"])
    return judged(answer, seconds, attack, slow)


def talk(stream: socket.socket, data: bytes, until: float, attack: Attack) -> tuple[bytes, bool]:
    """Writes while it reads, since a server may answer before it has read everything."""
    stream.setblocking(False)
    parts, sent, view = [], 0, memoryview(data)
    leave_at = None
    while True:
        now = time.monotonic()
        if sent == len(data):
            attack.sent = attack.sent or now
        if attack.leaves_after is not None and sent == len(data):
            leave_at = leave_at or now + attack.lingers
            if now >= leave_at:
                return b"".join(parts), True
        if now >= until:
            return b"".join(parts), False
        wait = min(until, leave_at or until) - now
        # Not select: a crowd has more than 1,024 descriptors.
        poll = select.poll()
        poll.register(stream, select.POLLIN | (select.POLLOUT if sent < len(data) else 0))
        events = dict(poll.poll(max(1, wait * 1000))).get(stream.fileno(), 0)
        readable = events & (select.POLLIN | select.POLLHUP | select.POLLERR)
        if events & select.POLLOUT:
            try:
                sent += stream.send(view[sent : sent + (1 << 18)])
            except (BrokenPipeError, ConnectionResetError):
                # The server closed: its answer may still be there to read.
                sent = len(data)
        if readable:
            try:
                part = stream.recv(1 << 18)
            except ConnectionResetError:
                part = b""
            if not part:
                return b"".join(parts), True
            parts.append(part)


def judged(answer: bytes, seconds: float, attack: Attack, slow: bool) -> End:
    """What an answer is, and what is wrong with it."""
    if not answer:
        faults = [] if slow or "none" in attack.also else ["the connection closed without an answer"]
        return End("none", seconds, answer, faults)
    top, _, body = answer.partition(b"\r\n\r\n")
    while top[9:10] == b"1" and body:
        # An interim answer, such as 100 Continue.
        top, _, body = body.partition(b"\r\n\r\n")
    status = top[9:12].decode("latin-1")
    if status[:1] == "1" and attack.looks:
        return End("left", seconds)
    lower = top.lower()
    end = End(status, seconds, body)
    if status in REFUSED_WITH_RETRY:
        if b"\r\nretry-after:" not in lower:
            end.faults.append(f"{status} without Retry-After")
    elif not (status[:1] in ("2", "4") or status == "504" or status in attack.also):
        end.faults.append(f"status {status}: {body[:200]!r}")
    if b"\r\ntransfer-encoding: chunked" in lower:
        if not body.endswith(b"0\r\n\r\n"):
            end.kind = "cut"
            if "cut" not in attack.also:
                end.faults.append("a stream was cut")
    else:
        lengths = [line.split(b":")[1] for line in lower.split(b"\r\n") if line.startswith(b"content-length:")]
        if lengths and int(lengths[0]) > len(body) and "cut" not in attack.also:
            end.kind = "cut"
            end.faults.append("an answer was cut")
    return end


def reset(stream: socket.socket) -> None:
    """Closes by a reset in place of an orderly end."""
    if stream.fileno() >= 0:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()
