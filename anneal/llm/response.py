"""Parses a chat completions reply: its text and tokens, or the kind of reason why it is unusable.

Refusals are recognised by their opening words, since few providers fill the `refusal` field.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

# Why a reply is unusable; empty for a usable one.
Kind = Literal["", "http", "timeout", "empty", "length", "content_filter", "refusal", "check"]

# Finish reasons, including those of the compatible endpoints of Anthropic and Gemini and of failing routers.
_FINISH: dict[str, Kind] = {
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "error": "http",
}
# A refusal at the start of a text. A verb of service must follow: a text for the public may well begin with "I cannot
# imagine" or with an apology to the reader's purse.
_CANNOT = r"(?:无法|不能|没法|没有办法|不便|不会)(?:再)?(?:为您|为你|帮您|帮你|直接|继续)?"
_SERVE = "提供|协助|满足|完成|回答|生成|撰写|创作|处理|编写|给出|回应|讨论"
_DO = "assist|help|provide|create|write|generate|comply|fulfil|produce|complete|answer|continue|do (?:that|this)"
_REFUSAL = re.compile(
    rf"\W*(?:非常|很|十分|真的)?(?:抱歉|对不起|遗憾|不好意思)[^。！？\n]{{0,24}}{_CANNOT}(?:{_SERVE})"
    rf"|\W*(?:作为[^。！？\n]{{0,12}}(?:AI|人工智能|语言模型|助手)[^。！？\n]{{0,12}}|我(?:目前|暂时)?){_CANNOT}(?:{_SERVE})"
    r"|\W*(?:(?:I['’]m|I am)(?: \w+)? sorry|sorry|unfortunately|I apologi[sz]e|as an AI[\w ]*)?[\s,.;]*(?:but )?"
    rf"I(?: can(?:no|['’])t| won['’]t|(?: am|['’]m) (?:unable|not able) to| must decline to)(?: \w+ly)? (?:{_DO})",
    re.I,
)
_QUOTED = 80  # characters of a reply that an error quotes


class Unusable(Exception):
    """A reply that must not count as an answer; `kind` and message say why."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def strict(text: str) -> Any:
    """Parse JSON; ValueError for a repeated key, of which Python keeps the last: a second score would win unseen."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            raise ValueError(f"a key stands twice: {', '.join(key for key, _ in pairs)}")
        return value

    return json.loads(text, object_pairs_hook=unique)


def tokens(body: str) -> tuple[int, int]:
    """Tokens in and out as the provider counts them; 0 where the reply has no usage."""
    try:
        usage = json.loads(body)["usage"]
        return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (ValueError, LookupError, TypeError, AttributeError):
        return 0, 0


def text(body: str) -> str:
    """The text of a reply. Raises Unusable, of kind http where the body is broken."""
    try:
        choice = json.loads(body)["choices"][0]
        content = choice["message"].get("content")
        refusal = choice["message"].get("refusal")
        finish = _FINISH.get(str(choice.get("finish_reason")).lower())
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Unusable("http", f"broken reply: {body[:200]!r}") from None
    if finish:
        raise Unusable(finish, f"finish_reason {choice['finish_reason']}")
    if refusal:
        raise Unusable("refusal", f"refused: {str(refusal)[:_QUOTED]}")
    if content is not None and not isinstance(content, str):
        raise Unusable("http", f"content is no text: {str(content)[:_QUOTED]}")
    if not content or not content.strip():
        raise Unusable("empty", "an empty answer")
    if _REFUSAL.match(content):
        raise Unusable("refusal", f"refused: {content.strip()[:_QUOTED]}")
    return content
