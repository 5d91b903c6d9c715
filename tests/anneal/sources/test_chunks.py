"""chunks: never over the bound, rarely under it, nothing lost, and every one traced to its lines."""

import itertools
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anneal.sources import chunks, markdown
from anneal.sources.chunks import Chunk

LEAST, MOST = 300, 800


def document(text: str, name: str = "essay") -> markdown.Document:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{name}.md").write_text(text, "utf-8")
        return markdown.read(Path(folder) / f"{name}.md", f"{name}.md", {"author": "A"}, "drop")


def paragraph(rng: random.Random, chinese: bool, size: int) -> str:
    said, count = "", 0
    while count < size:
        long = rng.randint(4, 40)
        if chinese:
            said += (
                "".join(chr(rng.randint(0x4E00, 0x9000)) for _ in range(long))
                + rng.choice("。！？")
                + rng.choice(["", "”"])
            )
        else:
            said += " ".join("word" + str(rng.randint(0, 99)) for _ in range(long)) + ". "
        count += long
    return said.strip()


def long_text(seed: int) -> str:
    """Sections of any size, short and huge paragraphs, lists, code and tables in between."""
    rng, parts = random.Random(seed), ["# Title"]
    for section in range(14):
        parts.append(f"{'#' * rng.randint(1, 3)} Section {section}")
        for _ in range(rng.randint(1, 6)):
            chinese = rng.random() < 0.6
            parts.append(paragraph(rng, chinese, int(rng.choice([20, 80, 150, 300, 1200]) * rng.uniform(0.5, 1.5))))
            if rng.random() < 0.2:
                parts.append("\n".join(f"- {paragraph(rng, chinese, 10)}" for _ in range(rng.randint(2, 30))))
            if rng.random() < 0.1:
                parts.append("```\ncode = 1\n\nmore = 2\n```")
    return "\n\n".join(parts) + "\n"


def pieces(found: list[Chunk], of: markdown.Document) -> str:
    return "".join(of.text[part.start : part.end] for part in found)


def check(source: str, least: int, most: int) -> list[int]:
    """The guarantees that hold for any text; returns the sizes."""
    whole = document(source)
    found = chunks.chunks(whole, least, most)
    assert pieces(found, whole) == whole.text
    sizes = [chunks.tokens(part.text) for part in found]
    assert max(sizes, default=0) <= most
    lines = source.split("\n")
    for part in found:
        first, last = map(int, part.lines.split("-"))
        assert 1 <= first <= last <= len(lines)
        there = "".join("\n".join(lines[first - 1 : last]).split())
        kept = "".join(part.text.split())
        assert kept in there or kept[:5] in there
    spans = [tuple(map(int, part.lines.split("-"))) for part in found]
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert [part.number for part in found] == list(range(1, len(found) + 1))
    return sizes


def test_long_documents_are_in_bounds_and_complete() -> None:
    sizes: list[int] = []
    for seed in range(6):
        sizes += check(long_text(seed), LEAST, MOST)
    assert len(sizes) > 80
    assert sum(size >= LEAST for size in sizes) / len(sizes) >= 0.95
    assert max(sizes) <= MOST


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    "# Heading",
                    "### Sub",
                    "- a\n- b\n\n- c",
                    "> quote\n> on",
                    "```\nx\n```",
                    "| a |\n|---|\n| b |",
                    "***",
                ]
            ),
            st.text("中文。！？，“”ab .,!?\n*_`[]()#>-1", min_size=1, max_size=120),
            st.integers(1, 60).map(lambda n: "x" * n * 9),
            st.integers(1, 90).map(lambda n: "字" * n),
        ),
        max_size=25,
    ),
    st.integers(1, 30),
)
def test_any_text_is_in_bounds_and_complete(parts: list[str], least: int) -> None:
    whole = document("\n\n".join(parts))
    found = chunks.chunks(whole, least, 2 * least + 7)
    assert pieces(found, whole) == whole.text
    assert all(chunks.tokens(part.text) <= 2 * least + 7 for part in found)
    assert all(part.text for part in found)


def test_a_token_is_a_character_or_a_word() -> None:
    assert chunks.tokens("你好, two words 2024年。ア\ud55c") == 2 + 3 + 1 + 2
    assert chunks.tokens("x" * 100) == 5
    assert chunks.tokens("，。!? \n") == 0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("一句。两句！“三句？”他说。", ["一句。", "两句！", "“三句？”", "他说。"]),
        (
            "It costs 3.5 yuan. He said “no.” Then left.",
            ["It costs 3.5 yuan. ", "He said “no.” ", "Then left."],
        ),
        ("一行没有句号", ["一行没有句号"]),
        ("- a\n- b\n1. c", ["- a\n", "- b\n", "1. c"]),
        ("soft\nwrapped. Next", ["soft\nwrapped. ", "Next"]),
        ("", []),
    ],
)
def test_sentences_end_where_they_end_in_either_script(text: str, parts: list[str]) -> None:
    assert chunks.sentences(text) == parts


def test_an_oversize_block_is_cut_at_its_sentences() -> None:
    text = paragraph(random.Random(1), True, 3000)
    found = chunks.chunks(document(text), LEAST, MOST)
    assert len(found) >= 4
    assert all(re.search(r"[。！？]”?$", part.text) for part in found)


def test_one_endless_sentence_is_cut_at_clauses_and_one_without_any_anywhere() -> None:
    clauses = "，".join("字" * 30 for _ in range(60))
    found = chunks.chunks(document(clauses), LEAST, MOST)
    assert all(part.text.endswith("，") for part in found[:-1])
    assert max(chunks.tokens(part.text) for part in found) <= MOST
    endless = chunks.chunks(document("字" * 2000 + "x" * 20000), LEAST, MOST)
    assert [LEAST <= chunks.tokens(part.text) <= MOST for part in endless] == [True] * len(endless)
    assert len(endless) >= 4


def test_sections_of_a_fair_size_are_not_mixed_and_small_ones_join() -> None:
    rng = random.Random(2)
    text = "\n\n".join(f"## S{n}\n\n{paragraph(rng, True, 155)}\n\n{paragraph(rng, True, 155)}" for n in range(4))
    found = chunks.chunks(document(text), LEAST, MOST)
    assert [part.text[:5] for part in found] == [f"## S{n}" for n in range(4)]
    tail = text + "\n\n## Tail\n\n" + paragraph(rng, True, 60)
    assert [part.text.count("## ") for part in chunks.chunks(document(tail), LEAST, MOST)] == [1, 1, 1, 2]


def test_a_short_document_is_one_chunk_and_an_empty_one_none() -> None:
    assert [part.text for part in chunks.chunks(document("# A\n\nfew words\n"), LEAST, MOST)] == ["# A\n\nfew words"]
    assert chunks.chunks(document("```\ncode\n```"), LEAST, MOST) == []


def test_a_heading_stays_with_its_text_even_where_that_must_be_cut_for_it() -> None:
    first, second = ("".join("字" * 9 + "。" for _ in range(n)) for n in (43, 88))
    found = chunks.chunks(document(f"{first}\n\n## {'heading ' * 20}\n\n{second}"), LEAST, MOST)
    assert [part.text.startswith("## ") for part in found] == [False, True, False]
    assert chunks.tokens(found[0].text) == 387


def test_a_heading_is_not_parted_from_its_text() -> None:
    found = [part for seed in range(6) for part in chunks.chunks(document(long_text(seed)), LEAST, MOST)]
    assert not [part.text for part in found if part.text.split("\n")[-1].startswith("#")]
    assert len(found) > 80
