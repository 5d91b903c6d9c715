"""What a sound run leaves behind: its metrics and params, small, of the shape that the stages write."""

from __future__ import annotations

import json
from typing import Any

from anneal.history.revision import Snapshot


def column(score: float, strict: float, **more: Any) -> dict[str, Any]:
    ends = {"score": [score - 0.1, score + 0.1], "strict": [0.1, 0.9], "all_facts": [None, None], "stop_rate": [0.8, 1]}
    base = {
        "n": 4,
        "n_scored": 4,
        "score": score,
        "strict": strict,
        "all_facts": strict,
        "stop_rate": 1.0,
        "name": 1.0,
        "facts": 0.5,
    }
    return {**base, "intervals": ends, "bounds": [score - 1, score + 1], **more}


def gap(mean: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"n": 4, "clusters": 2, "mean": mean, "low": low, "high": high, "se": 0.1, "p": 0.001, "detectable": 0.4}


def preset() -> dict[str, Any]:
    figures = {"strict": gap(0.9, 0.8, 1.0), "rouge_l": gap(0.7, 0.6, 0.8), "distinct_2": 0.31, "distinct_4": 0.52}
    return {**figures, "runs": 1, "self_bleu": 44.5, "overrun": gap(0.0, 0.0, 0.0), "stopped": gap(1.0, 1.0, 1.0)}


def style() -> dict[str, Any]:
    """Texts written as two writers; the first is as near to himself as his noise is, and far from the second."""
    near = {"n": 4, "words": 0.01, "words_noise": 0.02, "auc": 0.55, "type_token": 0.4}
    far = {**near, "words": 0.33, "auc": 0.99}
    writers = {"Li": {"Li": near, "Wu": far}, "Wu": {"Li": far, "Wu": near}}
    return {"n": 8, "authors": writers, "copied": {"n": 8, "median": 4.0, "p95": 9.0, "longest": 12}}


def pair(**more: Any) -> dict[str, Any]:
    """A pair of systems as `prefer` leaves it: the judge keeps to its verdict in both orders."""
    win = {"n": 4, "clusters": 2, "mean": 0.875, "low": 0.6, "high": 0.95, "won": 3, "tied": 1, "lost": 0, "reason": ""}
    orders = {
        "n": 4,
        "consistency": 0.75,
        "low": 0.4,
        "high": 0.9,
        "flips_first": 1,
        "flips_second": 0,
        "half": 0,
        "bias": 1.0,
        "p": 1.0,
        "first_share": 0.5,
        "ties": 1,
        "reason": "",
    }
    made = {"n": 4, "orders": orders, "win": win, "withheld": "", "sentence": "wins 88%", "length_sentence": "wins 80%"}
    even = {"state": "reported", "rate": 0.8, "low": 0.7, "high": 0.9}
    return {
        **made,
        "controlled": even,
        "longer": win,
        "failed": {"n": 0, "pairs_lost": 0, "bounds": [0.875, 0.875]},
        **more,
    }


def card(**more: Any) -> dict[str, Any]:
    """A judge card of the judge that `metrics` has."""
    share = {"n": 40, "mean": 0.925, "low": 0.8, "high": 0.97}
    slope = {"slope": 0.05, "low": -0.1, "high": 0.2, "n": 4, "reason": ""}
    defects = {"fake": {"lower": share, "flagged": share, "higher": {**share, "mean": 0.0}, "held_out": False}}
    made = {"judge_ids": {"ad": "j1"}, "family": [], "defects": defects, "sound": {"n": 4, "unflagged": share}}
    return {**made, "over_rejected": share, "length": slope, "blind_to": [], **more}


def strategy(n: int, auc: float, longer: int) -> dict[str, Any]:
    """A column of the audit of pairs; the longer side is chosen in `longer` of them."""
    near = {"auc": auc, "low": auc - 0.05, "high": min(1.0, auc + 0.05), "reason": ""}
    top = [{"ngram": "！", "side": "rejected", "chosen": 0, "rejected": n}]
    length = {"mean": 4.5, "low": 2.0, "high": 7.0, "longer": longer, "shorter": n - longer, "auc": longer / n}
    return {"n": n, "share": n / 20, "length": length, "ngrams": {**near, "equal": near, "folds": 5, "top": top}}


def drawn(reward: float) -> dict[str, Any]:
    """Metrics of the rollouts of one model: two prompts of four have no spread."""
    share = {"n": 16, "clusters": 2, "mean": reward, "low": reward - 0.1, "high": reward + 0.1, "reason": ""}
    zero = {"n": 2, "share": 0.5}
    functions = {name: {**share, "spread": 0.25, "zero_spread": zero} for name in ("banned", "length")}
    return {
        "n": 4,
        "samples": 4,
        "reward": share,
        "functions": functions,
        "spread": 0.125,
        "constant": [],
        "refusals": [],
        "zero_spread": {**zero, "full": 1, "same": 1},
        "length": {"rho": 0.25, "low": -0.1, "high": 0.5, "reason": ""},
    }


def learnt() -> dict[str, Any]:
    """The metrics of preference learning by DPO, but for what compare and evaluate say of it."""
    share = {"n": 6, "clusters": 2, "mean": 0.75, "low": 0.5, "high": 0.9, "reason": ""}
    flag = "weak: shortcut: character n-grams tell chosen from rejected, AUC 0.990 > 0.95 (at equal length 0.990): !"
    likelier = {"all": share, "fake": share, "weak": share}
    bins = [{"from": 0.5, "to": 0.6, "n": 0, "p": None, "right": None}]
    bins += [
        {"from": 0.6, "to": 0.7, "n": 2, "p": 0.625, "right": 0.5},
        {"from": 0.9, "to": 1.0, "n": 4, "p": 0.96, "right": 1.0},
    ]
    return {
        "pairs": {
            "n": 20,
            "strategies": {"fake": strategy(10, 0.5, 5), "weak": strategy(10, 0.99, 10)},
            "all": strategy(20, 0.8, 15),
            "flags": [{"name": "shortcut", "strategy": "weak", "line": flag}],
        },
        "reward": {
            "n": 6,
            "accuracy": likelier,
            "margin": {kind: {**share, "mean": 1.5} for kind in likelier},
            "calibration": {"n": 6, "bins": bins, "ece": 0.125, "brier": 0.2},
            "warnings": [],
            "refusals": [],
            "length": {"rho": None, "low": None, "high": None, "reason": "no variance: within a type all are equal"},
        },
        "rollout/tuned": drawn(0.5),
        "rollout/aligned": drawn(0.75),
        "align": {
            "method": "dpo",
            "steps": 30,
            "before": {"sum": likelier, "token": likelier},
            "warnings": [],
            "after": {"sum": likelier, "token": likelier, "reward": likelier},
            "logp": {"chosen": {"before": -1.25, "after": -1.0}, "rejected": {"before": -1.5, "after": -3.0}},
        },
    }


def effect(systems: tuple[str, ...], mean: float, state: str) -> dict[str, Any]:
    """A figure of the block `alignment`: each system, and aligned - tuned."""
    share = {"n": 4, "clusters": 2, "mean": 0.25, "low": 0.1, "high": 0.4}
    less = {**gap(mean, mean - 0.1, mean + 0.1), "state": state, "sentence": "", "reason": ""}
    return {"systems": dict.fromkeys(systems, share), "difference": less}


def align(found: dict[str, Any]) -> None:
    """Put an aligned model beside the others: half a point better than the tuned one, and with fewer defects."""
    found |= learnt() | {"judge/aligned": {"n": 4, "outcomes": {"ok": 4}, "judge_ids": {"ad": "j1"}}}
    compare, rolled = found["compare"], ("aligned", "tuned")
    systems = ("golden", *rolled, "base")
    for block in (compare["overall"], *compare["by_type"].values()):
        block["aligned"] = column(4.5, 1.0)
    for block in (compare, *compare["by_type"].values()):
        block["aligned_difference"] = gap(0.5, 0.25, 0.75)
        block["best"]["aligned"] = 1
    compare["preferences"]["pairs"]["aligned:tuned"] = pair()
    compare["alignment"] = {
        "defects": {"banned": effect(systems, -0.2, "lower"), "unsupported": effect(systems, 0.0, "open")},
        "rollouts": {
            "n": {"aligned": 16, "tuned": 16},
            "reward": effect(rolled, 0.25, "higher"),
            "functions": {"length": effect(rolled, -0.3, "lower")},
            "defects": {"banned": effect(rolled, -0.1, "open")},
        },
        "signal": {"rho": 0.5, "low": 0.25, "high": 0.75, "n": 4, "reason": "", "judged": 16, "scored": 15},
        "price": {
            name: {"bits_per_byte": 0.35, "perplexity": 1.5, "distinct_2": 0.3, "distinct_4": 0.5, "length": 1.05}
            for name in systems
        },
    }
    for key in ("rules", "stops", "copies", "likelihood", "decoding", "layouts", "verses", "styles"):
        found["evaluate"][key]["aligned"] = found["evaluate"][key]["tuned"]


def metrics(aligned: bool = False) -> dict[str, Any]:
    """What a sound run leaves, with preference learning or without; small, but of the shape that the stages write."""
    systems = {"golden": column(4.5, 1.0), "tuned": column(4.0, 0.75), "base": column(1.5, 0.0)}
    best = {"golden": 2, "tuned": 1, "base": 0, "tie": 1, "n": 4}
    block = {
        **systems,
        "difference": gap(2.5, 2.2, 2.8) | {"p_holm": 0.002},
        "to_golden": gap(-0.5, -1, 0.1),
        "best": best,
        "passes": {
            "strict": {"n": 4, "both": 0, "only_left": 3, "only_right": 0, "neither": 1, "p": 0.25, "reason": ""}
        },
    }
    share = {"n": 4, "clusters": 2, "mean": 0.75, "se": 0.1, "low": 0.5, "high": 0.9}
    rules = {"strict": share, "all_facts": share, "type": share, "by_type": {}}
    names = ("golden", "tuned", "base")
    found = {
        "compare": {
            "overall": systems,
            **{key: block[key] for key in ("to_golden", "best", "passes")},
            "difference": gap(2.5, 2.2, 2.8),
            "by_type": {"ad": block, "note": block},
            "score_kind": "model score",
            "clusters": 2,
            "judge_ids": {"ad": "j1"},
            "controls": {"swapped": {**share, "mean": 0.0}},
            "shares": ["strict"],
            "dims": {"ad": {"facts": gap(1.5, 1.0, 2.0) | {"p_holm": 0.02}}},
            "preferences": {
                "pairs": {"tuned:base": pair()},
                "controls": {},
                "matrix": {"tuned": {"base": pair()["win"]}},
            },
            "repeats": {
                "tuned": {"n": 2, "times": 3, "same": 0.5, "sd": 0.125, "alpha": None, "reason": "no variance"}
            },
            "judge_controls": {
                "null": {**share, "mean": 1.0, "golden": 4.5, "at_golden": 0.0, "reason": ""},
                "again": {**share, "mean": 4.5, "golden": 4.5, "at_golden": 1.0, "reason": ""},
            },
        },
        "evaluate": {
            "n": 4,
            "rules": dict.fromkeys(names, rules),
            "controls": {"swapped": {**share, "mean": 0.0}},
            "stops": {name: {"stopped": share, "looped": share} for name in names},
            "copies": {name: {"near": share, "exact": share} for name in names},
            "likelihood": {"tuned": {"bits_per_byte": 0.31}, "base": {"bits_per_byte": 1.5}},
            "accepted": {"strict": {**share, "mean": 1.0}, "type": share},
            "decoding": {
                "tuned": {
                    "greedy": preset(),
                    "sample": {
                        **preset(),
                        "runs": 3,
                        "less_first": {
                            "strict": gap(-0.05, -0.1, 0.02),
                            "rouge_l": gap(-0.2, -0.3, -0.1),
                            "stopped": gap(0, None, None),
                        },
                    },
                }
            },
            "layouts": {name: {"strict": share, "mended": share, "components": 0.8} for name in names},
            "verses": {name: {"rhyme": {**share, "mean": 0.625}, "unknown": 7} for name in names},
            "styles": {name: style() for name in names},
        },
        "judge/golden": {"n": 4, "judge_ids": {"ad": "j1"}, "tokens": {"in": 900, "out": 100}},
        "judge/tuned": {
            "n": 4,
            "outcomes": {"ok": 3, "parse_error": 1},
            "judge_ids": {"ad": "j1"},
            "by_type": {"ad": {"dims": {"facts": {"n": 2, "score": 4.25}}}},
        },
        "prefer": {"n": 8, "outcomes": {"ok": 8}},
        "card": card(),
        "accept": {
            "n": 4,
            "accepted": {**share, "mean": 1.0},
            "first": share,
            "none": {"n": 0, "share": 0.0},
            "rungs": {
                "constrained": {"open": 0, "candidates": 0, "accepted": 0, "share": 0.0},
                "first": {"open": 4, "candidates": 4, "accepted": 3, "share": 0.75},
                "temperature 0.3": {"open": 1, "candidates": 2, "accepted": 1, "share": 0.25},
            },
            "attempts": {"p50": 1, "p95": 3},
            "tokens": 100,
            "tokens_per_accepted": 25.0,
            "rejections": {"length": 1, "type": 2},
        },
        "generate": {
            "n": 40,
            "pii": {"found": {"email": 2, "id_card": 1}, "texts": 2, "of": 14},
            "essays": {"documents": 3, "chunks": 14, "short": 1, "dropped": {"tables": 2}},
        },
        "clean": {"n": 40, "failing": 0, "failed": {"timeout": 2}, "tokens": {"in": 250, "out": 50}},
        "filter": {
            "n": 40,
            "kept": 30,
            "dropped": {"type": 6, "density": 4},
            "types": {"ad": {"n": 20, "kept": 15}},
            "features": {
                "length": {
                    "p5": 2.0,
                    "p5_kept": 2.0,
                    "p50": 3.0,
                    "p50_kept": 3.0,
                    "p95": 4.0,
                    "p95_kept": 3.5,
                    "ks": 0.25,
                    "mean": 3.0,
                },
                "rare": {},
            },
            "density": {
                "n": 34,
                "percentile": 10.0,
                "threshold": -8.5,
                "features": ["length"],
                "curve": {
                    "p10": {"threshold": -8.5, "kept": 30, "least": {"ad": 0.7}},
                    "p2": {"threshold": -9.0, "kept": 33, "least": {"ad": 0.9}},
                },
                "names": {
                    "colour": {
                        "total_variation": 0.125,
                        "names": {
                            "red": {
                                "n": 30,
                                "kept": 29,
                                "share": 0.9,
                                "share_kept": 0.97,
                                "retention": 0.97,
                                "flagged": False,
                            },
                            "blue": {
                                "n": 4,
                                "kept": 1,
                                "share": 0.1,
                                "share_kept": 0.03,
                                "retention": 0.25,
                                "flagged": True,
                            },
                        },
                    }
                },
                "lowest_kept": [{"id": "a1/ad/0", "log_prob": -8.4, "text": "A text that just stays."}],
                "highest_dropped": [{"id": "a2/ad/0", "log_prob": -8.6, "text": "A long text. " * 99}],
            },
        },
        "format": {
            "rows": 29,
            "over_length": {"rows": 0, "share": 0.0},
            "tasks": {},
            "masks": {"rows": 29, "masked": 29, "stop_learnt": 29},
            "tokens": {"prompt": {"p50": 12, "max": 20}, "completion": {"p50": 40, "max": 90}},
            "budget": {
                "fields": {"system": 100, "user": 200, "template": 100, "completion": 1600, "total": 2000},
                "repeated": 0,
                "warnings": ["one wording only: write more into wordings.md"],
            },
        },
        "split": {
            "records": {"train": 20, "validation": 5, "test": 4},
            "certificate": {
                "shared_items": 0,
                "crossing_pairs": 0,
                "near_duplicate": 0.7,
                "test_in_train": {"jaccard": 0.4, "alike": ["a/1", "b/1"], "containment": 0.5},
            },
        },
        "train": {
            "steps": 30,
            "validation_loss": {"best": 0.51},
            "tokens": {"learnt": 1100},
            "parameters": {"trainable": 100_000},
        },
        "merge": {"prompts": 8, "largest_difference": 0.00002, "tolerance": 0.001, "greedy_match": 1.0},
    }
    if aligned:
        align(found)
    # Through JSON, so that the parts above are shared by nobody.
    copied: dict[str, Any] = json.loads(json.dumps(found))
    return copied


PARAMS: dict[str, Any] = {
    "recipe": "toy",
    "seed": 1,
    "types": {"ad": "An ad", "note": "A note"},
    "generate": {"pii": "mask"},
    "train": {"lr": 0.001, "epochs": 12, "batch_size": 4, "accumulation": 1, "packing": None},
    "accept": {"checks": ["type", "length"], "temperatures": [0.3]},
    "filter": {"density": {"log": ["length"]}},
    "answer": {"presets": {"greedy": {}, "sample": {}}},
    "privacy": {"local_only": True},
    "judge": {"max_failed": 0.25},
    "compare": {"tie": 0.05, "margin": 0.1},
    "audit": {"max_shortcut_auc": 0.95},
    "rewards": {"weights": {"banned": 1.0, "length": 0.5}},
}


def sound(aligned: bool = False, **edits: Any) -> Snapshot:
    """The sound run, calibrated with people, with one metric set: `compare__overall__tuned__stop_rate=0.5`."""
    found = metrics(aligned) | {"human": {"label": {"judge": {"uncalibrated": ""}}}}
    for place, value in edits.items():
        *way, last = place.split("__")
        target: Any = found
        for key in way:
            target = target[key]
        target[last] = value
    return Snapshot("here", "", found, PARAMS)
