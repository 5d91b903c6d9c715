"""A loopback web server for the blind ballot: it serves the page and appends the votes that the page sends.

Every user of the machine, and every web page that is open in a browser on it, can send requests to a loopback port. So
the URL holds a random token, `Host` must name this server (against DNS rebinding), and a vote must have this server as
its `Origin` (against forged requests of other pages).
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

MAX_BODY = 1_000_000  # bytes of one request; the page sends at most 500 votes, of about 200 bytes each
CONTENT_TYPE = "application/x-ndjson"
PORT = 8765  # fixed: a browser stores the votes of a page by host and port
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Page:
    """A page and the id of the ballot whose votes it sends."""

    html: bytes
    ballot: str


class Server(ThreadingHTTPServer):
    """Serves `pages` by name, the last part of their URL, and stores votes in `folder`.

    `url` is the address of the page named "". A port that is taken is replaced by any free one.
    """

    daemon_threads = True

    def __init__(self, pages: Mapping[str, Page], folder: Path, port: int = PORT) -> None:
        self.pages = pages
        self.folder = folder
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError:  # another server, for another ballot, holds the port
            super().__init__(("127.0.0.1", 0), Handler)
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    def server_bind(self) -> None:
        # HTTPServer.server_bind would look up the host's name, which may query a name server.
        socketserver.TCPServer.server_bind(self)
        self.server_name = "127.0.0.1"
        self.server_port = self.socket.getsockname()[1]

    @property
    def url(self) -> str:
        """The address with the token; names of pages follow it."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Silent: a browser that closes its connection is not an error."""


class RequestError(Exception):
    """A request that is refused, with the status and the reason of the response."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """GET of a page; GET of a rater's votes (`votes?rater=<name>`); POST of votes as JSON Lines (`votes`)."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "anneal", ""
    timeout = 20  # seconds to wait for a request or a body

    def log_message(self, *_: object) -> None:
        """Silent: a log of requests would hold the token."""

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{content_type}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if status >= 400:
            # The body of a refused request may still be on its way; it must not be read as the next request.
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _respond(self, handle: Callable[[str], tuple[bytes, str]]) -> None:
        """Send what `handle` returns for the path, (body, content type), or the status of its error."""
        try:
            body, content_type = handle(self._authorized_path())
        except RequestError as err:
            self._send(err.status, f"{err}\n".encode(), "text/plain")
        except (vote_records.InvalidVote, UserError) as err:
            self._send(400, f"line {err}\n".encode(), "text/plain")
        except OSError as err:
            self._send(507, f"{err}\n".encode(), "text/plain")
        else:
            self._send(200, body, content_type)

    def _authorized_path(self) -> str:
        """The path after the token. RequestError for a foreign host or origin, or a wrong token."""
        origin = self.headers.get("Origin")
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0] not in self.server.hosts:
            raise RequestError(403, "the Host header must be the address of this server")
        if origin is not None and origin not in {f"http://{host}" for host in self.server.hosts}:
            raise RequestError(403, "votes are accepted from the page itself only")
        token, _, path = urlsplit(self.path).path.lstrip("/").partition("/")
        # In constant time, so that response times do not reveal the token.
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            raise RequestError(404, "no such page; use the whole address that was printed")
        return path

    def do_GET(self) -> None:
        self._respond(self._page_or_votes)

    def do_POST(self) -> None:
        self._respond(self._store_votes)

    def _page_or_votes(self, path: str) -> tuple[bytes, str]:
        pages = self.server.pages
        if path in pages:
            return pages[path].html, "text/html"
        if path != "votes":
            raise RequestError(404, "no such page")
        rater = (parse_qs(urlsplit(self.path).query).get("rater") or [""])[0]
        votes = vote_records.current(vote_records.read(self.server.folder))
        ballots = {page.ballot for page in pages.values()}
        return vote_records.encode(v for v in votes if v.rater == rater and v.sheet in ballots), CONTENT_TYPE

    def _store_votes(self, path: str) -> tuple[bytes, str]:
        if path != "votes":
            raise RequestError(404, "no such page")
        # A browser may leave Origin out of a GET, but never out of a POST.
        if self.headers.get("Origin") is None:
            raise RequestError(403, "votes are accepted from the page itself only")
        votes = vote_records.parse(self._body())
        if {vote.sheet for vote in votes} - {page.ballot for page in self.server.pages.values()}:
            raise RequestError(409, "votes on another ballot; reload the page")
        vote_records.append(self.server.folder, votes)
        return b'{"kept": %d}\n' % len(votes), "application/json"

    def _body(self) -> bytes:
        """The body of a POST, checked by its headers before it is read. RequestError where they do not allow it."""
        length = self.headers.get("Content-Length") or ""
        if self.headers.get("Transfer-Encoding") or not (length.isascii() and length.isdigit()):
            raise RequestError(411, "a Content-Length is required")
        if int(length) > MAX_BODY:
            raise RequestError(413, "at most 1 MB in one request")
        # A form of another page cannot send this type; a script would need a preflight, which has no answer here.
        if (self.headers.get("Content-Type") or "").split(";")[0].strip() != CONTENT_TYPE:
            raise RequestError(415, f"the Content-Type of votes is {CONTENT_TYPE}")
        raw = self.rfile.read(int(length))
        if len(raw) != int(length):
            raise RequestError(400, "the body is shorter than its Content-Length")
        return raw


def run(pages: Mapping[str, Page], folder: Path, port: int = PORT) -> None:
    """Print the addresses of the pages and serve until Ctrl-C or SIGTERM."""
    # A shell starts a background process with SIGINT ignored, and SIGTERM would end it without the last message.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with Server(pages, folder, port) as server:
        for name in pages:
            print(f"{server.url}{name}", flush=True)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            print(f"\nstopped; the votes are in {folder}/")
