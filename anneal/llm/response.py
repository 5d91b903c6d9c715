"""What a chat completions reply says, and why some replies are no answer."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

Kind = Literal["", "http", "timeout", "empty", "length", "content_filter", "refusal", "check"]

# Other words for the same: Anthropic's and Gemini's compatible endpoints, and a router's own failure.
_FINISH: dict[str, Kind] = {
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "error": "http",
}
# A model's way of saying no, at the start of its text. A verb of serving must follow: a text for the public may well
# begin with "I cannot imagine", or with an apology to the reader's purse.
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


class Unusable(Exception):
    """A reply that must not be taken for an answer: why (a Kind), and in words."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def strict(text: str) -> Any:
    """JSON in which no key stands twice; ValueError otherwise: of two scores the later one would count unseen."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError(f"a key stands twice: {', '.join(key for key, _ in pairs)}")
        return found

    return json.loads(text, object_pairs_hook=once)


def tokens(body: str) -> tuple[int, int]:
    """Tokens in and out as the provider counts them; 0 where it does not say."""
    try:
        usage = json.loads(body)["usage"]
        return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (ValueError, LookupError, TypeError, AttributeError):
        return 0, 0


def text(body: str) -> str:
    """The words of a reply. Raises Unusable: kind http for one that is broken, else for one that is no answer."""
    try:
        choice = json.loads(body)["choices"][0]
        said, no = choice["message"].get("content"), choice["message"].get("refusal")
        finish = _FINISH.get(str(choice.get("finish_reason")).lower())
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Unusable("http", f"broken reply: {body[:200]!r}") from None
    if finish:
        raise Unusable(finish, f"finish_reason {choice['finish_reason']}")
    if no:
        raise Unusable("refusal", f"refused: {str(no)[:80]}")
    if said is not None and not isinstance(said, str):
        raise Unusable("http", f"content is no text: {str(said)[:80]}")
    if not said or not said.strip():
        raise Unusable("empty", "an empty answer")
    if _REFUSAL.match(said):
        raise Unusable("refusal", f"refused: {said.strip()[:80]}")
    return said
