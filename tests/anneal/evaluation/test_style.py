"""style: nothing between an author and himself, something between two, and neither size nor repetition decides."""

import random
import time
from pathlib import Path

import numpy as np
import pytest

from anneal.errors import UserError
from anneal.evaluation import authors, style
from anneal.evaluation.authors import Text

FUNCTION = ["的", "了", "也", "便", "就", "而"]


class Writer:
    """Texts of one invented style: words by their weights, sentences of a length, a mark at the end."""

    def __init__(self, name: str, lean: float, length: int, mark: str) -> None:
        rng = random.Random("common words")
        self.words = ["".join(chr(rng.randint(0x4E00, 0x9000)) for _ in range(2)) for _ in range(300)]
        own = random.Random(name)
        self.weights = [own.random() ** lean for _ in self.words]
        self.function = [own.random() ** (2 * lean) + 0.02 for _ in FUNCTION]
        self.length, self.mark = length, mark

    def text(self, rng: random.Random, size: int = 500) -> str:
        said, inside = "", 0
        while len(said) < size:
            said += rng.choices(self.words, self.weights)[0]
            inside += 1
            if rng.random() < 0.3:
                said += rng.choices(FUNCTION, self.function)[0]
            if inside >= self.length + rng.randint(-2, 2):
                said += self.mark if rng.random() < 0.8 else "。\n\n"
                inside = 0
        return said

    def profile(self, seed: int, documents: int = 40, each: int = 2, size: int = 500) -> style.Profile:
        rng = random.Random(f"{seed}/{self.length}")
        texts = [self.text(rng, size) for _ in range(documents * each)]
        return style.profile(texts, [f"{seed}/{n // each}" for n in range(len(texts))], FUNCTION)


ONE, OTHER = Writer("one", 3, 6, "，"), Writer("other", 3, 12, "；")


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, float]]:
    reference = ONE.profile(1)
    start = time.process_time()
    found = {
        "same": style.distance(ONE.profile(2), reference, 5, 20, 2000),
        "small": style.distance(ONE.profile(3, documents=5, each=1), reference, 5, 20, 2000),
        "other": style.distance(OTHER.profile(4), reference, 5, 20, 2000),
    }
    assert time.process_time() - start < 30
    return found


def test_two_halves_of_one_author_are_as_near_as_the_null_says(figures: dict[str, dict[str, float]]) -> None:
    for name in style.DISTANCES:
        same, null, noise = (figures["same"][name + end] for end in ("", "_null", "_noise"))
        assert null > 0
        assert abs(same) < 2 * noise + 0.02 * null, name
    assert len(style.DISTANCES) == 6
    assert abs(figures["same"]["auc"] - 0.5) < figures["same"]["auc_noise"] < 0.15


def test_the_null_takes_the_size_of_a_sample_out(figures: dict[str, dict[str, float]]) -> None:
    small, large = figures["small"], figures["same"]
    assert small["words_null"] > 2 * large["words_null"], "a small sample of the same author is far from him"
    assert abs(small["words"]) < 0.1 * small["words_null"]


def test_another_style_is_further_away_in_everything(figures: dict[str, dict[str, float]]) -> None:
    other = figures["other"]
    for name in style.DISTANCES:
        assert other[name] > 5 * other[f"{name}_noise"], name
    assert other["auc"] > 0.95
    assert other["n"] == other["n_reference"] == 80


def test_saying_everything_three_times_changes_little() -> None:
    texts, reference = OTHER.profile(6, documents=10), ONE.profile(1)
    thrice = style.profile(texts.texts * 3, texts.documents * 3, FUNCTION)
    once, more = (style.distance(part, reference, 5, 20, 2000) for part in (texts, thrice))
    for name in style.DISTANCES:
        assert once[f"{name}_null"] == more[f"{name}_null"], "the sample is not larger for it"
        assert more[name] == pytest.approx(once[name], rel=0.15), name


def test_the_type_token_ratio_hangs_on_the_budget_and_not_on_the_amount() -> None:
    few, many = ONE.profile(7, documents=20), ONE.profile(7, documents=60)
    at = {size: style.type_token(many, size, 1, 20) for size in (200, 2000)}
    assert at[200] > 1.5 * at[2000]
    assert style.type_token(few, 2000, 1, 20) == pytest.approx(at[2000], rel=0.03)


def test_topics_of_documents_are_not_taken_for_style() -> None:
    # Each document has words of its own: ungrouped folds would recognise a document by them.
    rng = random.Random(3)

    def texts(seed: int) -> style.Profile:
        found, names = [], []
        for n in range(30):
            topic = "".join(chr(rng.randint(0x4E00, 0x9000)) for _ in range(6))
            for _ in range(3):
                found.append("".join(rng.choice(topic) if rng.random() < 0.5 else "的" for _ in range(200)))
                names.append(f"{seed}/{n}")
        return style.profile(found, names, FUNCTION)

    found = style.separability(texts(1), texts(2), 0)
    assert abs(found["auc"] - 0.5) < found["auc_noise"] < 0.2


def test_the_noise_of_the_classifier_covers_one_author_of_few_documents() -> None:
    above, drawn = 0, 20
    for seed in range(drawn):
        few, rest = ONE.profile(100 + seed, 5, 1, 120), ONE.profile(200 + seed, 20, 1, 120)
        found = style.separability(few, rest, seed)
        above += found["auc"] > 0.5 + found["auc_noise"]
    assert above <= 4, "one in twenty is expected"


def test_the_same_seed_gives_the_same_figures_and_order_does_not_matter_much() -> None:
    texts, reference = OTHER.profile(6, documents=6), ONE.profile(1, documents=12)
    assert style.distance(texts, reference, 5, 5, 500) == style.distance(texts, reference, 5, 5, 500)
    assert style.distance(texts, reference, 5, 5, 500) != style.distance(texts, reference, 6, 5, 500)


def test_what_cannot_be_had_is_left_out() -> None:
    one = style.profile(["abc"], ["d"], [])
    found = style.distance(one, ONE.profile(1, documents=6), 5, 5, 500)
    assert not {"auc", "function_words", "punctuation"} & set(found)
    assert {"characters", "words", "sentence_length"} <= set(found)
    empty = style.profile([], [], [])
    assert style.distance(one, empty, 5, 5, 500)["n_reference"] == 0
    assert not set(style.DISTANCES) & set(style.distance(one, one, 5, 5, 500)), "one text has no null"


def test_the_two_distances_are_those_of_scipy_and_of_paper() -> None:
    from scipy.spatial.distance import jensenshannon

    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = (rng.integers(0, 9, size) for size in (50, 80))
        p, q = (np.bincount(part, minlength=9) / len(part) for part in (a, b))
        assert style.jensen_shannon(a, b) == pytest.approx(jensenshannon(p, q, 2) ** 2)
    assert style.jensen_shannon(np.array([0, 0]), np.array([1])) == 1
    assert style.wasserstein(np.array([1, 2]), np.array([4, 5])) == 3


def test_authors_stand_side_by_side_and_the_control_is_the_further_one() -> None:
    train, mine = [], []
    for name, writer in (("A", ONE), ("B", OTHER)):
        for seed, rows in ((1, train), (2, mine)):
            part = writer.profile(seed, documents=8)
            rows += [Text(name, f"{name}{doc}", text) for doc, text in zip(part.documents, part.texts, strict=True)]
    copied = mine[0].text[:40]
    train[0] = Text("A", train[0].document, copied + train[0].text[:40])
    found = authors.figures(mine, train, FUNCTION, 1, 10, 500)
    assert set(found["authors"]) == set(found["authors"]["A"]) == {"A", "B"}
    for own, control in (("A", "B"), ("B", "A")):
        near, far = found["authors"][own][own], found["authors"][own][control]
        assert near["characters"] < far["characters"] / 5
        assert near["budget"] == far["budget"] == 500
    assert found["copied"]["longest"] >= 40 > found["copied"]["p95"]
    assert found["segmenter"].startswith("rjieba ")
    assert authors.words(mine) > 1000


@pytest.mark.parametrize("text", [None, "{", "[]", '{"words": []}'])
def test_function_words_are_read_or_asked_for(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "style.json").write_text(text)
    with pytest.raises(UserError, match=r"style\.json: ") as caught:
        authors.function_words(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "style.json").write_text('{"function_words": ["\\u7684"]}')
    assert authors.function_words(tmp_path) == ["的"]


def test_a_record_says_whose_words_it_wants() -> None:
    assert authors.text_of({"item": "d", "facts": {"author": "A"}}, "words") == Text("A", "d", "words")


def test_nothing_said_is_no_text() -> None:
    train = [Text("A", f"d{n}", ONE.text(random.Random(n))) for n in range(4)]
    found = authors.figures([Text("A", "e", " "), Text("B", "f", "")], train, FUNCTION, 1, 5, 100)
    assert found["authors"] == {}
    assert found["copied"]["n"] == found["n"] == 2


def test_a_passage_of_three_templates_counts_once() -> None:
    rows = [
        Text("A", "d", "one two three"),
        Text("A", "d", "two three"),
        Text("A", "e", "two three"),
        Text("A", "d", "one two three"),
    ]
    assert authors.deduplicate(rows) == [rows[0], rows[2]]
