"""Masks against a truth written by hand: for each template its pieces, for each conversation what must be learnt."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from anneal.dataset import chat_template
from anneal.dataset.chat_template import Unmaskable
from anneal.errors import UserError

TEMPLATES = Path(__file__).parent / "templates"
Talk = tuple[str, list[tuple[str, str]]]  # a system text or "", and (user, assistant) turns


def same(text: str) -> str:
    return text


@dataclass(frozen=True)
class Truth:
    """The pieces of a template, by hand. `turn` closes a turn; `free` may stand before the output, learnt or not."""

    system: Callable[[str], str]
    user: Callable[[str], str]
    header: str
    stop: str
    close: str = ""  # text before the stop
    after: str = ""  # text after the stop when another turn follows
    begin: str = ""
    answer: str | None = None  # header of an earlier assistant turn where it is not the generation prompt
    free: str = ""
    said: Callable[[str], str] = same  # the output as rendered
    first: Callable[[str, str], str] | None = None  # a first user turn that takes the system text in
    last: Callable[[str, str], str] | None = None  # a last user turn that does
    ends: str | None = None  # text after an earlier output where it is not close + stop + after
    middle: str | None = None  # the stop of an earlier turn where it is not the last one's
    eos: str = ""
    extra: tuple[str, ...] = ()  # further special tokens
    words: tuple[str, ...] = ()  # added tokens that are not special
    listed: tuple[str, ...] = ()  # eos of generation_config.json
    refuses: Callable[[Talk], bool] = field(default=lambda _talk: False)


def im(role: str) -> Callable[[str], str]:
    return lambda text: f"<|im_start|>{role}\n{text}<|im_end|>\n"


def head(role: str) -> Callable[[str], str]:
    return lambda text: f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>"


def bar(role: str, end: str) -> Callable[[str], str]:
    return lambda text: f"<|{role}|>\n{text}{end}\n"


IM = {
    "system": im("system"),
    "user": im("user"),
    "header": "<|im_start|>assistant\n",
    "stop": "<|im_end|>",
    "after": "\n",
    "extra": ("<|im_start|>",),
}
HEAD = {
    "header": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "stop": "<|eot_id|>",
    "begin": "<s>",
    "extra": ("<|start_header_id|>", "<|end_header_id|>"),
}
THINK = ("<think>", "</think>")


def mentions(talk: Talk, word: str = "</think>") -> bool:
    return any(word in answer for _, answer in talk[1])


TRUTHS: dict[str, Truth] = {
    "chatml": Truth(**IM, eos="<|im_end|>", words=THINK),
    # eos is not what the template writes, as in a base checkpoint: the stop must be found all the same.
    "default_system": Truth(
        **IM,
        eos="<|endoftext|>",
        words=THINK,
    ),
    "headers": Truth(
        system=lambda t: head("system")(t.strip()),
        user=lambda t: head("user")(t.strip()),
        said=str.strip,
        eos="<|eot_id|>",
        **HEAD,
    ),
    "always_on": Truth(system=head("system"), user=head("user"), eos="<|end_of_text|>", **HEAD),
    "inst_sys": Truth(
        system=lambda _: "",
        user=lambda t: f"<s>[INST] {t.strip()} [/INST]",
        header="",
        free=" ",
        close=" ",
        stop="</s>",
        said=str.strip,
        eos="</s>",
        answer=" ",
        first=lambda s, u: f"<s>[INST] <<SYS>>\n{s}\n<</SYS>>\n\n{u.strip()} [/INST]",
        extra=("<s>",),
    ),
    "inst_last": Truth(
        system=lambda _: "",
        user=lambda t: f"[INST]{t}[/INST]",
        header="",
        begin="<s>",
        stop="</s>",
        eos="</s>",
        last=lambda s, u: f"[INST]{s}\n\n{u}[/INST]",
        extra=("[INST]", "[/INST]"),
    ),
    "turn_markers": Truth(
        system=same,
        user=lambda t: f"<start_of_turn>user\n{t.strip()}<end_of_turn>\n",
        begin="<s>",
        header="<start_of_turn>model\n",
        stop="<end_of_turn>",
        after="\n",
        said=str.strip,
        eos="<eos>",
        extra=("<start_of_turn>",),
        refuses=lambda talk: talk[0] != "",
    ),
    "swallowing": Truth(
        system=bar("system", "<|end|>"),
        user=bar("user", "<|end|>"),
        header="<|assistant|>\n",
        stop="<|end|>",
        after="\n",
        eos="<|endoftext|>",
        extra=("<|assistant|>", "<|user|>", "<|system|>"),
    ),
    "word_markers": Truth(
        system=bar("system", "</s>"),
        user=bar("user", "</s>"),
        header="<|assistant|>\n",
        stop="</s>",
        after="\n",
        eos="</s>",
    ),
    "plain_roles": Truth(
        system=lambda t: t + " ",
        user=lambda t: f"USER: {t} ",
        header="ASSISTANT:",
        free=" ",
        stop="</s>",
        eos="</s>",
    ),
    "instruction": Truth(
        system=lambda t: t + "\n\n",
        user=lambda t: f"### Instruction:\n{t}\n\n",
        header="### Response:\n",
        stop="</s>",
        ends="\n\n",
        eos="</s>",
    ),
    "never_closed": Truth(
        system=lambda t: f"<|system|>\n{t}",
        user=lambda t: f"<|user|>\n{t}",
        header="<|assistant|>\n",
        begin="[gMASK]<sop>",
        stop="<|endoftext|>",
        eos="<|endoftext|>",
        listed=("<|endoftext|>", "<|user|>"),
        extra=("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"),
        ends="",
        middle="<|user|>",
    ),
    "opened_think": Truth(
        system=same,
        user=lambda t: f"<|User|>{t}",
        header="<|Assistant|><think>\n",
        answer="<|Assistant|>",
        begin="<s>",
        stop="</s>",
        eos="</s>",
        extra=("<|User|>", "<|Assistant|>"),
        words=THINK,
        refuses=mentions,
    ),
    "forgotten_think": Truth(
        **IM,
        eos="<|im_end|>",
        words=THINK,
        said=lambda t: t.lstrip("\n"),
        free="<think>\n\n</think>\n\n",
        answer="<|im_start|>assistant\n",
        refuses=lambda talk: "mentions" in talk[1][-1][1],
    ),
    "trimming": Truth(
        **{**IM, "system": lambda t: im("system")(t.strip()), "user": lambda t: im("user")(t.strip())},
        said=str.strip,
        eos="<|im_end|>",
    ),
    "no_system": Truth(
        system=lambda _: "",
        user=lambda t: f"<|user|>{t}<|end|>",
        header="<|assistant|>",
        begin="<s>",
        stop="<|end|>",
        eos="<|endoftext|>",
        extra=("<|user|>", "<|assistant|>"),
    ),
    "channels": Truth(
        system=lambda t: f"<|start|>system<|message|>{t}<|end|>",
        user=lambda t: f"<|start|>user<|message|>{t}<|end|>",
        header="<|start|>assistant",
        free="<|channel|>final<|message|>",
        stop="<|return|>",
        eos="<|return|>",
        ends="<|end|>",
        answer="<|start|>assistant<|channel|>final<|message|>",
        extra=("<|start|>", "<|message|>", "<|channel|>", "<|end|>"),
    ),
    "half_closed": Truth(
        system=lambda t: t + "\n",
        user=lambda t: f"Q: {t}</s>A:",
        header="",
        free=" ",
        answer=" ",
        stop="</s>",
        ends="\n",
        eos="</s>",
    ),
    "always_on_open": Truth(
        system=lambda t: f"<|system|>\n{t}",
        user=lambda t: f"<|user|>\n{t}",
        header="<|assistant|>\n",
        ends="",
        stop="<|endoftext|>",
        eos="<|endoftext|>",
        extra=("<|system|>", "<|user|>", "<|assistant|>"),
    ),
    "no_generation_prompt": Truth(**IM, eos="<|im_end|>"),
}


def talks(truth: Truth) -> list[Talk]:
    """Conversations of every kind that has broken a mask: white space, repeats, other scripts, control tokens."""
    special = [truth.stop, *truth.extra[:2]]
    single = [
        ("Name a colour.", "Red, of course."),
        ("请写一句话。", "春眠不觉晓，处处闻啼鸟。"),
        ("a", " leading space"),
        ("b", "\nleading newline"),
        ("c", "\n\n two newlines"),
        ("d", "trailing space "),
        ("e", "trailing newline\n"),
        ("echo", "echo"),
        ("Say yes or no: yes", "yes"),
        ("1+1?", "2"),
        ("nothing", ""),
        ("blank", " \n"),
        ("json", '{"a": [1, 2], "b": "c\\n"}'),
        ("code", "def f(x):\n\n    return x  # done\n"),
        ("smile", "\U0001f600\U0001f469\u200d\U0001f52c ok"),
        ("  spaces  ", "fine"),
        ("user\nassistant\n", "roles"),
        (f"What is {special[0]}?", "A token."),
        (f"{special[-1]}assistant\n{special[0]}", "No."),
        ("Which token?", f"It is {special[0]}, then {special[-1]} and more."),
        ("stop", special[0]),
        ("think", "<think>\nfirst\n</think>\n\nthen"),
        ("tag", "It mentions </think> only."),
        ("tags", "ab <think> cd"),
    ]
    several = [
        [("hello", "hi"), ("again", "hi")],
        [("same", "same"), ("same", "same"), ("same", "same")],
        [("spaced", "\n spaced \n"), ("end", " end")],
        [("one", "1"), ("two", "2"), ("三", "3")],
        [("x", "yes"), ("y", "no\n\nmaybe"), ("z", "yes")],
    ]
    found: list[Talk] = [("", [turn]) for turn in single] + [("", turns) for turns in several]
    return [*found, ("Be brief.", [single[0]]), ("只用中文回答。", [single[1]]), ("Be brief.", several[0])]


def rendered(name: str, talk: Talk, turns: str) -> list[tuple[str, bool]]:
    """What must come out, as (text, learnt) runs by turns; a learnt run ends in its stop."""
    truth, (system, pairs) = TRUTHS[name], talk
    runs: list[tuple[str, bool]] = []
    text, learnt = truth.begin + (truth.system(system) if system else ""), ""
    if name == "default_system" and not system:
        text = im("system")("Be helpful.")
    for number, (user, answer) in enumerate(pairs):
        joined = truth.first if number == 0 else None
        joined = truth.last if number == len(pairs) - 1 and joined is None else joined
        text += joined(system, user) if system and joined else truth.user(user)
        if number == len(pairs) - 1:
            break
        ends = truth.close + truth.stop + truth.after if truth.ends is None else truth.ends
        text += truth.header + truth.free if truth.answer is None else truth.answer
        if turns == "last":
            text += truth.said(answer) + ends
            continue
        runs.append((text.removeprefix(learnt), False))
        learnt = truth.close + (truth.middle or truth.stop)
        runs.append((truth.said(answer) + learnt, True))
        text = ends
    runs.append((text.removeprefix(learnt) + truth.header, False))
    return [*runs, (truth.said(pairs[-1][1]) + truth.close + truth.stop, True)]


CORPUS = [
    "\n\n",
    "\n\n\n",
    "\n leading",
    "\n\nleading",
    ": Red",
    ":Red",
    "\nRed, of course.",
    ":\nRed",
    ": yes",
    "] hi",
] * 20
CORPUS += [
    "assistant\n",
    "assistant\n\n",
    "ASSISTANT:",
    "[/INST]",
    "### Response:\n",
    "春眠不觉晓",
    "请写一句话。",
] * 20


def byte_level(joining: bool) -> Any:
    """Byte-level BPE as most models have it; a joining one has merges across words, spaces and newlines."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not joining)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return inner


def sentence_piece() -> Any:
    """A Llama-2 kind of tokenizer: a space before the first word of every text, bytes for unknown characters."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    merges = [("\u2581", "R"), ("e", "d"), ("\u2581", "h"), ("\n", "\n")]
    pieces = ["<unk>", *(f"<0x{n:02X}>" for n in range(256)), "\u2581", "\n", *map(chr, range(33, 127))]
    pieces += [left + right for left, right in merges]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return inner


KINDS: dict[str, Callable[[], Any]] = {
    "plain": lambda: byte_level(joining=False),
    "joining": lambda: byte_level(joining=True),
    "sentence_piece": sentence_piece,
}


@functools.cache
def tokenizer(name: str, kind: str) -> Any:
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    truth, inner = TRUTHS[name], KINDS[kind]()
    special = sorted({truth.stop, truth.eos, "<s>", "<pad>", *truth.extra, *truth.listed})
    # Phi-3's control tokens swallow the white space after them, also that of an output.
    swallow = name == "swallowing"
    inner.add_special_tokens([AddedToken(word, special=True, normalized=False, rstrip=swallow) for word in special])
    inner.add_tokens([AddedToken(word, special=False, normalized=False) for word in truth.words])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=truth.eos, bos_token="<s>", pad_token="<pad>")
    made.chat_template = (TEMPLATES / f"{name}.jinja").read_text("utf-8")
    if truth.listed:
        folder = Path(tempfile.mkdtemp())
        listed = [made.convert_tokens_to_ids(word) for word in truth.listed]
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": listed}))
        made.name_or_path = str(folder)
    return made


def messages(talk: Talk) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    system, pairs = talk
    flat = [{"role": "system", "content": system}] if system else []
    for user, answer in pairs:
        flat += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return flat[:-1], flat[-1:]


def text_of(made: Any, ids: list[int]) -> str:
    """The text of tokens in the middle of a row; SentencePiece would strip the space of a first word."""
    lead = made("x", add_special_tokens=False)["input_ids"]
    return str(made.decode(lead + ids, clean_up_tokenization_spaces=False)).removeprefix("x")


def runs_of(row: chat_template.Encoded) -> Iterator[tuple[list[int], bool]]:
    """Runs of equal learning, cut after each stop that a run ends in."""
    start = 0
    for at in range(1, len(row.ids) + 1):
        if at == len(row.ids) or (row.labels[at] == chat_template.IGNORE) != (
            row.labels[start] == chat_template.IGNORE
        ):
            yield row.ids[start:at], row.labels[start] != chat_template.IGNORE
            start = at


def squeeze(text: str) -> str:
    return "".join(text.split())


def agrees(name: str, kind: str, made: Any, row: chat_template.Encoded, talk: Talk, turns: str) -> None:
    """Every run has the text that was written down by hand, and ends in the stop's id."""
    truth, wanted = TRUTHS[name], rendered(name, talk, turns)
    got = list(runs_of(row))
    assert [learnt for _, learnt in got] == [learnt for _, learnt in wanted]
    # These decode to another white space than they were given, whatever is masked.
    loose: Callable[[str], str] = squeeze if name == "swallowing" or kind == "sentence_piece" else same
    for number, ((ids, learnt), (text, _)) in enumerate(zip(got, wanted, strict=True)):
        last = number == len(got) - 1
        if not learnt:
            assert loose(text_of(made, ids)) == loose(text)
            continue
        # SentencePiece puts a space after an added token, also inside an output.
        inside = truth.free.strip() or any(word in text for word in THINK)
        shape = squeeze if kind == "sentence_piece" and inside else same
        # What the template puts before an output has to be there too, or inference meets a text it never saw.
        own = name == "forgotten_think" and text.startswith("<think>")
        free = truth.free if last and not own else ""
        assert shape(text_of(made, ids)) == shape(free + text)
        stop = truth.stop if last or truth.middle is None else truth.middle
        assert ids[-1] == made.convert_tokens_to_ids(stop)
        special = {number for number, token in made.added_tokens_decoder.items() if token.special}
        assert not set(ids[:-1]) & special or truth.free.strip()
    assert [label for label in row.labels if label != chat_template.IGNORE] == [
        i for ids, learnt in got if learnt for i in ids
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TRUTHS)
def test_masks_are_exact_and_stops_are_learnt(name: str, kind: str) -> None:
    made, truth, done = tokenizer(name, kind), TRUTHS[name], 0
    literal = list(made.added_tokens_encoder)
    for talk in talks(truth):
        prompt, completion = messages(talk)
        for turns in ("last", "all"):
            if truth.refuses(talk):
                with pytest.raises(Unmaskable):
                    chat_template.encode(made, prompt, completion, turns)
                continue
            row = chat_template.encode(made, prompt, completion, turns)
            agrees(name, kind, made, row, talk, turns)
            done += 1
        if not truth.refuses(talk):
            row = chat_template.encode(made, prompt, completion)
            assert chat_template.prompt_ids(made, prompt) == row.ids[: row.prompt]
            if not any(word in message["content"] for message in prompt for word in literal):
                seen = made(rendered(name, talk, "last")[0][0], add_special_tokens=False)["input_ids"]
                assert row.ids[: row.prompt] == seen, "inference sees other tokens"
    assert done >= 2 * 25


def encoded(name: str, kind: str) -> list[chat_template.Encoded | Unmaskable]:
    made, found = tokenizer(name, kind), []
    for talk in talks(TRUTHS[name]):
        try:
            found.append(chat_template.encode(made, *messages(talk)))
        except Unmaskable as err:
            found.append(err)
    return found


def test_straddles_happen_here_and_never_reach_a_row() -> None:
    counts = {
        kind: sum(
            "straddle" in row.notes
            for name in TRUTHS
            for row in encoded(name, kind)
            if isinstance(row, chat_template.Encoded)
        )
        for kind in ("plain", "joining")
    }
    assert counts["plain"] >= 10
    assert counts["joining"] >= 40
    made = tokenizer("chatml", "joining")
    prompt, completion = messages(("", [("c", "\n\n two newlines")]))
    joint = made.apply_chat_template([*prompt, *completion], tokenize=True, return_dict=False)
    row = chat_template.encode(made, prompt, completion)
    assert joint[: row.prompt] != row.ids[: row.prompt]
    assert made.decode(row.ids) == made.decode(joint).removesuffix("\n")


@pytest.mark.parametrize("name", TRUTHS)
def test_no_text_becomes_a_control_token(name: str) -> None:
    made, truth, done = tokenizer(name, "plain"), TRUTHS[name], 0
    special = {number for number, token in made.added_tokens_decoder.items() if token.special}
    words = sorted(token.content for token in made.added_tokens_decoder.values() if token.special)
    assert len(words) >= 3
    for word in words:
        for user, answer in ((f"a {word} b", "no"), ("what", f"a {word}"), (word, word), (word * 2, word * 2)):
            row = chat_template.encode(made, *messages(("", [(user, answer)])))
            clean = chat_template.encode(made, *messages(("", [("x", "y")])))
            assert [i for i in row.ids if i in special] == [i for i in clean.ids if i in special]
            assert "sanitised" in row.notes
            assert truth.said(answer) in made.decode(row.ids[row.prompt :])
            done += 1
    assert done == 4 * len(words)


def test_notes_tell_what_a_template_does() -> None:
    def notes(name: str, talk: Talk) -> frozenset[str]:
        return chat_template.encode(tokenizer(name, "plain"), *messages(talk)).notes

    plain: Talk = ("", [("hello", "hi")])
    assert notes("chatml", plain) == frozenset()
    assert notes("instruction", plain) == {"stop_appended"}
    assert notes("never_closed", plain) == {"stop_appended"}
    assert notes("trimming", ("", [("hello", " hi\n")])) == {"trimmed"}
    assert notes("no_system", ("Be brief.", [("hello", "hi")])) == {"dropped"}
    assert notes("opened_think", plain) == {"mismatch"}
    assert notes("inst_last", ("Be brief.", [("hello", "hi")])) == {"mismatch"}, "training text lacks the system"


@pytest.mark.parametrize("name", TRUTHS)
def test_stops_begin_with_the_one_the_template_writes(name: str) -> None:
    made, truth = tokenizer(name, "plain"), TRUTHS[name]
    wanted = dict.fromkeys([truth.stop, truth.eos, *truth.listed])
    assert chat_template.stop_ids(made) == made.convert_tokens_to_ids(list(wanted))


def test_the_stop_is_an_id_even_where_its_text_is_not_seen_as_one() -> None:
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    inner = byte_level(joining=False)
    inner.add_special_tokens([AddedToken("</s>", special=True, normalized=False, single_word=True)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    made.chat_template = (TEMPLATES / "plain_roles.jinja").read_text("utf-8")
    joint = made.apply_chat_template([{"role": "assistant", "content": "hi"}], tokenize=True, return_dict=False)
    assert made.eos_token_id not in joint
    row = chat_template.encode(made, *messages(("", [("hello", "hi")])))
    assert row.labels[-1] == row.ids[-1] == made.eos_token_id


def test_a_text_that_a_normaliser_turns_into_a_control_token_is_refused() -> None:
    from tokenizers import AddedToken, normalizers
    from transformers import PreTrainedTokenizerFast

    inner = byte_level(joining=False)
    inner.normalizer = normalizers.NFKC()
    inner.add_special_tokens([AddedToken("</s>", special=True, normalized=True)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    made.chat_template = (TEMPLATES / "plain_roles.jinja").read_text("utf-8")
    wide = "a \uff1c/s\uff1e b"
    assert made.eos_token_id in made(wide)["input_ids"]
    for talk in ((wide, "b"), ("a", wide)):
        with pytest.raises(Unmaskable, match="cannot be kept"):
            chat_template.encode(made, *messages(("", [talk])))


def test_a_date_in_the_template_is_the_same_every_day() -> None:
    made = copy.deepcopy(tokenizer("chatml", "plain"))
    made.chat_template = "{{ strftime_now('%d %b %Y') + '\n' }}" + made.chat_template
    assert made.decode(chat_template.prompt_ids(made, [{"role": "user", "content": "a"}])).startswith(
        "26 Jul 2024\n<|im_start|>"
    )


def test_an_entity_that_a_template_names_stays_a_word() -> None:
    made = tokenizer("word_markers", "plain")
    before = chat_template.prompt_ids(made, [{"role": "user", "content": "a"}])
    assert chat_template.stop_ids(made) == [made.eos_token_id]
    from tokenizers import AddedToken

    made = copy.deepcopy(made)
    made.add_tokens([AddedToken("assistant", special=False)])
    after = chat_template.prompt_ids(made, [{"role": "user", "content": "an assistant"}])
    assert after.count(made.convert_tokens_to_ids("assistant")) == 2
    assert len(before) > 3


def test_a_row_is_refused_with_its_reason() -> None:
    made = tokenizer("forgotten_think", "plain")
    thought = "<think>\nfirst\n</think>\n\nthen"
    prompt, completion = messages(("", [("a", thought), ("b", "c")]))
    assert chat_template.encode(made, prompt, completion).stops == 1
    with pytest.raises(Unmaskable, match="earlier assistant turn"):
        chat_template.encode(made, prompt, completion, "all")
    with pytest.raises(Unmaskable, match="drops or rewrites"):
        chat_template.encode(tokenizer("opened_think", "plain"), *messages(("", [("a", thought)])))
    with pytest.raises(Unmaskable, match="System role not supported"):
        chat_template.encode(tokenizer("turn_markers", "plain"), *messages(("Be brief.", [("a", "b")])))
    with pytest.raises(Unmaskable, match="does not end with an assistant turn"):
        chat_template.encode(made, completion, prompt[:1])
    with pytest.raises(Unmaskable, match="without text"):
        chat_template.encode(made, [{"role": "user"}], completion)
    bare = copy.copy(made)
    bare.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        chat_template.encode(bare, prompt, completion)


def test_the_report_counts_every_row() -> None:
    made, rows = tokenizer("turn_markers", "plain"), encoded("turn_markers", "plain")
    facts = chat_template.report(rows, chat_template.stop_ids(made))
    assert facts["rows"] == len(rows) == facts["masked"] + 3
    assert facts["stop_learnt"] == facts["masked"]
    assert facts["refused"] == {"the chat template refuses the conversation: System role not supported": 3}
    assert facts["notes"]["trimmed"] == 8
    assert facts["notes"]["sanitised"] == 4
    row = chat_template.encode(made, *messages(("", [("a", "b")])))
    broken = dataclasses.replace(row, labels=[*row.labels[:-1], chat_template.IGNORE])
    assert chat_template.report([row, broken], chat_template.stop_ids(made))["stop_learnt"] == 1
