"""deps: writes the code deps of every stage into dvc.yaml, from the imports of its script.

    make deps

Run it after a change of imports; `tests/test_pipeline.py` fails until it was run. Only the lines between the comment
"code, by `make deps`" and the closing bracket change. A package stands for its files where a stage imports all of them.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

from anneal import files, fingerprint

MAP = Path("dvc.yaml")
MARK = "# code, by `make deps`"
WIDTH = 116


def modules(package: Path) -> set[Path]:
    """The modules that lie directly in a package; empty `__init__.py` files and subfolders do not count."""
    return {path for path in package.glob("*.py") if path.name != "__init__.py"}


def code_deps(script: Path) -> list[str]:
    """The script, then the files it imports, directly or not, sorted; a whole package is named by its folder."""
    script = script.resolve()
    closure = set(fingerprint.code(script)) - {script}
    library = fingerprint.ROOT / "anneal"
    whole = {folder for folder in {path.parent for path in closure} - {library} if modules(folder) <= closure}
    names = whole | {path for path in closure if path.parent not in whole}
    return [str(path.relative_to(fingerprint.ROOT)) for path in [script, *sorted(names)]]


def written(text: str) -> str:
    """dvc.yaml with the code deps of today's imports."""
    lines: list[str] = []
    script, inside = Path(), False
    for line in text.splitlines():
        if command := re.match(r"\s+cmd: python -m ([\w.]+)", line):
            script = fingerprint.ROOT / (command[1].replace(".", "/") + ".py")
        if inside and line.strip() != "]":
            continue
        inside = line.strip() == MARK
        lines.append(line)
        if inside:
            indent = line[: len(line) - len(line.lstrip())]
            listing = ", ".join(code_deps(script))
            folded = textwrap.wrap(listing, WIDTH - len(indent), break_long_words=False, break_on_hyphens=False)
            lines += [indent + part for part in folded]
    return "\n".join(lines) + "\n"


def main() -> int:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print((__doc__ or "").strip())
        return 0
    before = MAP.read_text("utf-8")
    after = written(before)
    if after != before:
        files.write_text(MAP, after)
    print(f"{MAP}: {'code deps written' if after != before else 'code deps are those of the imports'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
