"""A loopback server for the blind sheet: it hands out the page and appends the votes that the page sends.

Whoever is on this machine, or has a page open in its browser, can reach a loopback port. So the address holds a random
token, `Host` must be this server (no other name may be bound to it), and a vote must come from this very origin.
"""

from __future__ import annotations

import hmac
import secrets
import signal
import socketserver
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from anneal.errors import UserError
from anneal.human import vote_records

LIMIT = 1_000_000  # bytes of one request
KIND = "application/x-ndjson"
PORT = 8765  # fixed, as what a browser keeps belongs to host and port
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Page:
    """A page, and the sheet whose votes it sends."""

    html: bytes
    sheet: str


class Server(ThreadingHTTPServer):
    """`url` is the only way in; pages are known by their last word ("" is the first)."""

    daemon_threads = True

    def __init__(self, pages: Mapping[str, Page], folder: Path, port: int = PORT) -> None:
        self.pages, self.folder, self.token = pages, folder, secrets.token_urlsafe(24)
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError:  # another sheet is being served; any free port does
            super().__init__(("127.0.0.1", 0), Handler)
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    def server_bind(self) -> None:
        # HTTPServer would look its own name up, which may ask another machine.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.socket.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that hangs up is no error of ours."""


class Refused(Exception):
    """A request that is not answered: status and reason."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "anneal", ""
    timeout = 20  # seconds for a body that never comes

    def log_message(self, *_: object) -> None:
        """Quiet: a log of requests would hold the token."""

    def _say(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if status >= 400:
            # The body of a refused request may still be on its way; it must not be read as the next request.
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, work: Callable[[str], tuple[bytes, str]]) -> None:
        try:
            body, kind = work(self._path())
        except Refused as err:
            self._say(err.args[0], f"{err.args[1]}\n".encode(), "text/plain")
        except (vote_records.Unreadable, UserError) as err:
            self._say(400, f"line {err}\n".encode(), "text/plain")
        except OSError as err:
            self._say(507, f"{err}\n".encode(), "text/plain")
        else:
            self._say(200, body, kind)

    def _path(self) -> str:
        """What follows the token."""
        origin = self.headers.get("Origin")
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0] not in self.server.hosts:
            raise Refused(403, "this server answers to its own name only")
        if origin is not None and origin not in {f"http://{host}" for host in self.server.hosts}:
            raise Refused(403, "votes come from the page itself only")
        token, _, rest = urlsplit(self.path).path.lstrip("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            raise Refused(404, "no such page; use the whole address that was printed")
        return rest

    def do_GET(self) -> None:
        self._answer(self._given)

    def do_POST(self) -> None:
        self._answer(self._taken)

    def _given(self, path: str) -> tuple[bytes, str]:
        pages = self.server.pages
        if path in pages:
            return pages[path].html, "text/html"
        if path != "votes":
            raise Refused(404, "no such page")
        rater = (parse_qs(urlsplit(self.path).query).get("rater") or [""])[0]
        standing = vote_records.standing(vote_records.read(self.server.folder))
        sheets = {page.sheet for page in pages.values()}
        return vote_records.lines(v for v in standing if v.rater == rater and v.sheet in sheets), KIND

    def _taken(self, path: str) -> tuple[bytes, str]:
        if path != "votes":
            raise Refused(404, "no such page")
        if self.headers.get("Origin") is None:
            raise Refused(403, "votes come from the page itself only")
        votes = vote_records.parse(self._body())
        if {vote.sheet for vote in votes} - {page.sheet for page in self.server.pages.values()}:
            raise Refused(409, "votes on another sheet; load the page anew")
        vote_records.append(self.server.folder, votes)
        return b'{"kept": %d}\n' % len(votes), "application/json"

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length") or ""
        if self.headers.get("Transfer-Encoding") or not (length.isascii() and length.isdigit()):
            raise Refused(411, "say how long the body is")
        if int(length) > LIMIT:
            raise Refused(413, "at most 1 MB at a time")
        # Not a type that a form of another page can send without asking first.
        if (self.headers.get("Content-Type") or "").split(";")[0].strip() != KIND:
            raise Refused(415, f"votes are {KIND}")
        raw = self.rfile.read(int(length))
        if len(raw) != int(length):
            raise Refused(400, "the body ended early")
        return raw


def run(pages: Mapping[str, Page], folder: Path, port: int = PORT) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    # Set anew: what a shell starts in the background is born deaf to Ctrl-C, and kill ends it as quietly.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with Server(pages, folder, port) as server:
        for name in pages:
            print(f"{server.url}{name}", flush=True)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            print(f"\nstopped; the votes are in {folder}/")
