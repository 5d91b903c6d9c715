"""base: the tiny base model built here, or a named model pinned to a revision.

reads   data/raw/<recipe>/base, models/shipped
writes  models/base
params  base, model
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anneal import files, fingerprint
from anneal.errors import UserError
from anneal.files import work
from anneal.models import loading as models
from anneal.models.loading import Model
from anneal.prompts import Prompt
from anneal.stage import run
from anneal.tiny import architecture, pretrain, probes
from anneal.tiny.architecture import Base
from anneal.tiny.documents import VERSION, Source
from anneal.tiny.grammar_corpus import Grammar
from anneal.tiny.sheet_corpus import Corpus

OUT = Path("models/base")
SHIPPED = Path("models/shipped")  # tiny models that come with the checkout, a folder each
QUESTIONS = 60  # of every probe; a share of 60 is known to about 0.1
# What a named model's folder gets besides its base.json; the weights stay where they were found.
SMALL = ("*.json", "*.txt", "*.model", "*.jinja")


def digest(files: list[Path]) -> str:
    """sha256 of names and bytes."""
    found = hashlib.sha256()
    for path in sorted(files):
        found.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as handle:
            while piece := handle.read(1 << 20):
                found.update(piece)
    return found.hexdigest()


DOCUMENTS: dict[str, Callable[[str], Source]] = {"sheets": Corpus, "grammar": Grammar}


def recipe(base: Base, corpus: Source) -> str:
    """What decides a tiny model: the section, the corpus and the documents that today's code draws from it.

    Not the code's bytes: a comment would cost every shipped model a rebuild. `corpus.VERSION` stands for the training.
    """
    texts = [path for path in Path(base.corpus).iterdir() if path.suffix in (".json", ".txt")]
    drawn = [corpus.document(random.Random(f"{base.seed}/recipe/{n}"), 0.1) for n in range(200)]
    told = json.dumps([base.model_dump(exclude={"corpus"}), digest(texts), drawn, VERSION], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def shipped(build: str) -> Path | None:
    """The folder of a model that comes with the checkout and was built from the same recipe."""
    for note in sorted(SHIPPED.glob("*/base.json")):
        if json.loads(note.read_text("utf-8")).get("build") == build:
            return note.parent
    return None


def unfinished(build: str) -> str:
    """What a half-trained state belongs to: another recipe, code or torch starts from the beginning."""
    import torch

    return hashlib.sha256(
        f"{build} {fingerprint.digest(fingerprint.code(__file__))} {torch.__version__}".encode()
    ).hexdigest()[:16]


def progress(steps: int) -> Any:
    """Tells on stderr how far training is, with the mean loss since it last told."""
    losses: list[float] = []

    def say(step: int, loss: float) -> None:
        losses.append(loss)
        if step % 50 == 0 or step == steps:
            print(f"base: step {step} of {steps}, loss {sum(losses) / len(losses):.3f}", file=sys.stderr, flush=True)
            losses.clear()

    return say


def card(base: Base, model: Any, tokens: Any, corpus: Source, scores: dict[str, float]) -> str:
    """The model card: the corpus folder's text with the figures filled in."""
    return Prompt(Path(base.corpus) / "card.md").render(
        parameters=f"{sum(p.numel() for p in model.parameters()):,}",
        vocabulary=f"{len(tokens):,}",
        steps=f"{base.steps:,}",
        batch_size=str(base.batch_size),
        seed=str(base.seed),
        questions=str(QUESTIONS),
        held_out=str(len(corpus.held_out)),
        probes="\n".join(f"| {name} | {share:.2f} |" for name, share in scores.items()),
    )


def note(folder: Path, name: str, revision: str, **more: str) -> None:
    files.write_json(folder / "base.json", {"name": name, "revision": revision, **more})


def build(base: Base, corpus: Source, folder: Path) -> dict[str, float]:
    """Train the tiny model into `folder`; returns its probes. A killed build goes on where it was."""
    import torch

    models.quiet()
    models.threads(base.threads)
    made = recipe(base, corpus)
    tokens = architecture.tokenizer(corpus.words, corpus.characters, base.vocab_size, base.positions)
    model = architecture.build(base, tokens)
    pretrain.train(model, tokens, corpus, base, work("base") / f"{unfinished(made)}.pt", progress(base.steps))
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # the hub's writer keeps it to its owner
    tokens.save_pretrained(folder)
    # What is stored is what is measured: rounded to bfloat16, read back as every later stage reads it.
    note(folder, models.TINY, digest([folder / "model.safetensors", folder / "tokenizer.json"]), build=made)
    read = models.load(folder, "float32")
    scores = probes.scores(read, models.tokenizer(folder), corpus, "probes", QUESTIONS)
    files.write_text(folder / "README.md", card(base, read, tokens, corpus, scores))
    return scores


def find(model: Model) -> tuple[Path, str]:
    """The folder that holds a named model, and its revision: the hub's commit, or a hash of a local folder's files."""
    here = Path(model.name).expanduser()
    if here.is_dir():
        revision = digest([path for path in here.iterdir() if path.is_file()])
        if model.revision not in (None, revision):
            raise UserError(f"params.yaml: model.revision: {here} holds {revision}; write that, or leave it empty")
        return here, revision
    from huggingface_hub import snapshot_download

    where = f"params.yaml: model.name: {model.name!r}" + (f" at {model.revision}" if model.revision else "")
    try:
        folder = snapshot_download(model.name, revision=model.revision, allow_patterns=[*SMALL, "*.safetensors"])
    except Exception as err:  # the hub client raises a score of kinds; the user needs the name and a reason
        reason = next((line.strip() for line in str(err).splitlines() if line.strip()), "")[:200]
        raise UserError(
            f"{where} was not found, here or on the hub ({type(err).__name__}: {reason}); "
            f"name `{models.TINY}`, a hub model or a folder, and check the network and HF_TOKEN"
        ) from None
    return Path(folder), Path(folder).name


def pin(model: Model, folder: Path) -> None:
    """Put a named model's small files and its revision into `folder`."""
    source, revision = find(model)
    if not list(source.glob("*.safetensors")):
        raise UserError(
            f"params.yaml: model.name: {model.name!r} holds no .safetensors weights; other kinds are not read"
        )
    for path in sorted(path for pattern in SMALL for path in source.glob(pattern)):
        if not path.name.endswith(".index.json"):
            shutil.copyfile(path, folder / path.name)
    note(folder, model.name, revision)
    models.tokenizer(folder)


def main(base: Base, model: Model) -> None:
    def fill(folder: Path) -> None:
        if model.name != models.TINY:
            return pin(model, folder)
        corpus = DOCUMENTS[base.documents](base.corpus)
        # To rebuild changes the road and not the result, so it is asked for in the environment.
        if not os.environ.get("ANNEAL_REBUILD") and (ready := shipped(recipe(base, corpus))):
            shutil.copytree(ready, folder, dirs_exist_ok=True)
            return print(f"base: {ready} was built from this very recipe and is taken as it is", file=sys.stderr)
        shares = [f"{name} {share:.2f}" for name, share in build(base, corpus, folder).items()]
        return print(f"base: probes: {'; '.join(shares)}", file=sys.stderr)

    files.write_folder(OUT, fill)


if __name__ == "__main__":
    run(main)
