"""The embedded provider: an OpenAI-compatible chat server on loopback, for runs without network, key or cost.

It is a real server and not a stub in the client: the code that calls it is the code that calls a paid provider, and the
tests inject faults on the wire. It runs in daemon threads and ends with the process.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

# Part of the model name, hence of the params: a change of the offline texts gets another model name.
VERSION = 1
MODEL = f"offline-{VERSION}"

Fault = Literal["429", "500", "reset", "hang", "broken", "length", "content_filter"]


@dataclass(frozen=True)
class Reply:
    """The text of a reply and its finish reason (`stop`, `length`, `content_filter`)."""

    text: str
    finish: str = "stop"


# Answers a request body; a ValueError becomes an HTTP 400.
Respond = Callable[[dict[str, Any]], Reply]


@dataclass
class Faults:
    """Injected faults for tests, by the number of the request (from 1) or at a seeded rate."""

    at: dict[int, Fault] = field(default_factory=dict)  # wins over first and rate
    first: int = 0  # the first n requests fail as `kind`
    rate: float = 0.0  # this share of the later ones fails as `kind`
    kind: Fault = "500"
    seed: int = 0
    retry_after: float = 0.0  # seconds, sent with a 429
    requests: int = 0  # received so far
    released: threading.Event = field(default_factory=threading.Event)  # ends every hang

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def next(self) -> Fault | None:
        """Count one request and return its fault, None for a sound reply."""
        with self._lock:
            self.requests += 1
            number = self.requests
        # Seeded by number: threads arrive in any order, so that a shared stream would not repeat.
        drawn = random.Random(f"{self.seed}/{number}").random() < self.rate
        return self.at.get(number) or (self.kind if number <= self.first or drawn else None)


def completion(body: dict[str, Any], reply: Reply, number: int) -> dict[str, Any]:
    """The chat completion object. Usage counts characters, since this model has no tokenizer."""
    characters = sum(len(str(message.get("content", ""))) for message in body["messages"])
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": reply.text}, "finish_reason": reply.finish}
        ],
        "usage": {
            "prompt_tokens": characters,
            "completion_tokens": len(reply.text),
            "total_tokens": characters + len(reply.text),
        },
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # an idle keep-alive connection would hold the exit of the stage
    request_queue_size = 128

    def __init__(self, respond: Respond, faults: Faults) -> None:
        self.respond, self.faults = respond, faults
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print no traceback: the client hung up, for instance after a cancelled request."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive; 1.0 would open a connection for every request
    disable_nagle_algorithm = True  # without it delayed ACKs add 40 ms to each reply
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _send(self, status: int, payload: bytes, **headers: str) -> None:
        head = [f"HTTP/1.1 {status} -", "Content-Type: application/json", f"Content-Length: {len(payload)}"]
        head += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        # One write: status, headers and body in one packet.
        self.wfile.write("\r\n".join([*head, "", ""]).encode() + payload)

    def _json(self, status: int, value: Any, **headers: str) -> None:
        self._send(status, json.dumps(value, ensure_ascii=False).encode(), **headers)

    def _error(self, status: int, message: str, **headers: str) -> None:
        self._json(status, {"error": {"message": message, "type": "offline", "code": status}}, **headers)

    def do_GET(self) -> None:
        if self.path.rstrip("/").endswith("/models"):
            self._json(200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "anneal"}]})
        else:
            self._error(404, f"{self.path}: this server knows /v1/models and /v1/chat/completions")

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        faults = self.server.faults
        fault = faults.next()
        number = faults.requests
        if fault and self._inject(fault):
            return
        try:
            body = json.loads(raw)
            model, _messages = str(body["model"]), body["messages"]
        except (ValueError, KeyError, TypeError) as err:
            return self._error(400, f"not a chat request: {err!r}")
        if not self.path.endswith("/chat/completions"):
            return self._error(404, f"{self.path}: this server knows /v1/models and /v1/chat/completions")
        # Other roles have names such as `offline-rules-1`; the version at the end must agree.
        if not (model.startswith("offline-") and model.rsplit("-", 1)[-1] == str(VERSION)):
            return self._error(404, f"model {model!r} does not exist here; this version has {MODEL!r}")
        try:
            reply = self.server.respond(body)
        except ValueError as err:
            return self._error(400, str(err))
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or len(reply.text)
        if fault == "length" or len(reply.text) > limit:
            # The limit counts characters, as usage does.
            end = len(reply.text) // 2 if fault == "length" else limit
            reply = Reply(reply.text[:end], "length")
        elif fault == "content_filter":
            reply = Reply("", "content_filter")
        return self._json(200, completion(body, reply, number))

    def _inject(self, fault: Fault) -> bool:
        """Fail on the wire; False for the faults that are replies (`length`, `content_filter`)."""
        if fault == "429":
            self._error(429, "slow down", Retry_After=f"{self.server.faults.retry_after:g}")
        elif fault == "500":
            self._error(500, "injected fault of the offline provider")
        elif fault == "broken":
            self._send(200, b'{"id": "chatcmpl-0", "choices": [{"mess')
        elif fault in ("reset", "hang"):
            if fault == "hang":
                self.server.faults.released.wait()
            # Linger 0 turns close into a reset, which is how a client sees a crashed provider.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        else:
            return False
        return True


@contextlib.contextmanager
def serve(respond: Respond, faults: Faults | None = None) -> Iterator[str]:
    """Serve `respond` on a free loopback port; yields the base URL. A ValueError of `respond` is answered with 400."""
    faults = faults or Faults()
    server = _Server(respond, faults)
    # A short poll interval only shortens the exit; requests are served as they arrive.
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        faults.released.set()
        server.shutdown()
        server.server_close()
