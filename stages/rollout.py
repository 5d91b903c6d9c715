"""rollout: samples of one system (tuned or aligned) on held-out prompts, and what they are rewarded.

Where the samples of a prompt are rewarded alike, or by their length, the metric refuses them: align trains on none.

reads   data/test.jsonl, models/base, models/adapter (tuned) or models/merged (aligned), models/density,
        models/reward, rules.folder
writes  data/rollouts/<system>.jsonl, reports/metrics/rollout/<system>.json
params  rewards, rollout, rules, seed, threads
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from anneal import files, fingerprint
from anneal.checks import density, facts, text_checks
from anneal.dataset import chat_template
from anneal.decoding import batches, generate
from anneal.errors import UserError
from anneal.models import loading, reward_model, weights
from anneal.params import Count
from anneal.preference import reward_spread
from anneal.preference.rule_rewards import Rewards, refuse, score, total
from anneal.records import Metrics, Record, Sample
from anneal.stage import run

TEST, DENSITY = Path("data/test.jsonl"), Path("models/density/density.json")
System = Literal["tuned", "aligned"]


class Rollout(reward_spread.Limits):
    """Which samples are drawn, and from where on their rewards must not be trained on."""

    prompts: Annotated[int, Field(ge=0)]  # 0 makes none
    samples: Annotated[int, Field(ge=2)]  # of each prompt
    temperature: Annotated[float, Field(gt=0)]
    max_new_tokens: Count
    batch_size: Count

    def decode(self) -> generate.Decode:
        return generate.plain(self.temperature, self.max_new_tokens)


@dataclass(frozen=True)
class Job:
    """One sample to be drawn."""

    record: Record
    number: int
    prompt: list[int]
    seed: int


def draw(records: Sequence[Record], n: int, seed: int) -> list[Record]:
    """`n` records, or all: spread evenly over types, then over items, and by hash where that leaves a choice."""

    def place(record: Record) -> str:
        return hashlib.sha256(f"{seed}/rollout/{record['id']}".encode()).hexdigest()

    left, types, items, chosen = sorted(records, key=place), Counter[str](), Counter[str](), set[str]()
    while left and len(chosen) < n:
        best = min(left, key=lambda r: (types[r["type"]], items[r["item"]]))  # the first by hash of the equal ones
        left.remove(best)
        chosen.add(best["id"])
        types[best["type"]] += 1
        items[best["item"]] += 1
    return [record for record in records if record["id"] in chosen]


def plan(records: Sequence[Record], rollout: Rollout, tokenizer: Any, window: int | None, seed: int) -> list[Job]:
    """Every sample to be drawn, each with a seed of its own. Refuses a prompt that the model's window cannot hold."""
    jobs = []
    for record in records:
        prompt = chat_template.prompt_ids(tokenizer, record["prompt"])
        if window and len(prompt) + rollout.max_new_tokens > window:
            raise UserError(
                f"{TEST}: {record['id']}: {len(prompt)} tokens and {rollout.max_new_tokens} new ones, the model takes "
                f"{window}; lower rollout.max_new_tokens or shorten the record"
            )
        for number in range(rollout.samples):
            drawn = random.Random(f"{seed}/rollout/{record['id']}/{number}").getrandbits(63)
            jobs.append(Job(record, number, prompt, drawn))
    return jobs


def unfinished(system: System, jobs: Sequence[Job], rollout: Rollout, threads: int) -> str:
    """Everything that finished batches depend on. Rewards are no part of it: they are given afterwards."""
    settings = [rollout.decode().model_dump(), rollout.batch_size, threads, loading.device(), str(loading.dtype())]
    inputs = [*weights.files(system), *fingerprint.code(__file__)]
    return fingerprint.of(inputs, [settings, [(job.prompt, job.seed) for job in jobs]])


def sample(
    system: System, records: Sequence[Record], rollout: Rollout, seed: int, threads: int
) -> tuple[list[Sample], Path]:
    """The samples of each record, {id, item, type, sample, text, finish, n_new}, and the folder of finished batches."""
    loading.threads(threads)
    tokenizer, loaded = weights.load(system, "auto")
    window = getattr(loaded.config.get_text_config(), "max_position_embeddings", None)
    jobs, stops = plan(records, rollout, tokenizer, window, seed), chat_template.stop_ids(tokenizer)

    def make(places: list[int]) -> list[Sample]:
        batch = [jobs[place] for place in places]
        prompts, seeds = [job.prompt for job in batch], [job.seed for job in batch]
        written = generate.answer(loaded, tokenizer, prompts, rollout.decode(), stops, seeds)
        return [
            {
                "id": job.record["id"],
                "item": job.record["item"],
                "type": job.record["type"],
                "sample": job.number,
                "text": new.text,
                "finish": new.finish,
                "n_new": new.n_new,
            }
            for job, new in zip(batch, written, strict=True)
        ]

    folder = files.work("rollout") / f"{system}-{unfinished(system, jobs, rollout, threads)}"
    return batches.gather("rollout", [len(job.prompt) for job in jobs], rollout.batch_size, folder, make), folder


def rewarded(
    rows: Sequence[Sample],
    records: Sequence[Record],
    rewards: Rewards,
    context: text_checks.Context,
    scorer: reward_model.Scorer | None,
) -> list[Sample]:
    """The samples with their `rewards` by name and the `reward` that these make together."""
    known = {record["id"]: record for record in records}
    asked, texts = [known[row["id"]] for row in rows], [row["text"] for row in rows]
    outside = scorer.score([record["prompt"] for record in asked], texts) if scorer else None
    given = score(asked, texts, [row["finish"] == "stop" for row in rows], rewards, context, outside)
    return [
        row | {"rewards": {k: round(v, 6) for k, v in one.items()}, "reward": round(total(one, rewards), 6)}
        for row, one in zip(rows, given, strict=True)
    ]


def show(numbers: Metrics, rewards: Rewards) -> None:
    from rich.console import Console
    from rich.text import Text

    # Wide enough for the table where no terminal says how wide it is.
    console = Console(width=None if Console().is_terminal else 120)
    console.print(reward_spread.table(numbers, rewards.used))
    if numbers["constant"]:
        console.print(Text(f"alike in every prompt, so that they only guard: {', '.join(numbers['constant'])}"))
    for line in numbers["refusals"]:
        console.print(Text(f"not to be trained on: {line}", style="red"), soft_wrap=True)


def main(system: System, /, rewards: Rewards, rollout: Rollout, rules: facts.Rules, seed: int, threads: int) -> None:
    rows, metric = Path(f"data/rollouts/{system}.jsonl"), Path(f"reports/metrics/rollout/{system}.json")
    wanted = rollout.prompts if weights.present(system) else 0
    records = draw(files.read(TEST, "id", "item", "type", "prompt"), wanted, seed)
    if not records:
        files.write(rows, [])
        files.write_json(metric, {"n": 0, "refusals": []})
        return
    context = text_checks.context(rules, density.load(DENSITY) if "in_distribution" in rewards.used else None)
    scorer = reward_model.load() if "model" in rewards.used else None
    refuse(rewards, context, scorer is not None)
    drawn, folder = sample(system, records, rollout, seed, threads)
    made = rewarded(drawn, records, rewards, context, scorer)
    numbers = {**reward_spread.measure(made, rollout, seed), "temperature": rollout.temperature}
    files.write(rows, made)
    files.write_json(metric, numbers)
    shutil.rmtree(folder, ignore_errors=True)
    show(numbers, rewards)


if __name__ == "__main__":
    run(main)
