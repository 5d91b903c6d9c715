"""report: the results as a page to read and a summary to paste, beside what changed against a revision of git.

Not a stage of DVC: it depends on git revisions, which no dependency can name. `make report BASE=main` runs it. The same
inputs give the same bytes; run times go to the terminal only.

reads   params.yaml, dvc.lock, prompts/, reports/metrics/, reports/plots/, data/test.jsonl, data/checks.jsonl,
        data/judgements/, .work/times/stages.jsonl
writes  reports/index.html, reports/summary.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.lib import conduct, evidence, html, jsonl, material, people, process, results, revision, sieve
from stages.lib.evidence import SYSTEMS
from stages.lib.figures import figure
from stages.lib.html import Safe, el
from stages.lib.params import Refusal
from stages.lib.revision import Snapshot
from stages.lib.verdict import alerts, verdict

PAGE, SUMMARY = Path("reports/index.html"), Path("reports/summary.md")

SECTIONS: dict[str, Callable[[Snapshot, Snapshot], Safe]] = {
    "Scores": results.scores,
    "Checks": results.checks,
    "Contract": conduct.contract,
    "Decoding": conduct.decoding,
    "Kinds of text": conduct.kinds,
    "Side by side": results.browser,
    "People": people.section,
    "Changes": process.changed,
    "Data funnel": material.funnel,
    "Filter": sieve.impact,
    "Split": material.split,
    "Tokens": material.tokens,
    "Training": process.training,
    "Merge": process.merge,
    "Provenance": process.provenance,
}


def headings(now: Snapshot) -> dict[str, str]:
    """Headings of the short table, and the shares of compare.json under them."""
    return {key.replace("_", " "): key for key in now.metric("compare", "shares") or []}


def page(now: Snapshot, old: Snapshot) -> str:
    """The whole document."""
    sections = {name: build(now, old) for name, build in SECTIONS.items()}
    kept = {name.lower().replace(" ", "-"): (name, body) for name, body in sections.items() if body}
    lines = [el("li", line, class_=kind) for kind, line in alerts(now, old)]
    body = html.join(
        el("h1", f"anneal report, recipe {now.params.get('recipe', 'unknown')}"),
        el("p", verdict(now), class_="verdict"),
        el("p", old.note or f"compared with {old.name}", class_="soft"),
        el("ul", *lines, class_="alerts") if lines else "",
        el("nav", *(el("a", name, href=f"#{key}") for key, (name, _) in kept.items())),
        *(el("section", el("h2", name), section, id=key) for key, (name, section) in kept.items()),
    )
    here = Path(html.__file__).parent
    style, script = ((here / name).read_text("utf-8") for name in ("report.css", "report.js"))
    return html.page("anneal report", body, style, script)


def cell(value: Any) -> str:
    """Text inside Markdown: nothing in it opens a column, a tag or a line."""
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def grid(head: list[str], rows: list[list[Any]]) -> list[str]:
    return ["", *(f"| {' | '.join(map(cell, row))} |" for row in [head, ["---"] * len(head), *rows]), ""]


def summary(now: Snapshot, old: Snapshot) -> str:
    """Markdown that fits a comment: verdict, alerts, the table, the first changes."""
    overall, shares = now.metric("compare", "overall") or {}, headings(now)
    lines = [f"**{cell(verdict(now))}**", "", cell(old.note or f"Compared with {old.name}.")]
    lines += ["", *(f"- {'**Attention**: ' if kind == 'bad' else ''}{cell(line)}" for kind, line in alerts(now, old))]
    rows = [
        [
            name,
            c["n"],
            f"{figure(c['score'])} ({c['n_scored']} scored)",
            *(figure(c[key], True) for key in shares.values()),
        ]
        for name, c in ((name, overall[name]) for name in SYSTEMS if name in overall)
    ]
    lines += grid(["", "n", now.metric("compare", "score_kind") or "score", *shares], rows)
    if not old.note:
        params = [[key, figure(a), figure(b)] for key, a, b in revision.changes(old.params, now.params)]
        lines += ["Params:", *grid(["key", old.name, "here"], params[:20])] if params else ["Params: the same.", ""]
        numbers = [row for row in process.numbers(now, old) if process.headline(row[0])]
        lines += (
            ["Metrics:", *grid(["key", old.name, "here", "change"], numbers[:16])]
            if numbers
            else ["Metrics: the same."]
        )
    return "\n".join(lines).rstrip() + "\n"


def show(now: Snapshot) -> None:
    """The short table of the terminal, with the times, which the files never hold."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    made = Table(title=Text(verdict(now)))
    for name in ("", "n", "score", *headings(now)):
        made.add_column(name, justify="right" if name else "left")
    overall = now.metric("compare", "overall") or {}
    for name, column in ((name, overall[name]) for name in SYSTEMS if name in overall):
        shares = (figure(column[key], True) for key in headings(now).values())
        made.add_row(name, figure(column["n"]), figure(column["score"]), *shares)
    console.print(made)
    times = evidence.seconds()
    console.print(", ".join(f"{stage} {took:.0f} s" for stage, took, _ in times) if times else "", style="dim")
    if line := evidence.outbound(now.params)[1]:
        console.print(line, soft_wrap=True, highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(
        "report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", nargs="?", default="main", help="revision of git to compare with (default: main)")
    base = parser.parse_args().base
    try:
        now, old = revision.here(), revision.at(base)
        jsonl.write_text(PAGE, page(now, old))
        jsonl.write_text(SUMMARY, summary(now, old))
    except Refusal as err:
        print(f"report: {err}", file=sys.stderr)
        return 1
    show(now)
    print(f"{old.note or f'compared with {old.name}'}\n{SUMMARY}\n{PAGE.resolve().as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
