"""The vote server on real sockets: access, validation, concurrent writers, and a kill."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anneal.human import vote_records, vote_server
from anneal.human.vote_records import Vote
from tests.conftest import ROOT

SHEET = "ab" * 32
CONTENT_TYPE = "application/x-ndjson"


def vote(number: int, rater: str = "Anna", **more: Any) -> Vote:
    return Vote(
        **{"sheet": SHEET, "rater": rater, "id": f"{number:012x}", "choice": "left", "reasons": [], "ms": 900} | more
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[vote_server.Server]:
    with vote_server.Server({"": vote_server.Page(b"<p>page", SHEET)}, tmp_path / "human", 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: vote_server.Server, method: str, path: str, body: bytes | None = None, **headers: str | None
) -> tuple[int, bytes]:
    """Status and body of a request with the headers of the page; `headers` replace these, and None leaves one out."""
    port = server.server_port
    sent = {"Host": f"127.0.0.1:{port}", "Origin": f"http://127.0.0.1:{port}", "Content-Type": CONTENT_TYPE}
    sent = {k: v for k, v in (sent | {k.replace("_", "-"): v for k, v in headers.items()}).items() if v is not None}
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    link.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    if body is not None and "Content-Length" not in sent:
        sent["Content-Length"] = str(len(body))
    for name, value in sent.items():
        link.putheader(name, value)
    link.endheaders(body)
    response = link.getresponse()
    status = response.status
    content = response.read()
    link.close()
    return status, content


def test_the_server_listens_on_loopback_with_a_random_token(server: vote_server.Server) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert len(server.token) >= 32
    assert ask(server, "GET", f"/{server.token}/") == (200, b"<p>page")


def test_votes_are_stored_and_returned(server: vote_server.Server) -> None:
    path = f"/{server.token}/votes"
    sent = [vote(1), vote(2, reasons=["facts"]), vote(1, rater="Bo")]
    assert ask(server, "POST", path, vote_records.encode(sent)) == (200, b'{"kept": 3}\n')
    assert vote_records.read(server.folder) == [sent[0], sent[1], sent[2]]
    ask(server, "POST", path, vote_records.encode([vote(2, choice="undo")]))
    assert ask(server, "GET", f"{path}?rater=Anna", Origin=None) == (200, vote_records.encode([vote(1)]))
    assert ask(server, "GET", f"{path}?rater=Nobody") == (200, b"")


@pytest.mark.parametrize(
    "path", ["/", "/wrong/", "/wrong/votes", "//", "/{token}x/", "/{token}/key.json", "/{token}/../key.json"]
)
def test_a_wrong_token_or_path_is_not_found(server: vote_server.Server, path: str) -> None:
    path = path.replace("{token}", server.token)
    assert ask(server, "GET", path)[0] == 404
    assert ask(server, "POST", path, vote_records.encode([vote(1)]))[0] == 404
    assert not server.folder.exists()


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1.evil.example:{port}"},
        {"Host": None},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": None},
    ],
)
def test_a_foreign_host_or_origin_is_refused(server: vote_server.Server, headers: dict[str, str | None]) -> None:
    filled = {k: v and v.replace("{port}", str(server.server_port)) for k, v in headers.items()}
    assert ask(server, "POST", f"/{server.token}/votes", vote_records.encode([vote(1)]), **filled)[0] == 403
    assert not server.folder.exists()
    if filled != {"Origin": None}:  # a browser sends no Origin when it opens a page
        assert ask(server, "GET", f"/{server.token}/", **filled)[0] == 403


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", {"Content_Length": str(vote_server.MAX_BODY + 1)}, 413),
        (b"{}", {"Content_Length": "-1"}, 411),
        (b"{}", {"Content_Length": "2, 2"}, 411),
        (None, {}, 411),
        (b"2\r\n{}\r\n0\r\n\r\n", {"Transfer_Encoding": "chunked"}, 411),
        (b"{}", {"Content_Type": "text/plain"}, 415),
        (b"{}", {}, 400),
        (b"\xff", {}, 400),
        (vote_records.encode([vote(1, sheet="cd" * 32)]), {}, 409),
        (vote_records.encode([vote(1)]) + b"{}", {}, 400),
    ],
)
def test_a_body_with_an_invalid_vote_is_refused_in_full(
    server: vote_server.Server, body: bytes | None, headers: dict[str, str], status: int
) -> None:
    assert ask(server, "POST", f"/{server.token}/votes", body, **headers)[0] == status
    assert not server.folder.exists()
    assert ask(server, "GET", f"/{server.token}/")[0] == 200, "the body is not read as the next request"


def test_a_large_body_is_refused_before_it_is_read(server: vote_server.Server) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as link:
        port = server.server_port
        head = f"POST /{server.token}/votes HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n"
        link.sendall(f"{head}Content-Type: {CONTENT_TYPE}\r\nContent-Length: 99999999999\r\n\r\n".encode())
        assert link.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_responses_may_not_be_framed_cached_or_sniffed(server: vote_server.Server) -> None:
    link = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    link.request("GET", f"/{server.token}/")
    sent = {k.lower(): v for k, v in link.getresponse().getheaders()}
    link.close()
    wanted = {"x-frame-options": "DENY", "cache-control": "no-store", "referrer-policy": "no-referrer"}
    assert {k: sent[k] for k in wanted} == wanted
    assert "access-control-allow-origin" not in sent
    assert "Python" not in sent["server"]


def test_concurrent_writers_lose_no_vote(server: vote_server.Server) -> None:
    path = f"/{server.token}/votes"
    n_requests = 25

    def write(who: int) -> None:
        for i in range(n_requests):
            assert (
                ask(server, "POST", path, vote_records.encode([vote(who * 1000 + i), vote(who * 1000 + i + 500)]))[0]
                == 200
            )

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({v.id for v in vote_records.read(server.folder)}) == 4 * 2 * n_requests
    assert (server.folder / "Anna.jsonl").read_bytes().count(b"\n") == 4 * 2 * n_requests


SERVE = f"""
import pathlib, sys
from anneal.human import vote_server
vote_server.run({{"": vote_server.Page(b"x", {SHEET!r})}}, pathlib.Path(sys.argv[1]), 0)
"""


def started(folder: Path) -> tuple[subprocess.Popen[str], str, int]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, "-c", SERVE, str(folder)], stdout=subprocess.PIPE, text=True, env=env)
    assert child.stdout
    url = child.stdout.readline().strip()
    port, token = url.removeprefix("http://127.0.0.1:").strip("/").split("/")
    return child, token, int(port)


def post(port: int, token: str, number: int) -> None:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Origin": f"http://127.0.0.1:{port}", "Content-Type": CONTENT_TYPE}
    link.request("POST", f"/{token}/votes", vote_records.encode([vote(number)]), headers)
    assert link.getresponse().read() == b'{"kept": 1}\n'
    link.close()


def test_a_kill_leaves_complete_lines_and_every_confirmed_vote(tmp_path: Path) -> None:
    child, token, port = started(tmp_path)
    confirmed: list[int] = []
    enough = threading.Event()

    def write() -> None:
        for number in range(100_000):
            try:
                post(port, token, number)
            except (OSError, http.client.HTTPException):
                return
            confirmed.append(number)
            if len(confirmed) == 30:
                enough.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert enough.wait(30)
    child.kill()
    thread.join()
    child.wait()
    raw = (tmp_path / "Anna.jsonl").read_bytes()
    assert raw.endswith(b"\n")
    stored = {int(json.loads(line)["id"], 16) for line in raw.splitlines()}
    assert stored >= set(confirmed)
    assert len(stored) - len(confirmed) in (0, 1), "at most the vote that was being sent"


def test_ctrl_c_stops_the_server(tmp_path: Path) -> None:
    child, token, port = started(tmp_path)
    post(port, token, 1)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=10)
    assert child.returncode == 0
    assert "the votes are in" in out
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)
