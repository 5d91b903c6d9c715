import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser

import pytest
from markupsafe import Markup

from anneal import html
from anneal.report import charts

NASTY = "<script>alert('x')</script> & \"quotes\" </script><!-- \u2028"
VOID = {"meta", "br", "hr", "input"}


class Strict(HTMLParser):
    """Collects elements and texts; refuses a tag that closes what is not open."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parse(markup: str) -> Strict:
    parser = Strict()
    parser.feed(markup)
    parser.close()
    assert parser.open == []
    return parser


def test_text_and_attributes_are_escaped_once() -> None:
    made = html.el("p", NASTY, html.el("b", "&amp;"), title=NASTY, class_="x", hidden=None)
    parsed = parse(made)
    assert [tag for tag, _ in parsed.seen] == ["p", "b"]
    assert parsed.seen[0][1] == {"title": NASTY, "class": "x"}
    assert "".join(parsed.texts) == NASTY + "&amp;"


def test_attribute_names() -> None:
    assert html.el("i", class_="a", stroke_width=2, viewBox="0 0 1 1") == (
        '<i class="a" stroke-width="2" viewBox="0 0 1 1"></i>'
    )


def test_table_and_fold() -> None:
    parsed = parse(html.fold("more", html.table(["", "n"], [["<a>", 1], ["b", 2]], class_="words")))
    tags = [tag for tag, _ in parsed.seen]
    assert tags.count("tr") == 3
    assert tags.count("td") == 2
    assert [a["scope"] for tag, a in parsed.seen if tag == "th"] == ["col", "col", "row", "row"]
    assert "<a>" in parsed.texts


def test_long_words_may_break_and_figures_may_not() -> None:
    figures = html.join("4.60 ", html.el("span", "[4.52, 4.68], over every item that there is", class_="interval"))
    parsed = parse(
        html.table(["", "a", "b"], [["x", figures, "0.5"], ["y", "no flips: the order changed no winner", 1]])
    )
    assert [a for tag, a in parsed.seen if tag == "td"] == [{}, {}, {"class": "long"}, {}]


def test_data_cannot_leave_its_element() -> None:
    value = {"a": [NASTY, {"</script>": 1}], "中": "文"}
    made = html.data(value, "rows")
    parsed = parse(made)
    assert [tag for tag, _ in parsed.seen] == ["script"]
    assert json.loads("".join(parsed.texts)) == value
    assert not re.search(r"[<>&\u2028]", "".join(parsed.texts))
    assert "中" in made, "kept readable"


def test_ticks_are_round_and_span_the_values() -> None:
    checked = 0
    for low, high in [(0, 1), (0.03, 5.2), (-3, 7), (0, 0), (4, 4), (0, 12345), (1e-5, 3e-5), (0.1, 0.3)]:
        found = charts.ticks(low, high)
        assert found[0] <= low
        assert found[-1] >= high
        assert 3 <= len(found) <= 8, (low, high, found)
        steps = {f"{b - a:.6g}" for a, b in itertools.pairwise(found)}
        assert len(steps) == 1
        assert f"{float(steps.pop()):.0e}"[0] in "125"
        checked += 1
    assert checked == 8


def rects(svg: str, name: str) -> list[dict[str, str | None]]:
    return [attributes for tag, attributes in parse(svg).seen if tag == "rect" and attributes["class"] == name]


def test_bars_are_as_long_as_their_values() -> None:
    svg = charts.bars(
        "<t>", [("one", [("tuned", 3, 2, 4), ("base", 1, None, None), ("golden", None, None, None)])], 1, 5
    )
    parsed = parse(svg)
    assert parsed.seen[0][0] == "svg"
    assert parsed.texts[0] == "<t>", "the title comes first: it is the name that a screen reader says"
    half = (charts.WIDTH - 42) / 2
    assert float(rects(svg, "tuned")[0]["width"] or 0) == pytest.approx(half, abs=0.1)
    assert float(rects(svg, "base")[0]["width"] or 0) == 0
    assert rects(svg, "golden") == []
    whiskers = [a for tag, a in parsed.seen if tag == "line"]
    assert len(whiskers) == 1
    assert float(whiskers[0]["x2"] or 0) - float(whiskers[0]["x1"] or 0) == pytest.approx(half, abs=0.2)


def test_bars_out_of_range_stay_inside() -> None:
    svg = charts.bars("t", [("one", [("tuned", 9, -9, 99)])], 0, 1)
    assert float(rects(svg, "tuned")[0]["width"] or 0) == pytest.approx(charts.WIDTH - 42, abs=0.1)


def test_lines_go_through_their_points() -> None:
    svg = charts.lines("t", {"loss": [(0, 4.0), (10, 2.0)], "eval_loss": [(10, 3.0)]})
    shapes = {a["class"]: a["points"] for tag, a in parse(svg).seen if tag == "polyline"}
    assert set(shapes) == {"line loss", "line eval_loss"}
    (x1, y1), (x2, y2) = ([float(n) for n in point.split(",")] for point in (shapes["line loss"] or "").split())
    assert x2 > x1
    assert y2 > y1, "down is less"
    assert sum(tag == "circle" for tag, _ in parse(svg).seen) == 3
    assert charts.lines("t", {"loss": []}) == ""


def test_shares_are_drawn_on_one_scale() -> None:
    """Two charts of shares that look alike are alike, and a small one keeps inside its width."""
    svg = charts.lines("t", {"a": [(10, 0.0), (30, 0.5)]}, height=130, width=260, share=True)
    parsed = parse(svg)
    assert parsed.seen[0][1]["viewbox"] == "0 0 260 130"
    (x1, y1), (x2, y2) = (
        [float(n) for n in point.split(",")]
        for a in (a for tag, a in parsed.seen if tag == "polyline")
        for point in (a["points"] or "").split()
    )
    assert 44 <= x1 < x2 <= 260 - 16
    assert (y1, y2) == (112, 60), "half of the way from 0 at the bottom to 1 at the top"


def test_histogram_heights_are_the_counts() -> None:
    svg = charts.histogram("t", [0, 1, 2, 3], {"kept": [1, 4, 2], "dropped": [0, 0, 1]})
    heights = [float(a["height"] or 0) for a in rects(svg, "kept")]
    assert heights[1] == pytest.approx(4 * heights[0], abs=0.3)
    assert [float(a["height"] or 0) for a in rects(svg, "dropped")][:2] == [0, 0]
    with pytest.raises(ValueError, match="zip"):
        charts.histogram("t", [0, 1], {"kept": [1, 2]})


def test_page_allows_its_own_style_and_script_and_nothing_else() -> None:
    style, script = "p{color:red}", "console.log('中')"
    made = html.page("<title>", html.el("p", NASTY), style, script)
    assert made == html.page("<title>", html.el("p", NASTY), style, script)
    parsed = parse(made)
    policy = next(a["content"] or "" for tag, a in parsed.seen if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for kind, source in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    assert not [a for _, a in parsed.seen if {"src", "href", "style"} & a.keys()]
    assert "<title>" in parsed.texts
    with pytest.raises(ValueError, match="end early"):
        html.page("t", Markup(""), style, "'</script>'")
