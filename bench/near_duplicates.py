"""Our near-duplicates beside datasketch's MinHashLSH, each with exact verification, on the same texts in one run.

    python bench/near_duplicates.py [--texts 20000] [--file some.jsonl] [--threshold 0.7]

Texts are Chinese characters of unequal frequency, 40 to 140 of them, or the `text` fields of a file. One in fifty is
planted a second time with 2 % of its characters changed. Recall is that of the planted pairs that reach the
threshold; a false positive is a reported pair that does not. Both sides use characters in threes and 128 permutations.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from anneal import similarity

Pairs = set[tuple[int, int]]


def corpus(count: int) -> list[str]:
    rng = random.Random(1)
    alphabet = [chr(0x4E00 + number) for number in range(3000)]
    weights = [1 / (rank + 3) for rank in range(len(alphabet))]
    return ["".join(rng.choices(alphabet, weights, k=rng.randint(40, 140))) for _ in range(count)]


def plant(texts: list[str], threshold: float) -> tuple[list[str], Pairs]:
    """The texts with edited copies at their end, and the pairs that should be found."""
    rng, copies, wanted = random.Random(2), list[str](), set()
    for origin in rng.sample(range(len(texts)), len(texts) // 50):
        letters = list(texts[origin])
        for place in rng.sample(range(len(letters)), max(1, len(letters) // 50)):
            letters[place] = rng.choice("天地玄黄宇宙洪荒")
        if similarity.jaccard(texts[origin], "".join(letters)) >= threshold:
            wanted.add((origin, len(texts) + len(copies)))
        copies.append("".join(letters))
    return texts + copies, wanted


def ours(texts: list[str], threshold: float) -> Pairs:
    return {(i, j) for i, j, _ in similarity.near_duplicates(texts, threshold)}


def datasketch(texts: list[str], threshold: float) -> Pairs:
    """The documented way: sketches from `generator`, an index, a query for each text, then exact Jaccard."""
    from datasketch import MinHash, MinHashLSH

    sets = [similarity.shingles(words) for words in texts]
    sketches = list(MinHash.generator(([s.encode() for s in found] for found in sets), num_perm=128))
    index = MinHashLSH(threshold=threshold, num_perm=128)
    found: Pairs = set()
    for j, sketch in enumerate(sketches):
        near = ((int(i), j) for i in index.query(sketch))
        found |= {(i, j) for i, j in near if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold}
        index.insert(j, sketch)
    return found


def measure(
    find: Callable[[list[str], float], Pairs], texts: list[str], wanted: Pairs, threshold: float
) -> list[float]:
    wall, start = time.monotonic(), time.process_time()
    found = find(texts, threshold)
    seconds, wall = time.process_time() - start, time.monotonic() - wall
    wrong = sum(similarity.jaccard(texts[i], texts[j]) < threshold for i, j in found)
    print(
        f"{find.__name__:11} {wall:7.1f} s wall {seconds:7.1f} s CPU {len(texts) / seconds:9.0f} texts/s   "
        f"recall {len(found & wanted) / len(wanted):.4f} of {len(wanted)}   false positives {wrong} of {len(found)}"
    )
    return [wall, seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--threshold", type=float, default=0.7)
    given = parser.parse_args()
    lines = given.file.read_text("utf-8").splitlines() if given.file else []
    texts, wanted = plant([json.loads(line)["text"] for line in lines] or corpus(given.texts), given.threshold)
    similarity.near_duplicates(texts[:2], 0.7)  # NumPy is loaded before the clock starts
    mine, theirs = (measure(find, texts, wanted, given.threshold) for find in (ours, datasketch))
    print(f"datasketch over ours: {theirs[0] / mine[0]:.1f} x wall, {theirs[1] / mine[1]:.1f} x CPU")


if __name__ == "__main__":
    main()
