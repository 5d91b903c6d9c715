"""pretraining: weights of the loss, the schedule, and the same bytes whether or not it was interrupted."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from anneal.tiny import architecture, pretrain
from anneal.tiny.architecture import Base
from anneal.tiny.documents import ANSWER, GIVEN
from anneal.tiny.pretrain import BLOCK
from anneal.tiny.sheet_corpus import Corpus
from tests.anneal.tiny.test_architecture import FOLDER, micro


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(FOLDER)


@pytest.fixture(scope="module")
def tokens(corpus: Corpus) -> Any:
    return architecture.tokenizer(corpus.words, corpus.characters, micro().vocab_size)


def trained(base: Base, tokens: Any, corpus: Corpus, kept: Path) -> tuple[Any, list[float]]:
    model, losses = architecture.build(base, tokens), list[float]()
    pretrain.train(model, tokens, corpus, base, kept, lambda _step, loss: losses.append(loss))
    return model, losses


def same(one: Any, other: Any) -> bool:
    import torch

    first, second = one.state_dict(), other.state_dict()
    return all(torch.equal(first[key], second[key]) for key in first)


def test_three_steps_twice_give_the_same_weights(tokens: Any, corpus: Corpus, tmp_path: Path) -> None:
    one, losses = trained(micro(), tokens, corpus, tmp_path / "one.pt")
    two, again = trained(micro(), tokens, corpus, tmp_path / "two.pt")
    assert len(losses) == 3
    assert losses == again
    assert same(one, two)
    assert not same(one, architecture.build(micro(), tokens))


def test_a_killed_run_goes_on_to_the_same_weights(
    tokens: Any, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "KEEP", 1)
    base = micro(steps=2 * BLOCK + 1, batch_size=2, max_length=32)
    whole, losses = trained(base, tokens, corpus, tmp_path / "whole.pt")

    class Killed(Exception):
        pass

    def die(step: int, _loss: float) -> None:
        if step == BLOCK + 3:
            raise Killed

    with pytest.raises(Killed):
        pretrain.train(architecture.build(base, tokens), tokens, corpus, base, tmp_path / "cut.pt", die)
    rest, after = trained(base, tokens, corpus, tmp_path / "cut.pt")
    assert len(losses) == 2 * BLOCK + 1
    assert after == losses[BLOCK:]
    assert same(whole, rest)
    finished, none = trained(base, tokens, corpus, tmp_path / "cut.pt")
    assert none == []
    assert same(whole, finished)


def test_batches_hold_whole_documents_with_their_weights(tokens: Any, corpus: Corpus) -> None:
    base = micro(steps=BLOCK, batch_size=4, max_length=60)
    found = list(pretrain.batches(corpus, tokens, base, 0))
    assert len(found) == BLOCK
    for ids, weights in found:
        assert ids.shape == weights.shape
        assert ids.shape[0] == 4
        assert ids.shape[1] <= 60
        assert {round(w, 3) for w in weights.flatten().tolist()} <= {0.0, GIVEN, ANSWER / 2, ANSWER}
        assert ((ids == tokens.pad_token_id) == (weights == 0)).all()
    widths = {ids.shape[1] for ids, _ in found}
    assert len(widths) > 1, "sorted by length, batches differ in width"


def test_the_loss_is_the_weighted_mean_over_what_counts(tokens: Any) -> None:
    import torch

    model = architecture.build(micro(), tokens)
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, tokens.pad_token_id, tokens.pad_token_id]])
    weights = torch.tensor([[0.1, 0.1, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    with torch.no_grad():
        found = pretrain.loss(model, ids, weights).item()
        model.set_attn_implementation("eager")
        logits = model(ids).logits.float().log_softmax(-1)
        wanted = {(0, 1): 0.1, (0, 2): 1.0, (1, 1): 1.0}
        each = [-w * logits[row, place - 1, ids[row, place]].item() for (row, place), w in wanted.items()]
    assert found == pytest.approx(sum(each) / sum(wanted.values()), rel=0.01)  # bfloat16 against float32


def test_the_rate_warms_up_holds_and_falls() -> None:
    base = micro(steps=100, warmup_steps=10, decay=0.4)
    found = [pretrain.rate(step, base) for step in range(100)]
    assert found[0] == pytest.approx(0.1)
    assert found[9:60] == [1.0] * 51
    assert found[80] == pytest.approx(0.5)
    assert found[99] == pytest.approx(0.03)
    assert all(before >= after for before, after in itertools.pairwise(found[9:]))


def test_repetition_is_drilled_first(tokens: Any, corpus: Corpus) -> None:
    """The first documents are mostly rows without a chat turn; later ones are mostly chats."""
    base = micro(steps=10 * BLOCK, batch_size=8, dense=0.2)
    start = tokens.convert_tokens_to_ids("<|im_start|>")

    def chats(first: int) -> float:
        blocks = pretrain.batches(corpus, tokens, base, first)
        rows = [row for _, (ids, _) in zip(range(BLOCK), blocks, strict=False) for row in ids]
        assert len(rows) == BLOCK * 8
        return sum(bool((row == start).any()) for row in rows) / len(rows)

    assert chats(0) < 0.5
    assert chats(5 * BLOCK) > 0.8
