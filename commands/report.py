"""report: writes the results as a page and as a summary in Markdown, with the changes against a revision of git.

    make report BASE=main MIN_SCORE=4.2 MAX_REGRESSION=0.1

Not a stage of DVC: it depends on git revisions, which no dependency can name. Equal inputs give equal bytes; run times
and prices are printed to the terminal only. With --min-score or --max-regression it is a gate: the page is written in
any case, and the exit code is 3 where a limit is missed.

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

PAGE = Path("reports/index.html")
SUMMARY = Path("reports/summary.md")

# Heading -> section, in the order of the page; a section that returns no markup is left out.
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
    """The HTML document, self-contained. `now` is the working tree, `old` the revision to compare with."""
    sections = {name: build(now, old) for name, build in SECTIONS.items()}
    sections = {name: markup for name, markup in sections.items() if markup}
    anchors = {name: name.lower().replace(" ", "-") for name in sections}
    alert_items = [el("li", line, class_=kind) for kind, line in alerts.alerts(now, old)]
    assets = Path(html.__file__).parent / "report/assets"
    style, script, chinese = ((assets / f"report.{end}").read_text("utf-8") for end in ("css", "js", "zh.json"))
    body = html.join(
        el("h1", f"anneal report, recipe {now.params.get('recipe', 'unknown')}"),
        *(el("p", line, class_="verdict") for line in headline.lines(now)),
        el("p", old.note or f"compared with {old.name}", class_="soft"),
        el("ul", *alert_items, class_="alerts") if alert_items else "",
        el("nav", *(el("a", name, href=f"#{anchor}") for name, anchor in anchors.items())),
        *(el("section", el("h2", name), markup, id=anchors[name]) for name, markup in sections.items()),
        html.data(json.loads(chinese), "zh"),
    )
    return html.page("anneal report", body, style, script)


def show(now: Snapshot) -> None:
    """Print the headline, the table of systems, and run times and prices, which no file holds."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for line in headline.lines(now):
        console.print(Text(line, style="bold"), soft_wrap=True)
    shares = headings(now)
    table = Table()
    for heading in ("", "n", "score", *shares):
        table.add_column(heading, justify="right" if heading else "left")
    overall = now.metric("compare", "overall") or {}
    for system in now.systems:
        if system not in overall:
            continue
        row = overall[system]
        cells = [figure(row.get(key), True) for key in shares.values()]
        table.add_row(system, figure(row.get("n")), figure(row.get("score")), *cells)
    console.print(table)
    times = [f"{stage} {seconds:.0f} s" for stage, seconds, _ in artifacts.seconds()]
    console.print(", ".join(times), style="dim")
    for line in (artifacts.outbound(now.params)[1], costs.money(now)):
        if line:
            console.print(line, soft_wrap=True, highlight=False)


def arguments() -> argparse.Namespace:
    """The command line. Limits stay text: `gate.limit` parses them, and reads an empty one as none."""
    parser = argparse.ArgumentParser(
        "report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", nargs="?", default="main", help="revision of git to compare with (default: main)")
    parser.add_argument(
        "--min-score",
        help="exit with 3 if the mean score of the final model (aligned, else tuned) is below this, 1 to 5",
    )
    parser.add_argument(
        "--max-regression", help="exit with 3 if that score is lower than at base by more than this, 0 to 4"
    )
    return parser.parse_args()


def main() -> int:
    args = arguments()
    try:
        min_score = gate.limit("MIN_SCORE", args.min_score, gate.LOWEST, gate.HIGHEST)
        max_regression = gate.limit("MAX_REGRESSION", args.max_regression, 0, gate.HIGHEST - gate.LOWEST)
        now = revision.here()
        old = revision.at(args.base)
        files.write_text(PAGE, page(now, old))
        files.write_text(SUMMARY, summary.summary(now, old))
        missed = gate.reasons(now, old, min_score, max_regression)
    except UserError as err:
        print(f"report: {err}", file=sys.stderr)
        return 1
    show(now)
    print(f"{old.note or f'compared with {old.name}'}\n{SUMMARY}\n{PAGE.resolve().as_uri()}")
    if missed:
        print(f"report: gate closed: {'; '.join(missed)}", file=sys.stderr)
    return gate.CLOSED if missed else 0


if __name__ == "__main__":
    sys.exit(main())
