"""What batches bring, and what our own search costs, beside transformers' generate one prompt at a time, in one run.

    python bench/decode.py [--weights models/merged] [--rows 64] [--batch-size 64] [--threads 1] [--repeats 2]

All answer the first prompts of data/test.jsonl greedily with the same model in float32 and take turns; the best turn
of each counts: generate one by one, generate in our sorted, left-padded batches, and our own search in the same ones.
A token is one that ends up in an answer, its stop token included, so that padding earns nothing. The answers must be
the same texts, or the ratios would compare different jobs.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from anneal import files
from anneal.dataset import chat_template
from anneal.decoding import generate, search
from anneal.models import loading

GREEDY = generate.Decode(
    do_sample=False,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    repetition_penalty=1.0,
    no_repeat_ngram_size=0,
    num_beams=1,
    length_penalty=1.0,
    max_new_tokens=256,
    stop=[],
)


def plain(weights: Any, tokenizer: Any, prompts: list[Any], stops: list[int]) -> tuple[list[str], int]:
    """One prompt at a time, as the model cards show it. Texts, and how many tokens they took."""
    texts, tokens = [], 0
    for prompt in prompts:
        inputs = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = weights.generate(
            **inputs.to(weights.device), max_new_tokens=GREEDY.max_new_tokens, do_sample=False, eos_token_id=stops
        )
        new = out[0, inputs["input_ids"].shape[1] :]
        tokens += len(new)
        texts.append(tokenizer.decode(new, skip_special_tokens=True))
    return texts, tokens


def batched(
    engine: Any, weights: Any, tokenizer: Any, prompts: list[Any], stops: list[int], size: int
) -> tuple[list[str], int]:
    """In batches sorted by length. Texts in the order of the prompts, and how many tokens they took."""
    ids = [chat_template.prompt_ids(tokenizer, prompt) for prompt in prompts]
    texts, tokens = [""] * len(ids), 0
    for batch in generate.batches([len(row) for row in ids], size):
        found = engine(weights, tokenizer, [ids[place] for place in batch], GREEDY, stops, [0] * len(batch))
        for place, continuation in zip(batch, found, strict=True):
            texts[place] = continuation.text
            tokens += continuation.n_new
    return texts, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="models/merged")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    loading.threads(options.threads)
    tokenizer, weights = loading.tokenizer(options.weights), loading.load(options.weights, "float32")
    stops = chat_template.stop_ids(tokenizer)
    prompts = [record["prompt"] for record in files.read("data/test.jsonl", "prompt")][: options.rows]
    ways = {
        "one by one": lambda: plain(weights, tokenizer, prompts, stops),
        "in batches": lambda: batched(generate.answer, weights, tokenizer, prompts, stops, options.batch_size),
        "own, in batches": lambda: batched(search.answer, weights, tokenizer, prompts, stops, options.batch_size),
    }
    plain(weights, tokenizer, prompts[:1], stops)  # the first call of either loads kernels
    best: dict[str, float] = {}
    texts: dict[str, list[str]] = {}
    for turn in range(options.repeats):
        for name, way in ways.items():
            start, busy = time.perf_counter(), time.process_time()
            texts[name], tokens = way()
            seconds, busy = time.perf_counter() - start, time.process_time() - busy
            best[name] = max(best.get(name, 0), tokens / seconds)
            line = f"{tokens / seconds:7.0f} tokens/s, {tokens / busy:7.0f} per CPU second"
            print(f"turn {turn + 1}  {name}  {len(prompts)} rows  {tokens} tokens  {line}")
    same = sum(len(set(answers)) == 1 for answers in zip(*texts.values(), strict=True))
    print(f"same text: {same} of {len(prompts)}")
    print(f"ratio of batches to one by one: {best['in batches'] / best['one by one']:.1f}")
    print(f"ratio of our own search to generate, both in batches: {best['own, in batches'] / best['in batches']:.2f}")


if __name__ == "__main__":
    main()
