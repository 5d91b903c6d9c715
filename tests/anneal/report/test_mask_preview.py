"""The preview of a training sample: the tokens that carry loss, with a small tokenizer built here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anneal.dataset import chat_template
from anneal.dataset.chat_template import IGNORE
from anneal.history.revision import Snapshot
from anneal.report import mask_preview
from anneal.tiny import architecture
from tests.keeping import write
from tests.markup import plain

NOW = Snapshot("here")
ASK = [{"role": "user", "content": "Say <b>it</b> in one line."}]
# The vocabulary holds none of these characters: each is three tokens that share it.
SAY = [{"role": "assistant", "content": "贵\n& dear"}]


@pytest.fixture
def folder(toy: Path) -> Path:
    tokens = architecture.tokenizer([], list("aes"), 300)
    tokens.save_pretrained("models/base")
    write(
        mask_preview.TRAIN,
        [{"id": "a/1", "prompt": ASK, "completion": SAY}, {"id": "a/2", "prompt": [], "completion": []}],
    )
    return toy


def spans(page: str) -> list[tuple[str, str]]:
    """(class, text) of each token shown."""
    body = re.search(r'<pre class="tokens">(.*?)</pre>', page, re.S)
    assert body
    return [(name, plain(text)) for name, text in re.findall(r'<span class="([\w ]+)">(.*?)</span>', body[1], re.S)]


def test_the_answer_and_its_stop_token_carry_loss(folder: Path) -> None:
    found = spans(mask_preview.section(NOW, NOW))
    assert "".join(text for name, text in found if name.startswith("learnt")) == "贵↵\n& dear<|im_end|>"
    read = "".join(text for name, text in found if name.startswith("read"))
    assert read == "<|im_start|>user↵\nSay <b>it</b> in one line.<|im_end|>↵\n<|im_start|>assistant↵\n"
    assert ("learnt special", "<|im_end|>") in found, "the stop is seen, and learnt"
    assert found[0] == ("read special", "<|im_start|>")
    assert ("learnt", "贵") in found, "the tokens of one character stay together"
    assert ("learnt", "d") in found, "others stand alone"


def test_the_tokens_are_those_of_the_training(folder: Path) -> None:
    """The quick way to the tokenizer and the one that training takes give the same ids and the same mask."""
    from anneal.models import loading

    quick, slow = mask_preview.load(mask_preview.BASE), loading.tokenizer(mask_preview.BASE)
    rows = [chat_template.encode(each, ASK, SAY) for each in (quick, slow)]
    assert rows[0] == rows[1]
    assert sum(label != IGNORE for label in rows[0].labels) > 5
    said = plain(mask_preview.section(NOW, NOW))
    learnt = sum(label != IGNORE for label in rows[0].labels)
    assert (
        f"The first training sample, a/1, as encoded for training: {learnt} of {len(rows[0].ids)} tokens carry loss"
        in said
    )
    assert "tokens carry loss, 1 of them stop tokens;" in said


class Spaced:
    """A tokenizer whose first word loses its space, as SentencePiece decodes."""

    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join([" the", " lazy", " dog"][i] for i in ids).removeprefix(" ")


def test_a_space_before_a_word_is_seen() -> None:
    assert [text for text, _, _ in mask_preview.pieces(Spaced(), [0, 1, 2], [IGNORE, 1, 2])] == ["the", " lazy", " dog"]


def test_all_turns_carry_loss_with_turns_all(folder: Path) -> None:
    talk = [*ASK, {"role": "assistant", "content": "first"}, *ASK]
    write(mask_preview.TRAIN, [{"id": "a/1", "prompt": talk, "completion": SAY}])
    now = Snapshot("here", params={"train": {"turns": "all"}})
    for state, wanted in ((now, "first<|im_end|>贵"), (NOW, "贵")):
        learnt = "".join(text for name, text in spans(mask_preview.section(state, NOW)) if name.startswith("learnt"))
        assert learnt.startswith(wanted)


def test_a_long_sample_is_shown_around_its_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_preview, "LIMIT", 40)
    write(mask_preview.TRAIN, [{"id": "a/1", "prompt": [{"role": "user", "content": "x" * 500}], "completion": SAY}])
    page = mask_preview.section(NOW, NOW)
    cut = re.search(r"Tokens (\d+) to (\d+) are shown\.", plain(page))
    assert cut
    assert int(cut[2]) - int(cut[1]) == 39
    names = [name for name, _ in spans(page)]
    assert names[0] == "read"
    assert "learnt" in names


def test_there_is_no_preview_without_data_or_tokenizer(toy: Path, folder: Path) -> None:
    Path("models/base/tokenizer.json").rename("elsewhere.json")
    assert mask_preview.section(NOW, NOW) == ""
    Path("elsewhere.json").rename("models/base/tokenizer.json")
    write(mask_preview.TRAIN, [])
    assert mask_preview.section(NOW, NOW) == ""
    Path(mask_preview.TRAIN).unlink()
    assert mask_preview.section(NOW, NOW) == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [("{", "data/train.jsonl:1: not JSON"), ('{"id": "a", "prompt": [], "completion": []}', "does not end with")],
)
def test_a_failed_preview_names_its_cause(folder: Path, line: str, words: str) -> None:
    Path(mask_preview.TRAIN).write_text(line + "\n")
    assert f"No preview: {words}" in plain(mask_preview.section(NOW, NOW)).replace("the completion ", "")


def test_a_broken_tokenizer_costs_the_section_only(folder: Path) -> None:
    Path("models/base/tokenizer.json").write_text("{}")
    assert plain(mask_preview.section(NOW, NOW)).startswith("No preview: ")


def test_torch_is_not_needed(folder: Path) -> None:
    code = "import sys; from anneal.report import mask_preview as m; m.load(m.BASE); print('torch' in sys.modules)"
    root = str(Path(mask_preview.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": root})
    assert done.stdout.split() == ["False"], done.stderr
