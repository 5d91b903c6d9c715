"""The one table people read, for the terminal: scores, the difference with its interval, and the shares that pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

SYSTEMS = ("golden", "tuned", "base")
HEADINGS = ("n", *SYSTEMS, "tuned - base", "best g/t/b/tie")
IN_TABLE = 3  # shares that are columns; the others stand under the table
Numbers = dict[str, Any]


def show(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def table(numbers: Numbers) -> Table:
    """Scores first, then what a check can decide; every mean with its denominator, the difference with its interval."""
    from rich.table import Table

    whole = {**numbers["overall"], **{key: numbers[key] for key in ("difference", "best")}}
    wrong = ", ".join(f"{name} {show(value['mean'])} of {value['n']}" for name, value in numbers["controls"].items())
    made = Table(
        title=f"{numbers['score_kind']} (1 to 5) and shares that pass; [95% interval, clustered by item]",
        caption=f"~ not distinguishable from 0, = within the margin; strict of golden in the wrong place: {wrong}\n"
        + "; ".join(
            f"{key.replace('_', ' ')}: " + "/".join(show(whole[s][key]) for s in SYSTEMS)
            for key in numbers["shares"][IN_TABLE:]
        ),
    )
    made.add_column("type", no_wrap=True)
    shown = numbers["shares"][:IN_TABLE]
    for heading in (*HEADINGS, *(f"{key.replace('_', ' ')} g/t/b" for key in shown)):
        made.add_column(heading, justify="right", no_wrap=True)
    for name, row in {**numbers["by_type"], "all": whole}.items():
        if name == "all":
            made.add_section()
        gap, n = row["difference"], row["golden"]["n"]
        scores = [
            show(row[s]["score"]) + (f" ({row[s]['n_scored']})" if row[s]["n_scored"] < n else "") for s in SYSTEMS
        ]
        mark = {"none": "~ ", "open": "~ ", "noise": "~ ", "equivalent": "= "}.get(gap["state"], "")
        span = f" [{show(gap['low'], '+.2f')}, {show(gap['high'], '+.2f')}]"
        # What so many clusters could have found: an open difference is no proof that there is none.
        span += f" finds {show(gap['detectable'])}" if gap["state"] == "open" else ""
        wins = "/".join(str(row["best"][key]) for key in (*SYSTEMS, "tie"))
        shares = ["/".join(show(row[s][key]) for s in SYSTEMS) for key in shown]
        made.add_row(name, str(n), *scores, mark + show(gap["mean"], "+.2f") + span, wins, *shares)
    return made
