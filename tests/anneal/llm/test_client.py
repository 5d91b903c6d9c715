"""Calls of a language model: no row lost, no bad reply used, no reply paid for twice without need."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from anneal.errors import UserError
from anneal.llm import client, offline_server, request, scheduler
from anneal.llm.offline_server import Fault, Faults, Reply
from tests.conftest import ROOT

SERVE = offline_server.serve


@dataclass
class Desk:
    """`ask` with a provider that counts: `sent` requests on the wire, `paid` replies that it made, by prompt."""

    monkeypatch: pytest.MonkeyPatch
    faults: Faults = field(default_factory=Faults)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    say: Callable[[dict[str, Any]], Reply] = lambda body: Reply(f"答：{body['messages'][0]['content']}")

    def __post_init__(self) -> None:
        self.monkeypatch.setattr(offline_server, "serve", lambda respond: SERVE(respond, self.faults))
        self.monkeypatch.setattr(scheduler, "BACKOFF", 0.001)

    def respond(self, body: dict[str, Any]) -> Reply:
        self.bodies.append(body)
        return self.say(body)

    def ask(
        self,
        prompts: list[str] | list[client.Call],
        check: Callable[[str], Any] = client.accept,
        max_failed: float = 0.0,
        **more: Any,
    ) -> list[client.Answer]:
        """One call for each prompt; the counts start again at 0."""
        self.bodies.clear()
        self.faults.requests = 0
        asked = [p if isinstance(p, client.Call) else call(p) for p in prompts]
        chat = client.Chat(model="offline-1", temperature=1.0, top_p=0.9, max_tokens=100, max_failed=max_failed)
        return client.ask(asked, chat, "teacher", self.respond, check, **more)

    @property
    def sent(self) -> int:
        return self.faults.requests

    @property
    def paid(self) -> Counter[str]:
        return Counter(body["messages"][0]["content"] for body in self.bodies)


def call(prompt: str, **more: Any) -> client.Call:
    return client.Call(f"id-{prompt}", [{"role": "user", "content": prompt}], **more)


def prompts(n: int) -> list[str]:
    return [f"题{number}" for number in range(n)]


def rows(table: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(".work/llm/ledger.sqlite")) as db:
        return db.execute(f"SELECT kind, tokens_in, tokens_out, cost, attempts FROM {table}").fetchall()


def failures(stage: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(f".work/failures/{stage}.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture
def desk(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    assert toy.is_dir()
    for name in [n for n in os.environ if n.startswith(("TEACHER_", "JUDGE_", "OPENAI_", "ANNEAL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DVC_STAGE", "a-stage")
    return Desk(monkeypatch)


# Which requests are sent, and which are not sent again.


def test_answers_are_in_the_order_of_the_calls(desk: Desk) -> None:
    answers = desk.ask(prompts(70))
    assert [(a.id, a.status, a.text, a.kind) for a in answers] == [
        (f"id-{p}", "ok", f"答：{p}", "") for p in prompts(70)
    ]
    assert (desk.sent, len(desk.bodies)) == (70, 70)
    assert desk.bodies[0].keys() == {"model", "messages", "max_tokens", "temperature", "top_p"}
    assert failures("a-stage") == []


def test_an_unchanged_rerun_sends_nothing_and_a_changed_prompt_one_request(desk: Desk) -> None:
    first = desk.ask(prompts(60))
    again = desk.ask(prompts(60))
    assert desk.sent == 0
    assert [a.status for a in again] == ["cached"] * 60
    assert [(a.text, a.tokens_in, a.tokens_out) for a in again] == [(a.text, a.tokens_in, a.tokens_out) for a in first]
    changed = [*prompts(59), "新题"]
    answers = desk.ask(changed)
    assert (desk.sent, desk.paid) == (1, {"新题": 1})
    assert [a.status for a in answers] == ["cached"] * 59 + ["ok"]


def test_settings_of_the_answer_change_the_key_and_those_of_the_endpoint_do_not(desk: Desk) -> None:
    desk.ask(["题"])
    desk.monkeypatch.setenv("TEACHER_CONCURRENCY", "3")
    desk.monkeypatch.setenv("TEACHER_TIMEOUT", "7")
    desk.ask([client.Call("another-id", call("题").messages)])
    assert desk.sent == 0
    chat = client.Chat(model="offline-1", temperature=1.0, top_p=0.9, max_tokens=100, max_failed=0.0)
    changes: list[dict[str, Any]] = [{"temperature": 0.5}, {"top_p": 1.0}, {"max_tokens": 101}]
    for change in changes:
        desk.faults.requests = 0
        client.ask([call("题")], chat.model_copy(update=change), "teacher", desk.respond)
        assert desk.sent == 1, change
    assert "top_p" not in desk.bodies[1]


def test_equal_requests_are_sent_once_and_another_sample_is_another_request(desk: Desk) -> None:
    desk.say = lambda body: Reply(f"第{body.get('seed', 0)}种")
    same = [client.Call(str(n), call("题").messages) for n in range(5)]
    answers = desk.ask(same)
    assert desk.sent == 1
    assert [(a.id, a.text) for a in answers] == [(str(n), "第0种") for n in range(5)]
    answers = desk.ask([call("题", sample=n) for n in range(3)])
    assert desk.sent == 2
    assert [a.text for a in answers] == ["第0种", "第1000种", "第2000种"]


def test_a_change_of_the_phrases_changes_the_key(desk: Desk, toy: Path) -> None:
    bank = toy / "bank"
    bank.mkdir()
    (bank / "words.json").write_text("[1]")
    for sent in (1, 0):
        desk.ask(["题"], material=bank)
        assert desk.sent == sent
    (bank / "words.json").write_text("[2]")
    desk.ask(["题"], material=bank)
    assert desk.sent == 1


def test_no_calls_are_no_error(desk: Desk) -> None:
    assert desk.ask([]) == []
    assert desk.sent == 0


# A provider that misbehaves on the wire.


@pytest.mark.parametrize("kind", ["429", "500", "reset", "broken", "length", "content_filter"])
def test_one_kind_of_fault_costs_as_many_requests_and_no_row(desk: Desk, kind: Fault) -> None:
    # One filtered reply only: a row that met a second one would fail, as it should.
    hit = (1,) if kind == "content_filter" else (1, 5, 6, 20, 33)
    desk.faults = Faults(at=dict.fromkeys(hit, kind), retry_after=0.001)
    answers = desk.ask(prompts(50))
    assert [a.text for a in answers] == [f"答：{p}" for p in prompts(50)]
    assert desk.sent == 50 + len(hit)
    # Of the kinds that make a reply, each bad one is paid for; of the others the provider made none.
    assert len(desk.bodies) == 50 + (len(hit) if kind in ("length", "content_filter") else 0)
    assert sum(len(a.errors) for a in answers) == len(hit)
    desk.ask(prompts(50))
    assert desk.sent == 0


def test_a_hang_ends_with_the_timeout_of_one_attempt(desk: Desk) -> None:
    desk.monkeypatch.setenv("TEACHER_TIMEOUT", "1")
    desk.faults = Faults(at={2: "hang", 3: "hang"})
    answers = desk.ask(prompts(6))
    assert [a.status for a in answers] == ["ok"] * 6
    assert desk.sent == 8
    assert sorted(error for a in answers for error in a.errors) == ["no answer in 1 s"] * 2


def test_the_whole_mix_loses_nothing_and_passes_nothing_bad(desk: Desk) -> None:
    """Every row is answered, no bad reply is used, and only the broken replies are paid for twice."""
    kinds: list[Fault] = ["429", "500", "reset", "broken"]
    mix = {number: kinds[number // 10 % 4] for number in range(1, 240, 10)}
    # Few of these: a row that met three cuts or two filters would rightly fail, and threads arrive in any order.
    mix |= {5: "length", 105: "length", 55: "content_filter"}
    desk.faults = Faults(at=mix, retry_after=0.002)
    torn = {f"题{n}" for n in range(7, 200, 40)}
    desk.say = lambda body: Reply(
        '{"score": ' if body["messages"][0]["content"] in torn and "seed" not in body else '{"score": 3}'
    )
    answers = desk.ask(prompts(200), json.loads)
    broken = len(torn) + sum(kind in ("reset", "broken", "length", "content_filter") for kind in mix.values())
    assert [a.value for a in answers] == [{"score": 3}] * 200
    assert sum(n - 1 for n in desk.paid.values()) <= broken
    assert desk.sent == 200 + sum(n <= desk.sent for n in mix) + sum(a.errors.count(TORN) for a in answers)
    desk.ask(prompts(200), json.loads)
    assert desk.sent == 0


TORN = "Expecting value: line 1 column 11 (char 10)"


def test_a_storm_of_429_loses_no_row(desk: Desk) -> None:
    desk.faults = Faults(first=60, rate=0.3, kind="429", retry_after=0.005)
    answers = desk.ask(prompts(120))
    assert [a.status for a in answers] == ["ok"] * 120
    assert len(desk.bodies) == 120
    assert desk.sent == 120 + sum(len(a.errors) for a in answers)


def test_waiting_is_no_attempt(desk: Desk) -> None:
    """One row that waits more often than it may fail."""
    desk.faults = Faults(first=2 * request.ATTEMPTS, kind="429", retry_after=0.001)
    (answer,) = desk.ask(["题"])
    assert (answer.status, desk.sent) == ("ok", 2 * request.ATTEMPTS + 1)


def test_no_row_is_sent_while_a_provider_asks_all_rows_to_wait(desk: Desk) -> None:
    """One request in 20 ms, else 429: sending the next rows would spend the waits of all."""

    class Bucket(Faults):
        opens = 0.0

        def next(self) -> Fault | None:
            super().next()
            if time.monotonic() < self.opens:
                return "429"
            self.opens = time.monotonic() + 0.02
            return None

    desk.faults = Bucket(retry_after=0.02)
    desk.monkeypatch.setenv("TEACHER_CONCURRENCY", "16")
    answers = desk.ask(prompts(40))
    assert [a.status for a in answers] == ["ok"] * 40
    # At every try of all 16 workers it would be some 16 refusals for each answer.
    assert desk.sent <= 4 * 40


# Replies that are no answers.


def test_a_reply_that_fails_its_check_is_repeated_stored_and_never_served(desk: Desk) -> None:
    desk.say = lambda body: Reply("坏" if "seed" not in body else f"好{body['seed']}")

    def check(text: str) -> str:
        if text == "坏":
            raise ValueError("a bad word")
        return text.upper()

    (answer,) = desk.ask(["题"], check)
    assert (answer.text, answer.value, answer.errors, desk.sent) == ("好1", "好1", ["a bad word"], 2)
    assert rows("refused") == [("check", 1, 1, 0.0, 1)]
    assert rows("answers") == [("", 1, 2, 0.0, 2)]
    (answer,) = desk.ask(["题"], check)
    assert (answer.status, answer.text, desk.sent) == ("cached", "好1", 0)
    # A check that would let it pass does not bring the refused reply back.
    (answer,) = desk.ask(["题"])
    assert (answer.text, desk.sent) == ("好1", 0)


def test_a_stricter_check_repeats_only_the_replies_that_fail_it(desk: Desk) -> None:
    desk.say = lambda body: Reply(body["messages"][0]["content"] + str(body.get("seed", 0)))

    def check(text: str) -> str:
        if text == "题30":
            raise ValueError("not this one")
        return text

    desk.ask(prompts(10))
    answers = desk.ask(prompts(10), check)
    assert (desk.sent, answers[3].text, answers[3].status) == (1, "题31", "ok")
    assert rows("refused") == []
    desk.ask(prompts(10), check)
    assert desk.sent == 0
    assert desk.ask(prompts(10))[3].text == "题30"
    assert desk.sent == 0


def test_a_call_may_have_its_own_check(desk: Desk) -> None:
    asked = [call("甲", check=len), call("乙")]
    assert [a.value for a in desk.ask(asked, str.upper)] == [3, "答：乙"]


def test_a_text_that_is_cut_short_gets_a_larger_max_tokens_and_then_fails(desk: Desk) -> None:
    desk.say = lambda body: Reply("文", "stop" if body["max_tokens"] >= 200 else "length")
    (answer,) = desk.ask(["题"])
    assert (answer.text, [b["max_tokens"] for b in desk.bodies]) == ("文", [100, 200])
    desk.say = lambda _body: Reply("半", "length")
    (answer,) = desk.ask(["长题"], max_failed=1.0)
    assert (answer.status, answer.kind, answer.text, answer.value) == ("failed", "length", "", None)
    assert [b["max_tokens"] for b in desk.bodies] == [100, 200, 400]


def test_a_filtered_row_is_repeated_once(desk: Desk) -> None:
    desk.say = lambda _body: Reply("", "content_filter")
    (answer,) = desk.ask(["题"], max_failed=1.0)
    assert (answer.kind, desk.sent) == ("content_filter", 2)


@pytest.mark.parametrize(
    ("text", "kind"), [("", "empty"), ("很抱歉，我无法撰写这类宣传内容。", "refusal"), ("短", "check")]
)
def test_an_unusable_reply_fails_after_all_attempts(desk: Desk, text: str, kind: str) -> None:
    desk.say = lambda _body: Reply(text)

    def check(said: str) -> str:
        raise ValueError(f"too short: {said}")

    (answer,) = desk.ask(["题"], check, max_failed=1.0)
    assert (answer.status, answer.kind, len(answer.errors)) == ("failed", kind, request.ATTEMPTS)
    assert desk.sent == request.ATTEMPTS
    assert len({json.dumps(b) for b in desk.bodies}) == request.ATTEMPTS, "each time another request"
    assert rows("answers") == []
    assert [row[0] for row in rows("refused")] == [kind] * request.ATTEMPTS
    # A later run does not serve the failure: it asks on, and what comes then is kept.
    desk.say = lambda _body: Reply("一篇足够好的文案")
    (answer,) = desk.ask(["题"])
    assert (answer.status, answer.text, desk.sent) == ("ok", "一篇足够好的文案", 1)


def test_an_exception_in_a_check_stops_the_run(desk: Desk) -> None:
    """A bug must not repeat requests at the user's cost, nor lose paid replies."""

    def check(text: str) -> str:
        return {}[text]

    with pytest.raises(KeyError):
        desk.ask(prompts(3), check)
    assert desk.sent <= 3


# Rows that fail, and runs that cannot go on.


def test_rejected_rows_are_named_and_the_others_answered(desk: Desk) -> None:
    def say(body: dict[str, Any]) -> Reply:
        prompt = body["messages"][0]["content"]
        if prompt in ("题3", "题41"):
            raise ValueError("a word this server cannot read")
        return Reply("", "content_filter") if prompt == "题7" else Reply("好")

    desk.say = say
    answers = desk.ask(prompts(100), max_failed=0.03)
    assert [a.id for a in answers if a.status == "failed"] == ["id-题3", "id-题7", "id-题41"]
    assert sum(a.text == "好" for a in answers) == 97
    assert desk.sent == 97 + 2 + 2
    named = {row["id"]: row for row in failures("a-stage")}
    assert named["id-题3"]["kind"] == "http"
    assert named["id-题3"]["errors"] == ["http 400: a word this server cannot read"]
    assert named["id-题7"]["kind"] == "content_filter"
    assert client.bill(answers)["failed"] == {"http": 2, "content_filter": 1}
    with pytest.raises(UserError) as caught:
        desk.ask(prompts(100), max_failed=0.02)
    # The two bad requests again, and one more try for the filtered one.
    assert desk.sent == 3
    told = str(caught.value)
    assert told.startswith("3 of 100 rows failed (1 content_filter, 2 http), more than teacher.max_failed 0.02; ")
    assert ".work/failures/a-stage.jsonl" in told


def test_max_failed_counts_over_all_calls_of_a_stage(desk: Desk) -> None:
    def say(body: dict[str, Any]) -> Reply:
        if body["messages"][0]["content"] in ("题1", "题5"):
            raise ValueError("bad")
        return Reply("好")

    desk.say = say
    first = desk.ask(prompts(4), max_failed=0.1, total=10)
    with pytest.raises(UserError, match="2 of 10 rows failed"):
        desk.ask(prompts(10)[4:], max_failed=0.1, total=10, earlier=first)
    assert [row["id"] for row in failures("a-stage")] == ["id-题1", "id-题5"]
    # A later answer to the same id stands for the earlier one.
    desk.say = lambda _body: Reply("好")
    desk.ask(prompts(4), max_failed=0.0, earlier=first)
    assert failures("a-stage") == []


def test_a_request_that_fails_for_every_row_stops_the_run(desk: Desk) -> None:
    def say(_body: dict[str, Any]) -> Reply:
        raise ValueError("max_tokens is not supported with this model")

    desk.say = say
    desk.monkeypatch.setenv("TEACHER_CONCURRENCY", "4")
    with pytest.raises(UserError, match=r"the first \d rows all failed, the last with: http 400: max_tokens is not"):
        desk.ask(prompts(100), max_failed=1.0)
    assert 4 <= desk.sent <= 8


class Always(ThreadingHTTPServer):
    """Answers every request with one status, whatever the model's name; counts them."""

    def __init__(self, status: int) -> None:
        self.status, self.count = status, 0
        super().__init__(("127.0.0.1", 0), AlwaysHandler)


class AlwaysHandler(BaseHTTPRequestHandler):
    server: Always

    def do_POST(self) -> None:
        self.server.count += 1
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = offline_server.completion(body, Reply("一二三四"), 1)
        payload = json.dumps(said if self.server.status == 200 else {"error": {"message": "so it is"}}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_words: Any) -> None:
        pass


@contextlib.contextmanager
def always(status: int) -> Iterator[tuple[Always, str]]:
    with Always(status) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server, f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def real(
    monkeypatch: pytest.MonkeyPatch, url: str, n: int, check: Callable[[str], Any] = client.accept
) -> list[client.Answer]:
    """Ask a provider by its address, as a paid one is asked."""
    monkeypatch.setenv("TEACHER_BASE_URL", url)
    monkeypatch.setenv("TEACHER_API_KEY", "a-key")
    chat = client.Chat(model="paid", temperature=1.0, top_p=1.0, max_tokens=9, max_failed=0.0)
    return client.ask([call(p) for p in prompts(n)], chat, "teacher", lambda _body: Reply(""), check)


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "TEACHER_API_KEY in .env"),
        (402, "account"),
        (403, "TEACHER_API_KEY"),
        (404, "teacher.model in params.yaml"),
    ],
)
def test_a_wrong_key_costs_one_round_and_names_the_variable(desk: Desk, status: int, advice: str) -> None:
    desk.monkeypatch.setenv("TEACHER_CONCURRENCY", "8")
    with always(status) as (server, url), pytest.raises(UserError, match=f"http {status}: so it is; .*{advice}"):
        real(desk.monkeypatch, url, 200)
    assert 1 <= server.count <= 8


def test_a_refused_connection_stops_the_run_at_once(desk: Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=rf"is TEACHER_BASE_URL http://127\.0\.0\.1:{port}/v1 right, and is it up\?"):
        real(desk.monkeypatch, f"http://127.0.0.1:{port}/v1", 50)


def test_two_addresses_share_no_answers_and_prices_are_booked(desk: Desk) -> None:
    desk.monkeypatch.setenv("TEACHER_PRICE_IN", "1000000")
    desk.monkeypatch.setenv("TEACHER_PRICE_OUT", "2000000")
    for _ in range(2):
        with always(200) as (server, url):
            answers = real(desk.monkeypatch, url, 3)
            assert real(desk.monkeypatch, url, 3)[0].status == "cached"
        assert server.count == 3
    assert [(a.text, a.tokens_in, a.tokens_out) for a in answers] == [("一二三四", 2, 4)] * 3
    assert rows("answers") == [("", 2, 4, 10.0, 1)] * 6


def test_a_repeat_of_the_same_request_is_a_request_of_its_own(desk: Desk) -> None:
    """A paid provider gets the same body again; the cache must not return the refused reply for the new request."""
    said: list[str] = []

    def check(text: str) -> str:
        said.append(text)
        if len(said) < 3:
            raise ValueError("not yet")
        return text

    with always(200) as (server, url):
        assert real(desk.monkeypatch, url, 1, check)[0].status == "ok"
        assert (server.count, len(rows("refused")), len(rows("answers"))) == (3, 2, 1)
        assert real(desk.monkeypatch, url, 1, check)[0].status == "cached"
        assert server.count == 3


def test_another_sample_is_another_request_to_a_paid_provider_too(desk: Desk) -> None:
    """Its body is the same, as a paid provider draws new words by itself."""
    desk.monkeypatch.setenv("TEACHER_API_KEY", "a-key")
    chat = client.Chat(model="paid", temperature=1.0, top_p=1.0, max_tokens=9, max_failed=0.0)
    with always(200) as (server, url):
        desk.monkeypatch.setenv("TEACHER_BASE_URL", url)
        client.ask([call("题", sample=n) for n in (0, 1, 1)], chat, "teacher", desk.respond)
        assert server.count == 2


def test_a_budget_stops_and_what_was_paid_for_is_kept(desk: Desk) -> None:
    desk.monkeypatch.setenv("TEACHER_MAX_REQUESTS", "7")
    desk.monkeypatch.setenv("TEACHER_CONCURRENCY", "3")
    with pytest.raises(UserError, match=r"TEACHER_MAX_REQUESTS: 7 are spent and .* rows left; raise it"):
        desk.ask(prompts(20))
    assert desk.sent == 7
    desk.monkeypatch.delenv("TEACHER_MAX_REQUESTS")
    desk.ask(prompts(20))
    assert desk.sent == 13


def test_a_dry_run_says_what_it_would_send_and_sends_nothing(desk: Desk) -> None:
    desk.ask(prompts(4))
    desk.monkeypatch.setenv("ANNEAL_DRY_RUN", "1")
    with pytest.raises(UserError, match="dry run: would send 6 of 10 teacher requests, 4 are answered"):
        desk.ask(prompts(10))
    assert desk.sent == 0
    # A forecast needs neither key nor provider.
    chat = client.Chat(model="paid", temperature=1.0, top_p=1.0, max_tokens=9, max_failed=0.0)
    with pytest.raises(UserError, match="would send 1 of 1"):
        client.ask([call("题")], chat, "teacher", desk.respond)


def test_cached_replies_need_no_key(desk: Desk) -> None:
    with always(200) as (server, url):
        real(desk.monkeypatch, url, 3)
        desk.monkeypatch.delenv("TEACHER_API_KEY")
        chat = client.Chat(model="paid", temperature=1.0, top_p=1.0, max_tokens=9, max_failed=0.0)
        client.ask([call(p) for p in prompts(3)], chat, "teacher", desk.respond)
        assert server.count == 3
        with pytest.raises(UserError, match=r"^TEACHER_API_KEY: not set"):
            client.ask([call(p) for p in prompts(4)], chat, "teacher", desk.respond)


def test_a_proxy_of_the_environment_does_not_catch_loopback(desk: Desk) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        desk.monkeypatch.setenv(name, "http://127.0.0.1:9")
    desk.monkeypatch.delenv("NO_PROXY", raising=False)
    desk.monkeypatch.delenv("no_proxy", raising=False)
    assert desk.ask(["题"])[0].status == "ok"


def test_it_is_quiet_and_leaves_the_signals_as_they_were(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    def mine(_number: int, _frame: object) -> None:
        """What a stage does about SIGTERM, see params.run."""

    before = signal.signal(signal.SIGTERM, mine)
    try:
        ctrl_c = signal.getsignal(signal.SIGINT)
        desk.ask(prompts(3))
        assert capfd.readouterr() == ("", "")
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == (mine, ctrl_c)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_it_runs_outside_of_the_main_thread(desk: Desk) -> None:
    got: list[client.Answer] = []
    thread = threading.Thread(target=lambda: got.extend(desk.ask(prompts(3))))
    thread.start()
    thread.join()
    assert [a.status for a in got] == ["ok"] * 3


def test_on_a_terminal_it_shows_one_line(desk: Desk) -> None:
    """Counts of the run as it ended, on a stream that only pretends to be a terminal."""
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    desk.monkeypatch.setattr(sys, "stderr", screen)
    desk.monkeypatch.setenv("COLUMNS", "200")
    desk.faults = Faults(at={2: "500"})
    desk.ask(prompts(2))
    desk.ask(prompts(5))
    assert "teacher: 3 ok, 2 cached, 1 retried, 0 failed, 18 tokens" in screen.getvalue()


# Runs that are killed or stopped: a real process, as DVC starts it.

STAGE = '''"""asker: a stage of the tests."""
import contextlib, os
from pathlib import Path
from anneal.llm import client, offline_server
from anneal.stage import run

offline_server.serve = lambda _respond: contextlib.nullcontext(os.environ["DESK"])

def respond(_body):
    raise AssertionError("the provider is in the other process")

def main(teacher: client.Chat) -> None:
    calls = [client.Call(str(n), [{"role": "user", "content": f"题{n}"}]) for n in range(60)]
    answers = client.ask(calls, teacher, "teacher", respond)
    Path("out.txt").write_text(" ".join(a.text for a in answers))

if __name__ == "__main__":
    run(main)
'''
PARAMS = (
    "privacy:\n  local_only: false\n"
    "teacher:\n  model: offline-1\n  temperature: 1.0\n  top_p: 1.0\n  max_tokens: 9\n  max_failed: 0.0\n"
)
AT_ONCE = 8


class Gate:
    """A provider that stops answering after `free` requests, until it is opened."""

    def __init__(self, free: int) -> None:
        self.free, self.paid = free, Counter[str]()
        self.arrived, self.opened = threading.Condition(), threading.Event()

    def respond(self, body: dict[str, Any]) -> Reply:
        prompt = body["messages"][0]["content"]
        with self.arrived:
            self.paid[prompt] += 1
            number = self.paid.total()
            self.arrived.notify_all()
        if number > self.free:
            self.opened.wait()
        return Reply(f"答{prompt}")

    def wait(self, requests: int) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: self.paid.total() >= requests, 60)


def stage(url: str) -> subprocess.Popen[str]:
    """The stage as a process in the working directory."""
    Path("asker.py").write_text(STAGE)
    Path("params.yaml").write_text(PARAMS)
    env = {**os.environ, "DESK": url, "PYTHONPATH": str(ROOT), "TEACHER_CONCURRENCY": str(AT_ONCE)}
    return subprocess.Popen([sys.executable, "asker.py"], env=env, stderr=subprocess.PIPE, text=True)


def finish(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same stage again, to its end; in this process, which spares a start. The file is the provider's name."""
    spec = importlib.util.spec_from_file_location("asker", "asker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "asker", module)
    monkeypatch.setenv("DESK", url)
    monkeypatch.setattr(offline_server, "serve", offline_server.serve)  # put back what the stage replaces
    spec.loader.exec_module(module)
    module.main(client.Chat(model="offline-1", temperature=1.0, top_p=1.0, max_tokens=9, max_failed=0.0))
    assert Path("out.txt").read_text() == " ".join(f"答题{n}" for n in range(60))


def test_after_kill_9_only_what_was_in_flight_is_paid_twice(desk: Desk) -> None:
    gate = Gate(free=30)
    with SERVE(gate.respond) as url:
        process = stage(url)
        gate.wait(30 + AT_ONCE)
        process.kill()
        process.communicate()
        gate.opened.set()
        finish(url, desk.monkeypatch)
    assert gate.paid.keys() == set(prompts(60))
    assert 1 <= sum(n - 1 for n in gate.paid.values()) <= AT_ONCE


def test_a_stopped_run_receives_what_is_in_flight_and_fails(desk: Desk) -> None:
    gate = Gate(free=30)
    with SERVE(gate.respond) as url:
        process = stage(url)
        gate.wait(30 + AT_ONCE)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert f"SIGTERM: waiting for {AT_ONCE} paid replies" in process.stderr.readline()
        gate.opened.set()
        told = process.communicate(timeout=60)[1]
        assert (process.returncode, "paid replies are kept" in told) == (130, True)
        assert not Path("out.txt").exists()
        assert gate.paid.total() == 30 + AT_ONCE
        finish(url, desk.monkeypatch)
    assert gate.paid == Counter(prompts(60)), "nothing is paid for twice"


@pytest.mark.usefixtures("desk")
def test_a_second_ctrl_c_exits_at_once() -> None:
    gate = Gate(free=3)
    with SERVE(gate.respond) as url:
        process = stage(url)
        gate.wait(3 + AT_ONCE)
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        assert "SIGINT: waiting for" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        gate.opened.set()
    assert process.returncode == 130
