"""Privacy: connections to other machines are refused before a packet leaves, local ones pass. Each in a process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anneal import privacy

ROOT = Path(__file__).resolve().parents[2]
# TEST-NET-1 is routed nowhere; a connection that is let through would hang or fail otherwise than by the guard.
CHILD = """
import asyncio, json, os, socket, sys, threading
from anneal import privacy

class Refused(Exception):
    pass

privacy.guard({local_only}, Refused)
found = {{}}

def tried(name, do):
    try:
        do()
        found[name] = "passed"
    except Exception as err:
        found[name] = type(err).__name__

def tcp(host, port, timeout=0.3):
    with socket.socket() as s:
        s.settimeout(timeout)
        s.connect((host, port))

def datagram(host):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", (host, 9))
{body}
print(json.dumps({{**found, "made": privacy.outbound(), "refused": privacy.refused(), "env": dict(os.environ)}}))
"""


def child(body: str, local_only: bool = True) -> dict:
    code = CHILD.format(local_only=local_only, body=body)
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_every_kind_of_connection_to_another_machine_is_refused() -> None:
    found = child("""
tried("tcp", lambda: tcp("192.0.2.1", 80))
tried("named tcp", lambda: tcp("name.invalid", 80))
tried("connect_ex", lambda: socket.socket().connect_ex(("192.0.2.1", 80)))
tried("udp", lambda: datagram("192.0.2.1"))
tried("sendmsg", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendmsg([b"x"], [], 0, ("192.0.2.1", 9)))
tried("ipv6", lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)))
tried("mapped", lambda: socket.socket(socket.AF_INET6).connect(("::ffff:192.0.2.1", 80)))
tried("create", lambda: socket.create_connection(("name.invalid", 80)))
tried("lookup", lambda: socket.getaddrinfo("name.invalid", 80))
tried("old lookup", lambda: socket.gethostbyname("name.invalid"))
tried("asyncio", lambda: asyncio.run(asyncio.open_connection("192.0.2.1", 80)))
import urllib.request
tried("url", lambda: urllib.request.build_opener(urllib.request.ProxyHandler({})).open("http://name.invalid/"))
""")
    env, made, refused = found.pop("env"), found.pop("made"), found.pop("refused")
    assert len(found) == 12
    assert found == dict.fromkeys(found, "Refused")
    assert (made, refused) == (0, 12), "refused before it left, and every attempt counted"
    assert {env[k] for k in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_XET", "DO_NOT_TRACK", "DVC_NO_ANALYTICS")} == {"1"}


def test_this_machine_passes() -> None:
    found = child("""
server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
threading.Thread(target=lambda: [server.accept() for _ in range(4)], daemon=True).start()
tried("tcp", lambda: tcp("127.0.0.1", port))
tried("named", lambda: socket.create_connection(("localhost", port), 2))
tried("asyncio", lambda: asyncio.run(asyncio.open_connection("127.0.0.1", port)))
tried("udp", lambda: datagram("127.0.0.1"))
tried("wildcard", lambda: socket.getaddrinfo(None, 80, flags=socket.AI_PASSIVE))
pair = socket.socketpair()
tried("pair", lambda: pair[0].sendall(b"x"))
from anneal.llm import offline_server
import urllib.request
def served():
    with offline_server.serve(lambda body: offline_server.Reply("x")) as url:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url + "/models").read()
tried("offline provider", served)
""")
    assert (found.pop("made"), found.pop("refused")) == (0, 0)
    found.pop("env")
    assert found == dict.fromkeys(found, "passed")
    assert len(found) == 7


def test_without_local_only_nothing_is_refused_and_connections_are_counted() -> None:
    # Nobody needs to answer: a connection is counted when it is tried.
    found = child('tried("a", lambda: tcp("192.0.2.1", 80))\ntried("b", lambda: datagram("127.0.0.1"))', False)
    assert found["a"] != "Refused"
    assert (found["b"], found["made"], found["refused"]) == ("passed", 1, 0)


def test_the_hook_is_installed_once() -> None:
    found = child("""
privacy.guard(True, Refused)
privacy.guard(True, Refused)
tried("once", lambda: tcp("192.0.2.1", 80))
""")
    assert (found["once"], found["refused"]) == ("Refused", 1)


HERE = [
    "localhost",
    "LOCALHOST.",
    "127.0.0.1",
    "127.8.9.1",
    "::1",
    "[::1]",
    "::ffff:127.0.0.1",
    "",
    None,
    b"localhost",
    "http://localhost:8000/v1",
    "https://127.0.0.1/",
    "http://[::1]:8/v1",
    "0.0.0.0",
]
AWAY = [
    "example.com",
    "localhost.example.com",
    "10.0.0.1",
    "192.168.1.4",
    "fe80::1%eth0",
    "http://10.0.0.1/v1",
    "https://api.openai.com/v1",
    "http://localhost@example.com/",
    "http://127.0.0.1.example.com/",
    "http://[bad/",
    "127.0.0.1:80",
    "unix://socket",
    "2130706433",
]


def test_the_addresses_of_this_machine() -> None:
    assert [place for place in HERE if not privacy.loopback(place)] == []
    assert [place for place in AWAY if privacy.loopback(place)] == []


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.endswith("_BASE_URL")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "user"))
    monkeypatch.setenv("DVC_SYSTEM_CONFIG_DIR", str(tmp_path / "system"))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    return tmp_path


def remote(url: str) -> str:
    return f"['remote \"store\"']\n    url = {url}\n"


@pytest.mark.parametrize("place", [".dvc/config", ".dvc/config.local", "user/config", "system/config"])
@pytest.mark.parametrize("url", ["s3://bucket/x", "ssh://host/x", "https://u:secret@host/x", "gdrive://1", "//nas/x"])
def test_a_remote_on_another_machine_is_refused_wherever_it_is_written(checkout: Path, place: str, url: str) -> None:
    path = checkout / place
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + remote(url))
    with pytest.raises(privacy.Breach, match="remote 'store' is") as caught:
        privacy.refuse_remote(checkout)
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["/mnt/store", "../store", "file:///mnt/store", "remote://other/x"])
def test_a_remote_of_this_machine_passes(checkout: Path, url: str) -> None:
    (checkout / ".dvc/config.local").write_text(remote(url))
    privacy.refuse_remote(checkout)


@pytest.mark.parametrize("key", ["analytics", "check_update"])
@pytest.mark.parametrize("value", ["true", None])
def test_dvc_must_not_call_home(checkout: Path, key: str, value: str | None) -> None:
    other = {"analytics": "check_update", "check_update": "analytics"}[key]
    lines = ["[core]", f"{other} = false", *([f"{key} = {value}"] if value else [])]
    (checkout / ".dvc/config").write_text("\n".join(lines) + "\n")
    with pytest.raises(privacy.Breach, match=rf"core\.{key} is on"):
        privacy.refuse_remote(checkout)


def test_a_base_url_of_another_machine_is_refused(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_BASE_URL", "http://127.0.0.1:8000/v1")
    monkeypatch.setenv("JUDGE_BASE_URL", "")
    privacy.refuse_remote(checkout)
    monkeypatch.setenv("JUDGE_BASE_URL", "https://u:secret@api.example.com/v1")
    with pytest.raises(ValueError, match=r"^JUDGE_BASE_URL=https://api\.example\.com/v1: ") as caught:
        privacy.refuse_remote(checkout, ValueError)
    assert "\n" not in str(caught.value)


def test_experiments_do_not_go_to_studio(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / ".dvc/config.local").write_text("[exp]\n    auto_push = false\n")
    privacy.refuse_remote(checkout)
    for text, named in (
        ("[exp]\n    auto_push = true\n", "exp.auto_push"),
        ("[studio]\n    token = x\n", "studio.token"),
    ):
        (checkout / ".dvc/config.local").write_text(text)
        with pytest.raises(privacy.Breach, match=rf"config\.local: {named} is set: .*`dvc config --unset {named}`"):
            privacy.refuse_remote(checkout)
    (checkout / ".dvc/config.local").write_text("")
    monkeypatch.setenv("DVC_STUDIO_TOKEN", "x")
    with pytest.raises(privacy.Breach, match=r"^DVC_STUDIO_TOKEN: .*; unset it"):
        privacy.refuse_remote(checkout)


def test_a_broken_configuration_is_one_line(checkout: Path) -> None:
    (checkout / ".dvc/config.local").write_text("no section\n")
    with pytest.raises(privacy.Breach, match=r"config\.local: cannot be read") as caught:
        privacy.refuse_remote(checkout)
    assert "\n" not in str(caught.value)


def test_a_folder_without_dvc_has_nothing_to_refuse(tmp_path: Path, checkout: Path) -> None:
    privacy.refuse_remote(tmp_path / "other")


def test_it_imports_nothing_of_the_project() -> None:
    words = (ROOT / "anneal/privacy.py").read_text("utf-8").split()
    assert "from" in words
    assert not [word for word in words if word.startswith(("stages.", ".params"))]
