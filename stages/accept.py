"""accept: an answer that passes its checks for every test record, or the reason why there is none.

The answers of the aligned model (else the tuned one) come first. A record whose answer fails a check climbs a ladder:
candidates at rising temperatures, then candidates held to the JSON schema, then the nearest training record. Ranked by
reward, all records have the candidates of the first temperature too, and the best of all: best of n.

reads   data/test.jsonl, data/train.jsonl, data/answers/tuned.jsonl, data/answers/aligned.jsonl, models/merged,
        models/density, models/base, models/reward, data/raw/<recipe>/rules
writes  data/accepted.jsonl, reports/metrics/accept.json
params  accept, answer, rules, seed, threads
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from anneal import files
from anneal.checks import density, facts, text_checks
from anneal.dataset import chat_template
from anneal.decoding import constrained, escalation, generate
from anneal.decoding.escalation import Candidate, Rung
from anneal.errors import UserError
from anneal.models import loading, reward_model
from anneal.params import Count, Section
from anneal.records import Record
from anneal.stage import run

FIRST = ("data/answers/aligned.jsonl", "data/answers/tuned.jsonl")  # models/merged wrote the first that is not empty
MERGED = Path("models/merged")


class Accept(Section):
    """What an answer must pass, and what is tried for it; without checks every first answer is accepted."""

    checks: list[str]
    temperatures: list[Annotated[float, Field(gt=0)]]  # one rung each
    candidates: Count  # of each record on each rung
    rank: Literal["likelihood", "reward"]  # by which the best of those that pass is taken
    constrained: bool  # a rung under the JSON schema of the rules folder
    fallback: bool  # a rung of training records

    @field_validator("temperatures")
    @classmethod
    def _rising(cls, found: list[float]) -> list[float]:
        if any(a >= b for a, b in pairwise(found)):
            raise ValueError("temperatures must rise from rung to rung")
        return found


class Answer(Section):
    """What drawing takes from the section of the answer stage, which checks all of it."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    batch_size: Count
    decode: generate.Decode


@dataclass
class Sampler:
    """Draws from models/merged, whichever engine wrote the first answers; without open records nothing is loaded."""

    accept: Accept
    answer: Answer
    schema: dict[str, Any] | None
    seed: int
    threads: int

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        loading.threads(self.threads)
        return loading.tokenizer(MERGED), loading.load(MERGED, self.answer.dtype)

    @cached_property
    def grammar(self) -> constrained.Grammar:
        tokenizer, _ = self.loaded
        return constrained.Grammar(tokenizer, self.schema or {}, chat_template.stop_ids(tokenizer))

    def settings(self, temperature: float, free: bool) -> generate.Decode:
        """The recipe's own settings, drawn at this temperature (0 is greedy) and without beams."""
        change: dict[str, Any] = {"do_sample": temperature > 0, "temperature": temperature or 1.0, "num_beams": 1}
        if not free:
            # A stop string may stand inside the JSON, and a forbidden n-gram may be all that the grammar allows.
            change |= {"stop": [], "no_repeat_ngram_size": 0}
        return self.answer.decode.model_copy(update=change)

    def rung(self, name: str, temperature: float, free: bool = True) -> Rung:
        def draw(records: Sequence[Record]) -> list[list[Candidate]]:
            tokenizer, _ = self.loaded
            count = self.accept.candidates if temperature else 1  # greedy has one answer only
            jobs = [
                (prompt, random.Random(f"{self.seed}/accept/{record['id']}/{name}/{n}").getrandbits(63))
                for record in records
                for prompt in [chat_template.prompt_ids(tokenizer, record["prompt"])]
                for n in range(count)
            ]
            found: dict[int, Candidate] = {}
            for places in generate.batches([len(prompt) for prompt, _ in jobs], self.answer.batch_size):
                batch = self.write([jobs[place] for place in places], self.settings(temperature, free), free)
                found |= zip(places, batch, strict=True)
            return [[found[start + n] for n in range(count)] for start in range(0, len(jobs), count)]

        return Rung(name, temperature, draw)

    def rungs(self) -> list[Rung]:
        found = [self.rung(f"temperature {value}", value) for value in self.accept.temperatures]
        if self.schema is not None:
            # The grammar keeps the form, so the least noise that still gives several candidates does.
            found.append(self.rung("constrained", min(self.accept.temperatures, default=0.0), free=False))
        return found

    def write(self, jobs: list[tuple[list[int], int]], settings: generate.Decode, free: bool) -> list[Candidate]:
        """One batch of candidates. Their log-probability is the model's own, at temperature 1 and without a grammar,
        so that candidates drawn in different ways can be compared."""
        tokenizer, weights = self.loaded
        prompts, seeds = [prompt for prompt, _ in jobs], [seed for _, seed in jobs]
        masks = [] if free else [self.grammar.mask()]
        stops = chat_template.stop_ids(tokenizer)
        written = generate.answer(weights, tokenizer, prompts, settings, stops, seeds, masks)
        found = []
        for prompt, new in zip(prompts, written, strict=True):
            total, count = generate.likelihood(
                weights, prompt + new.ids, [chat_template.IGNORE] * len(prompt) + new.ids
            )
            found.append(Candidate(new.text, new.n_new, round(total / max(count, 1), 6), new.finish))
        return found


def ranking(accept: Accept, threads: int) -> escalation.Reward | None:
    """The reward model's word on texts, where candidates are ranked by it."""
    if accept.rank == "likelihood":
        return None
    if not accept.temperatures:
        raise UserError("params.yaml: accept.rank: reward has no candidates to rank; add one to accept.temperatures")
    loading.threads(threads)
    if not (scorer := reward_model.load()):
        raise UserError("params.yaml: accept.rank: reward needs a reward model; raise reward.epochs, or set likelihood")
    return lambda records, texts: scorer.score([record["prompt"] for record in records], texts)


def possible(accept: Accept, answer: Answer, folder: str) -> dict[str, Any] | None:
    """The JSON schema that the constrained rung needs; refuses what can never work before anything is loaded."""
    if accept.constrained and answer.decode.num_beams > 1:
        raise UserError(
            f"params.yaml: accept.constrained: true excludes answer.decode.num_beams: {answer.decode.num_beams}: "
            "a grammar cannot follow beams; set one to false or the other to 1"
        )
    if not (accept.constrained and accept.checks):
        return None
    return constrained.schema(Path(folder) / "schema.json")


def main(accept: Accept, answer: Answer, rules: facts.Rules, seed: int, threads: int) -> None:
    text_checks.refuse(accept.checks, "accept.checks")
    sampler = Sampler(accept, answer, possible(accept, answer, rules.folder), seed, threads)
    reward = ranking(accept, threads)
    test = files.read("data/test.jsonl", "id", "item", "type", "prompt")
    train = files.read("data/train.jsonl", "id", "type", "prompt", "completion")
    drawn = answer.decode.temperature if answer.decode.do_sample else 0.0
    answers = {path: files.read(path, "id", "finish") for path in FIRST}
    where = next((path for path, rows in answers.items() if rows), FIRST[-1])
    rungs = [escalation.stored_answers(test, answers[where], drawn, where), *sampler.rungs()]
    rungs += [escalation.neighbours(train, accept.candidates)] if accept.fallback else []
    likely = density.load("models/density/density.json") if accept.checks else None
    context = text_checks.context(rules, likely, [record["completion"][-1]["content"] for record in train])

    def check(records: Sequence[Record], texts: Sequence[str]) -> list[list[str]]:
        hits = text_checks.run_all(accept.checks, records, texts, context)
        return [[f"{name}: {found[0]}"[:160] for name, found in row.items() if found] for row in hits]

    said = lambda line: print(f"accept: {line}", file=sys.stderr)  # noqa: E731
    rows = escalation.escalate(
        test, rungs, check, said, bool(accept.checks or reward), reward, together=2 if reward else 1
    )
    files.write("data/accepted.jsonl", rows)
    files.write_json("reports/metrics/accept.json", escalation.summary(rows, [rung.name for rung in rungs]))


if __name__ == "__main__":
    run(main)
