"""One request to a chat completions endpoint: the way there, and what its outcome asks of us.

The client's own retries are off: they sleep while they hold the slot, never see a broken body, and multiply with ours.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anneal.errors import UserError
from anneal.llm import offline_server
from anneal.llm.response import Kind

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Role = Literal["teacher", "judge", "answer"]
# use: a reply came. again: ask again soon. wait: when the provider says. drop: never for this row. stop: for no row.
Move = Literal["use", "again", "wait", "drop", "stop"]

_MOVES: dict[int, Move] = {401: "stop", 402: "stop", 403: "stop", 404: "stop", 405: "stop", 429: "wait", 503: "wait"}
_MOVES |= {408: "again", 409: "again", 425: "again"}
_ADVICE = {
    401: "correct {name}_API_KEY in .env",
    402: "the account is empty",
    403: "may {name}_API_KEY use {role}.model?",
    404: "correct {role}.model in params.yaml or {name}_BASE_URL in .env",
    405: "correct {name}_BASE_URL in .env",
}
LONGEST_WAIT = 600.0  # seconds; a provider that asks for more has closed for the day


@dataclass(frozen=True)
class Endpoint:
    """The way to a provider, from the environment. Of all this only `identity` may change an answer."""

    role: Role
    identity: str
    url: str
    key: str
    concurrency: int
    timeout: float  # seconds for one request
    max_requests: int
    price_in: float  # per million tokens
    price_out: float


@dataclass(frozen=True)
class Outcome:
    move: Move
    kind: Kind = ""
    reason: str = ""
    body: str = ""
    delay: float | None = None  # seconds, from Retry-After
    overloaded: bool | None = None
    reached: bool = True  # False: nobody answered at that address


def _number(name: str, default: float, least: float, most: float) -> float:
    raw = os.environ.get(name, "").strip() or str(default)
    try:
        value = float(raw)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise UserError(f"{name}={raw}: a number from {least:g} to {most:g}; correct it in .env or the environment")
    return value


def _edition(respond: offline_server.Respond, material: Path | None) -> str:
    """Who answers offline: the module of the persona with its VERSION, and the bytes of its phrases."""
    persona = sys.modules[respond.__module__]
    name = Path(str(persona.__file__)).stem  # a module that is run is called __main__
    total = hashlib.sha256(f"{name} {getattr(persona, 'VERSION', 0)}".encode())
    for path in sorted(p for p in material.rglob("*") if p.is_file()) if material else []:
        total.update(b"\0" + path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]


def road(role: Role, model: str, respond: offline_server.Respond, material: Path | None) -> Endpoint:
    """The road for a role. The address of the offline provider is not known yet: its port is new in each run."""
    name = role.upper()
    if embedded := model.startswith("offline-"):
        url, key, identity = "", "offline", f"offline/{_edition(respond, material)}"
    else:
        url = os.environ.get(f"{name}_BASE_URL") or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        key, identity = os.environ.get(f"{name}_API_KEY") or os.environ.get("OPENAI_API_KEY") or "", url.rstrip("/")
    return Endpoint(
        role,
        identity,
        url,
        key,
        concurrency=int(_number(f"{name}_CONCURRENCY", 32, 1, 1000)),  # 1000 is the client's pool
        timeout=_number(f"{name}_TIMEOUT", 60, 0.001, 86400),
        max_requests=int(_number(f"{name}_MAX_REQUESTS", 10**9, 0, 10**9)),
        price_in=0.0 if embedded else _number(f"{name}_PRICE_IN", 0, 0, 1e9),
        price_out=0.0 if embedded else _number(f"{name}_PRICE_OUT", 0, 0, 1e9),
    )


@contextmanager
def opened(road: Endpoint, respond: offline_server.Respond) -> Iterator[Endpoint]:
    """The road with a provider at its end: the offline one is started, the key for any other is asked for."""
    if not road.url:
        with offline_server.serve(respond) as url:
            yield replace(road, url=url)
        return
    if not road.key:
        name = road.role.upper()
        raise UserError(f"{name}_API_KEY: not set, nor OPENAI_API_KEY; put it in .env (a local server takes any word)")
    yield road


def connect(road: Endpoint) -> AsyncOpenAI:
    """A client whose transport is aiohttp: the default one scans its pool and falls behind above 100 requests."""
    import openai

    # The offline provider is on loopback, where a proxy of the environment cannot follow and no TLS is spoken.
    public = not road.identity.startswith("offline/")
    http = openai.DefaultAioHttpClient(trust_env=public, verify=public)
    return openai.AsyncOpenAI(
        base_url=road.url, api_key=road.key, max_retries=0, timeout=road.timeout, http_client=http
    )


def retry_after(headers: Any) -> float | None:
    """Seconds that the provider asks us to wait: in ms, in seconds, or until an HTTP date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _status(status: int, message: str, code: object, headers: Any, road: Endpoint) -> Outcome:
    """What an HTTP error asks of us."""
    words = message.removeprefix(f"Error code: {status} - ")  # the client's own preamble
    reason = f"http {status}: {' '.join(words.split())[:300]}"
    delay = retry_after(headers)
    move = _MOVES.get(status, "again" if status >= 500 else "drop")
    if status == 503 and delay is None:
        move = "again"  # a broken server, not one that asks for patience
    if code == "insufficient_quota" or (delay or 0) > LONGEST_WAIT:
        move = "stop"  # OpenAI says 429 for an empty account too, and waiting does not fill it
    if move == "stop":
        advice = _ADVICE.get(status, "wait as told and run again; what was paid for is kept")
        reason += "; " + advice.format(name=road.role.upper(), role=road.role)
    return Outcome(move, "http", reason, delay=delay, overloaded=True if status == 429 else None)


def _failure(err: Exception, road: Endpoint) -> Outcome:
    """What a request without a reply asks of us."""
    import aiohttp

    chain: list[BaseException] = [err]
    while cause := chain[-1].__cause__:
        chain.append(cause)
    # The transport reports a refused connection and a hung-up server as timeouts; only their causes tell them apart.
    nobody = next((e for e in chain if isinstance(e, aiohttp.ClientConnectorError)), None)
    if nobody is not None:
        name = road.role.upper()
        return Outcome("again", "http", f"{nobody}; is {name}_BASE_URL {road.url} right, and is it up?", reached=False)
    if any(isinstance(e, TimeoutError) for e in chain):
        return Outcome("again", "timeout", f"no answer in {road.timeout:g} s")
    cause = next((e for e in chain if isinstance(e, aiohttp.ClientError)), chain[-1])
    return Outcome("again", "http", f"{type(cause).__name__}: {cause}")


async def send(client: AsyncOpenAI, body: dict[str, Any], road: Endpoint) -> Outcome:
    """Send one request once. Never raises for what a provider or a network can do."""
    import openai

    try:
        async with asyncio.timeout(road.timeout):  # the client's own limit is per read: a trickle passes it for ever
            raw = await client.chat.completions.with_raw_response.create(**body)
        return Outcome("use", body=raw.http_response.content.decode("utf-8"), overloaded=False)
    except openai.APIStatusError as err:
        return _status(err.status_code, err.message, getattr(err, "code", None), err.response.headers, road)
    except UnicodeDecodeError as err:
        return Outcome("again", "http", f"broken reply: not UTF-8 at byte {err.start}", overloaded=False)
    except (openai.OpenAIError, OSError, TimeoutError) as err:
        return _failure(err, road)
