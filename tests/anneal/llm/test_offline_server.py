"""The offline provider: a chat completions server on loopback, with injected faults."""

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anneal.llm.offline_server import MODEL, VERSION, Faults, Reply, serve


class Client:
    """A keep-alive connection, as a provider's SDK holds one."""

    def __init__(self, url: str) -> None:
        self.host, _, rest = url.removeprefix("http://").partition(":")
        self.port = int(rest.partition("/")[0])
        self.wire = http.client.HTTPConnection(self.host, self.port, timeout=20)

    def ask(self, content: str = "你好", model: str = MODEL, path: str = "/v1/chat/completions", **more: Any) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
        self.wire.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return self.read()

    def read(self) -> Any:
        reply = self.wire.getresponse()
        return reply.status, dict(reply.getheaders()), json.loads(reply.read())


def echo(body: dict[str, Any]) -> Reply:
    return Reply(body["messages"][-1]["content"] * 2)


@pytest.fixture
def client() -> Iterator[Client]:
    with serve(echo) as url:
        yield Client(url)


def test_a_reply_is_a_chat_completion_with_its_usage(client: Client) -> None:
    status, _, reply = client.ask("你好吗", temperature=0.5)
    assert status == 200
    choice = reply["choices"][0]
    assert (choice["message"], choice["finish_reason"]) == ({"role": "assistant", "content": "你好吗你好吗"}, "stop")
    assert reply["model"] == MODEL
    assert reply["usage"] == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}


def test_the_connection_is_kept_alive(client: Client) -> None:
    client.ask()
    first = client.wire.sock
    assert first is not None
    for number in range(20):
        assert client.ask(str(number))[2]["choices"][0]["message"]["content"] == str(number) * 2
    assert client.wire.sock is first


def test_max_tokens_cuts_the_reply_and_says_so(client: Client) -> None:
    for key in ("max_tokens", "max_completion_tokens"):
        choice = client.ask("一二三四", **{key: 5})[2]["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("一二三四一", "length")
    assert client.ask("一二三四", max_tokens=8)[2]["choices"][0]["finish_reason"] == "stop"


def test_models_are_listed(client: Client) -> None:
    client.wire.request("GET", "/v1/models")
    status, _, reply = client.read()
    assert (status, [model["id"] for model in reply["data"]]) == (200, [MODEL])


@pytest.mark.parametrize("model", [f"offline-{VERSION + 1}", "offline", "gpt-x", f"other-{VERSION}"])
def test_an_unknown_version_is_a_404_that_names_the_known_one(client: Client, model: str) -> None:
    status, _, reply = client.ask(model=model)
    assert status == 404
    assert MODEL in reply["error"]["message"]
    assert model in reply["error"]["message"]


def test_other_roles_answer_under_the_same_version(client: Client) -> None:
    assert client.ask(model=f"offline-rules-{VERSION}")[2]["model"] == f"offline-rules-{VERSION}"


def test_a_body_that_is_no_chat_request_is_refused(client: Client) -> None:
    assert client.ask(path="/v1/embeddings")[0] == 404
    client.wire.request("GET", "/")
    assert client.read()[0] == 404
    for raw in (b"{", b"[]", b'{"model": "offline-1"}'):
        client.wire.request("POST", "/v1/chat/completions", raw)
        assert client.read()[0] == 400


def test_a_prompt_that_the_model_cannot_read_is_a_400_with_the_reason() -> None:
    def refuse(body: dict[str, Any]) -> Reply:
        raise ValueError("no task in the prompt")

    with serve(refuse) as url:
        status, _, reply = Client(url).ask()
    assert (status, reply["error"]["message"]) == (400, "no task in the prompt")


def test_faults_come_at_their_request_and_only_there() -> None:
    faults = Faults(at={2: "429", 3: "500", 4: "length", 5: "content_filter"}, retry_after=1.5)
    with serve(echo, faults) as url:
        client = Client(url)
        seen = [client.ask("四个字呀") for _ in range(6)]
    assert [status for status, _, _ in seen] == [200, 429, 500, 200, 200, 200]
    assert seen[1][1]["Retry-After"] == "1.5"
    finished = [reply["choices"][0]["finish_reason"] for status, _, reply in seen if status == 200]
    assert finished == ["stop", "length", "content_filter", "stop"]
    assert seen[3][2]["choices"][0]["message"]["content"] == "四个字呀"
    assert faults.requests == 6


def test_the_first_requests_fail_and_then_it_recovers() -> None:
    with serve(echo, Faults(first=2, kind="429")) as url:
        client = Client(url)
        assert [client.ask()[0] for _ in range(4)] == [429, 429, 200, 200]


def test_a_broken_body_is_broken_and_a_reset_is_a_reset() -> None:
    with serve(echo, Faults(at={1: "broken", 2: "reset"})) as url:
        client = Client(url)
        with pytest.raises(json.JSONDecodeError):
            client.ask()
        with pytest.raises(ConnectionError):
            client.ask()
        assert Client(url).ask()[0] == 200


def test_a_hang_lasts_until_the_server_ends() -> None:
    outcome: list[str] = []

    def wait(url: str) -> None:
        try:
            Client(url).ask()
            outcome.append("answered")
        except (ConnectionError, http.client.HTTPException) as err:
            outcome.append(type(err).__name__)

    faults = Faults(at={1: "hang"})
    with serve(echo, faults) as url:
        thread = threading.Thread(target=wait, args=(url,))
        thread.start()
        while not faults.requests:
            pass
        assert Client(url).ask()[0] == 200  # one hanging request holds up no other
        assert outcome == []
    thread.join(10)
    assert not thread.is_alive()
    assert outcome != ["answered"]


def test_the_rate_of_faults_is_seeded_by_number_and_not_by_order() -> None:
    def drawn(seed: int) -> list[str | None]:
        faults = Faults(rate=0.25, seed=seed)
        return [faults.next() for _ in range(400)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert 70 < sum(fault == "500" for fault in drawn(1)) < 130


def test_many_connections_at_once_are_all_counted() -> None:
    faults, answers = Faults(), []

    def run(url: str, name: str) -> None:
        client = Client(url)
        answers.extend(client.ask(f"{name}-{n}")[2]["choices"][0]["message"]["content"] for n in range(25))

    with serve(echo, faults) as url:
        threads = [threading.Thread(target=run, args=(url, str(k))) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(answers) == sorted(f"{k}-{n}" * 2 for k in range(8) for n in range(25))
    assert faults.requests == 200


def test_the_port_is_free_again_and_two_servers_live_side_by_side() -> None:
    with serve(echo) as one, serve(lambda _body: Reply("二")) as two:
        assert one != two
        assert Client(two).ask()[2]["choices"][0]["message"]["content"] == "二"
    with pytest.raises(ConnectionRefusedError):
        Client(one).ask()


def test_the_openai_client_accepts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openai

    monkeypatch.chdir(tmp_path)
    with serve(echo, Faults(at={2: "429"})) as url:
        asked = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        reply = asked.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "好"}])
        assert (reply.choices[0].message.content, reply.usage.total_tokens) == ("好好", 3)  # type: ignore[union-attr]
        with pytest.raises(openai.RateLimitError):
            asked.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "好"}])
        with pytest.raises(openai.NotFoundError, match=MODEL):
            asked.chat.completions.create(model="offline-99", messages=[{"role": "user", "content": "好"}])
        assert [model.id for model in asked.models.list()] == [MODEL]
