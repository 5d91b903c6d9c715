"""report: writes the results as a page and as a summary in Markdown, with the changes against a revision of git.

    make report BASE=main MIN_SCORE=4.2 MAX_REGRESSION=0.1

Not a stage of DVC: it depends on git revisions, which no dependency can name. The same inputs give the same bytes; run
times and prices go to the terminal only. With --min-score or --max-regression it is a gate: the page is written in any
case, and the exit code is 3 where a limit is missed.

reads   params.yaml, dvc.lock, prompts/, reports/metrics/, reports/plots/, data/, models/base,
        .dvc/cache, .work/times/stages.jsonl
writes  reports/index.html, reports/summary.md
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from markupsafe import Markup

from anneal import files, html
from anneal.errors import UserError
from anneal.history import revision
from anneal.history.revision import Snapshot
from anneal.html import el
from anneal.report import (
    alerts,
    answers,
    artifacts,
    changes,
    costs,
    data,
    filtering,
    gate,
    headline,
    human_votes,
    judge_health,
    mask_preview,
    preference_learning,
    scores,
    summary,
    training,
)
from anneal.report.formatting import figure
from anneal.report.summary import headings

PAGE, SUMMARY = Path("reports/index.html"), Path("reports/summary.md")

SECTIONS: dict[str, Callable[[Snapshot, Snapshot], Markup]] = {
    "Scores": scores.scores,
    "Checks": scores.checks,
    "Side by side": scores.browser,
    "Preference learning": preference_learning.section,
    "Changes": changes.changed,
    "Contract": answers.contract,
    "Decoding": answers.decoding,
    "Kinds of text": answers.kinds,
    "Data funnel": data.funnel,
    "Filter": filtering.impact,
    "Split": data.split,
    "Tokens": data.tokens,
    "Training": training.training,
    "Mask preview": mask_preview.section,
    "Merge": training.merge,
    "Cost ledger": costs.section,
    "Judge health": judge_health.section,
    "People": human_votes.section,
    "Provenance": training.provenance,
}


def page(now: Snapshot, old: Snapshot) -> str:
    """The whole document."""
    sections = {name: build(now, old) for name, build in SECTIONS.items()}
    kept = {name.lower().replace(" ", "-"): (name, body) for name, body in sections.items() if body}
    lines = [el("li", line, class_=kind) for kind, line in alerts.alerts(now, old)]
    assets = Path(html.__file__).parent / "report/assets"
    style, script, chinese = ((assets / f"report.{end}").read_text("utf-8") for end in ("css", "js", "zh.json"))
    body = html.join(
        el("h1", f"anneal report, recipe {now.params.get('recipe', 'unknown')}"),
        *(el("p", line, class_="verdict") for line in headline.lines(now)),
        el("p", old.note or f"compared with {old.name}", class_="soft"),
        el("ul", *lines, class_="alerts") if lines else "",
        el("nav", *(el("a", name, href=f"#{key}") for key, (name, _) in kept.items())),
        *(el("section", el("h2", name), section, id=key) for key, (name, section) in kept.items()),
        html.data(json.loads(chinese), "zh"),
    )
    return html.page("anneal report", body, style, script)


def show(now: Snapshot) -> None:
    """The short table of the terminal, with the times, which the files never hold."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for line in headline.lines(now):
        console.print(Text(line, style="bold"), soft_wrap=True)
    made = Table()
    for name in ("", "n", "score", *headings(now)):
        made.add_column(name, justify="right" if name else "left")
    overall = now.metric("compare", "overall") or {}
    for name, column in ((name, overall[name]) for name in now.systems if name in overall):
        shares = (figure(column.get(key), True) for key in headings(now).values())
        made.add_row(name, figure(column.get("n")), figure(column.get("score")), *shares)
    console.print(made)
    times = artifacts.seconds()
    console.print(", ".join(f"{stage} {took:.0f} s" for stage, took, _ in times) if times else "", style="dim")
    for line in (artifacts.outbound(now.params)[1], costs.money(now)):
        if line:
            console.print(line, soft_wrap=True, highlight=False)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", nargs="?", default="main", help="revision of git to compare with (default: main)")
    parser.add_argument(
        "--min-score",
        help="the mean of what is shipped (aligned, or else tuned) below which the exit code is 3, 1 to 5",
    )
    parser.add_argument("--max-regression", help="how much of it may be lost against base before it is 3, 0 to 4")
    return parser.parse_args()


def main() -> int:
    words = arguments()
    try:
        least = gate.limit("MIN_SCORE", words.min_score, gate.LOWEST, gate.HIGHEST)
        most = gate.limit("MAX_REGRESSION", words.max_regression, 0, gate.HIGHEST - gate.LOWEST)
        now, old = revision.here(), revision.at(words.base)
        files.write_text(PAGE, page(now, old))
        files.write_text(SUMMARY, summary.summary(now, old))
        closed = gate.reasons(now, old, least, most)
    except UserError as err:
        print(f"report: {err}", file=sys.stderr)
        return 1
    show(now)
    print(f"{old.note or f'compared with {old.name}'}\n{SUMMARY}\n{PAGE.resolve().as_uri()}")
    if closed:
        print(f"report: gate closed: {'; '.join(closed)}", file=sys.stderr)
    return gate.CLOSED if closed else 0


if __name__ == "__main__":
    sys.exit(main())
