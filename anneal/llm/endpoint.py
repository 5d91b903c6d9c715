"""Sends one chat completions request and decides what follows: use, again, wait, drop or stop.

The client's own retries are off: they sleep while they hold the slot, never see a broken body, and multiply with the
scheduler's.
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
# use: take the reply. again: send the row again soon. wait: send it after the time that the provider asks for.
# drop: the row can never pass. stop: no row can.
Move = Literal["use", "again", "wait", "drop", "stop"]

# By HTTP status. Of the others, 500 and above are sent again, and below that the row is dropped.
_MOVES: dict[int, Move] = {
    401: "stop",
    402: "stop",
    403: "stop",
    404: "stop",
    405: "stop",
    408: "again",
    409: "again",
    425: "again",
    429: "wait",
    503: "wait",
}
_REASON = 300  # characters of a provider's message that an error quotes
# What the user can do about a status that stops the run.
_ADVICE = {
    401: "correct {name}_API_KEY in .env",
    402: "the account is empty",
    403: "may {name}_API_KEY use {role}.model?",
    404: "correct {role}.model in params.yaml or {name}_BASE_URL in .env",
    405: "correct {name}_BASE_URL in .env",
}
LONGEST_WAIT = 600.0  # seconds; a longer Retry-After is treated as "quota exhausted"
# Defaults of the environment variables.
CONCURRENCY = 32  # requests in flight
TIMEOUT = 60  # seconds for one request
POOL = 1000  # connections, the size of the client's pool: more requests in flight would wait there
UNLIMITED = 10**9  # requests


@dataclass(frozen=True)
class Endpoint:
    """Address, key and limits of a provider, from the environment. Only `identity` may change an answer."""

    role: Role
    identity: str  # part of every cache key: the base URL, or the offline persona with its phrases
    url: str  # empty for the offline provider until it is started
    key: str
    concurrency: int
    timeout: float  # seconds for one request
    max_requests: int
    price_in: float  # per million tokens
    price_out: float


@dataclass(frozen=True)
class Outcome:
    """The outcome of one request and what to do next."""

    move: Move
    kind: Kind = ""
    reason: str = ""
    body: str = ""
    delay: float | None = None  # seconds, from Retry-After
    overloaded: bool | None = None
    reached: bool = True  # False: no server listens at that address


def _number(name: str, default: float, least: float, most: float) -> float:
    """An environment variable as a number between two bounds."""
    raw = os.environ.get(name, "").strip() or str(default)
    try:
        value = float(raw)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise UserError(f"{name}={raw}: a number from {least:g} to {most:g}; correct it in .env or the environment")
    return value


def _edition(respond: offline_server.Respond, material: Path | None) -> str:
    """Hash of the offline persona: the name of its module with its VERSION, and the bytes of its phrases."""
    persona = sys.modules[respond.__module__]
    name = Path(str(persona.__file__)).stem  # a module that is run is called __main__
    total = hashlib.sha256(f"{name} {getattr(persona, 'VERSION', 0)}".encode())
    for path in sorted(p for p in material.rglob("*") if p.is_file()) if material else []:
        total.update(b"\0" + path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]


def resolve(role: Role, model: str, respond: offline_server.Respond, material: Path | None) -> Endpoint:
    """The endpoint of a role from the environment. Raises UserError for a variable that is out of its bounds.

    The URL of the offline provider is empty: its port is new in each run, see `opened`.
    """
    name = role.upper()
    embedded = model.startswith("offline-")
    if embedded:
        url = ""
        key = "offline"
        identity = f"offline/{_edition(respond, material)}"
    else:
        url = os.environ.get(f"{name}_BASE_URL") or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        key = os.environ.get(f"{name}_API_KEY") or os.environ.get("OPENAI_API_KEY") or ""
        identity = url.rstrip("/")
    return Endpoint(
        role,
        identity,
        url,
        key,
        concurrency=int(_number(f"{name}_CONCURRENCY", CONCURRENCY, 1, POOL)),
        timeout=_number(f"{name}_TIMEOUT", TIMEOUT, 0.001, 86400),
        max_requests=int(_number(f"{name}_MAX_REQUESTS", UNLIMITED, 0, UNLIMITED)),
        price_in=0.0 if embedded else _number(f"{name}_PRICE_IN", 0, 0, 1e9),
        price_out=0.0 if embedded else _number(f"{name}_PRICE_OUT", 0, 0, 1e9),
    )


@contextmanager
def opened(endpoint: Endpoint, respond: offline_server.Respond) -> Iterator[Endpoint]:
    """An endpoint that can be sent to: starts the offline provider; UserError where any other has no key."""
    if not endpoint.url:
        with offline_server.serve(respond) as url:
            yield replace(endpoint, url=url)
        return
    if not endpoint.key:
        name = endpoint.role.upper()
        raise UserError(f"{name}_API_KEY: not set, nor OPENAI_API_KEY; put it in .env (a local server takes any word)")
    yield endpoint


def connect(endpoint: Endpoint) -> AsyncOpenAI:
    """A client whose transport is aiohttp: the default one scans its pool and falls behind above 100 requests."""
    import openai

    # The offline provider is on loopback without TLS, and a proxy of the environment cannot reach it.
    public = not endpoint.identity.startswith("offline/")
    http = openai.DefaultAioHttpClient(trust_env=public, verify=public)
    return openai.AsyncOpenAI(
        base_url=endpoint.url,
        api_key=endpoint.key,
        max_retries=0,
        timeout=endpoint.timeout,
        http_client=http,
    )


def retry_after(headers: Any) -> float | None:
    """Seconds that the provider asks to wait, given in ms, in seconds or as an HTTP date; None where it does not."""
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


def _status(status: int, message: str, code: object, headers: Any, endpoint: Endpoint) -> Outcome:
    """The outcome of an HTTP error."""
    text = message.removeprefix(f"Error code: {status} - ")  # the preamble of the client
    reason = f"http {status}: {' '.join(text.split())[:_REASON]}"
    delay = retry_after(headers)
    move = _MOVES.get(status, "again" if status >= 500 else "drop")
    if status == 503 and delay is None:
        move = "again"  # without Retry-After a 503 is a broken server, not one that asks to wait
    if code == "insufficient_quota" or (delay or 0) > LONGEST_WAIT:
        move = "stop"  # OpenAI answers 429 for an empty account too, which no wait fills
    if move == "stop":
        advice = _ADVICE.get(status, "wait for as long as it asks and run again; paid replies are kept")
        reason += "; " + advice.format(name=endpoint.role.upper(), role=endpoint.role)
    return Outcome(move, "http", reason, delay=delay, overloaded=True if status == 429 else None)


def _failure(err: Exception, endpoint: Endpoint) -> Outcome:
    """The outcome of a request without a response: a refused connection, a timeout or a reset."""
    import aiohttp

    chain: list[BaseException] = [err]
    while cause := chain[-1].__cause__:
        chain.append(cause)
    # The transport reports refused connections and closed ones as timeouts; only the cause of the error differs.
    unreachable = next((e for e in chain if isinstance(e, aiohttp.ClientConnectorError)), None)
    if unreachable is not None:
        name = endpoint.role.upper()
        reason = f"{unreachable}; is {name}_BASE_URL {endpoint.url} right, and is it up?"
        return Outcome("again", "http", reason, reached=False)
    if any(isinstance(e, TimeoutError) for e in chain):
        return Outcome("again", "timeout", f"no answer in {endpoint.timeout:g} s")
    cause = next((e for e in chain if isinstance(e, aiohttp.ClientError)), chain[-1])
    return Outcome("again", "http", f"{type(cause).__name__}: {cause}")


async def send(client: AsyncOpenAI, body: dict[str, Any], endpoint: Endpoint) -> Outcome:
    """Send one request once. No failure of the provider or the network raises; each is an Outcome."""
    import openai

    try:
        # The client's own limit is per read: a slow trickle of bytes never reaches it.
        async with asyncio.timeout(endpoint.timeout):
            raw = await client.chat.completions.with_raw_response.create(**body)
        return Outcome("use", body=raw.http_response.content.decode("utf-8"), overloaded=False)
    except openai.APIStatusError as err:
        return _status(err.status_code, err.message, getattr(err, "code", None), err.response.headers, endpoint)
    except UnicodeDecodeError as err:
        return Outcome("again", "http", f"broken reply: not UTF-8 at byte {err.start}", overloaded=False)
    except (openai.OpenAIError, OSError, TimeoutError) as err:
        return _failure(err, endpoint)
