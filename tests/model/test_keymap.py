"""Maps of keys, and the rules that they are said in. The oracle: the rules, applied, give the map again."""

from __future__ import annotations

import json
import random
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ckpt_inspect.errors import KeyCollisionError, MissingKeyError, UnsupportedError
from ckpt_inspect.model.keymap import KeyMap
from ckpt_inspect.operations.rules import Rules, load_file

LAYERS = [
    f"layers.{i}.{leaf}" for i in range(12) for leaf in ("attn.q.weight", "attn.q.bias", "norm.weight", "norm.bias")
]
CNN = [f"{name}.{leaf}" for name in ("conv1", "conv2", "fc") for leaf in ("weight", "bias")]

words = st.sampled_from(
    [
        "a", "b", "w", "layers", "module", "norm", "0", "1", "2", "3", "9", "10", "11", "01", "00", "x1", "x2", "x10",
        "1x2", "v1_2", "é", "数", "*", "**", "{", "}", "{n}", "->", "-", ">", "\\", "s/", "s", "#", "s/a/b/", "[", "]",
        "", " ", " a", "a ", "a b", "\t", "\n", "\x7f", "\xa0", "\u202e", "\u3164", "\ud800", "\U0001f600", "9" * 20, "٣",
    ]
)  # fmt: skip
keys = st.one_of(st.lists(words, min_size=1, max_size=5).map(".".join), st.text(max_size=6))
few_words = st.sampled_from(["a", "b", "w", "layers", "module", "0", "1", "2", "3", "10", "x1", "x2"])
plain = st.lists(few_words, min_size=1, max_size=4).map(".".join)
grids = st.builds(
    lambda heads, count, leaves: [f"{head}{i}.{leaf}" for head in heads for i in range(count) for leaf in leaves],
    st.lists(st.sampled_from(["layers.", "a.layers.", "x", "a.x", "s.1.", "s.2.", ""]), min_size=1, max_size=3, unique=True),
    st.integers(1, 6), st.lists(plain, min_size=1, max_size=5, unique=True),
)  # fmt: skip
key_lists = st.one_of(grids, st.lists(plain, unique=True, max_size=40), st.lists(keys, unique=True, max_size=25))
thorough = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def shifted(by: int, begins: int = 0) -> Callable[[str], str]:
    return lambda key: re.sub(
        r"(?<![0-9.])\.([0-9]+)(?=\.)",
        lambda m: f".{int(m[1]) + by}" if begins <= int(m[1]) < 10**9 and str(int(m[1])) == m[1] else m[0],
        key, count=1,
    )  # fmt: skip


def moved(old: str, new: str) -> Callable[[str], str]:
    return lambda key: new + key[len(old) :] if key.startswith(old) else key


def swapped(one: str, other: str) -> Callable[[str], str]:
    return lambda key: other + key[len(one) :] if key.startswith(one) else moved(other, one)(key)


STEPS: list[Callable[[str], str]] = [
    moved("module.", ""), moved("", "module."), moved("a.", "b.c."), moved("layers.", ""), moved("layers.", "x.l."),
    moved("layers.0.", "stem."), moved("a.b.", "a."), swapped("a.", "b."), swapped("layers.1.", "layers.2."),
    shifted(1), shifted(3), shifted(1, begins=1), shifted(1, begins=2), lambda key: key.replace(".w", ".weight"),
    lambda key: key.replace(".a.", ".attention."),
    lambda key: re.sub(r"x([0-9]{1,9})", lambda m: f"x.{2 * int(m[1]) + 1}", key),
]  # fmt: skip


@st.composite
def maps(draw: st.DrawFn) -> KeyMap:
    """Regular steps one after another, a permutation here and there, some new names, some keys dropped."""
    old = draw(key_lists)
    new: list[str | None] = list(old)
    for step in draw(st.lists(st.sampled_from(STEPS), max_size=3)):
        new = [step(key) if key is not None else None for key in new]
    rng = random.Random(draw(st.integers(0, 5)))
    if draw(st.booleans()) and draw(st.booleans()):
        rng.shuffle(new)
    for index in draw(st.lists(st.integers(0, max(len(old) - 1, 0)), max_size=3)) if old else []:
        new[index] = draw(keys)
    share = draw(st.sampled_from([0, 0, 0, 0.1, 0.5, 1]))
    return KeyMap(dict(zip(old, [None if rng.random() < share else key for key in new], strict=True)))


def again(keymap: KeyMap) -> KeyMap:
    return Rules.parse(keymap.rules(), keymap.drops()).keymap(keymap.pairs)


@thorough
@given(maps())
@example(KeyMap({"": "a", "a": "", "a.": ".", ".": "a."}))
@example(KeyMap({"a.1": "a.0", "a.0": "b", "a.01": "a.1"}))
@example(KeyMap({f"h.{i}.w": f"h.{i - 1}.w" if i else "stem.w" for i in range(5)}))
def test_the_rules_of_a_map_give_the_map(keymap: KeyMap) -> None:
    found = again(keymap)
    assert list(found.pairs.items()) == list(keymap.pairs.items())
    assert all(rule.isprintable() for rule in keymap.rules())


@thorough
@given(maps())
def test_counts_are_of_the_keys_that_take_each_rule(keymap: KeyMap) -> None:
    counts = keymap.rule_counts()
    assert [rule for rule, _ in counts] == keymap.rules()
    left = [key for key, new in keymap.pairs.items() if new is not None]
    for text, count in counts:
        (rule,) = Rules.parse([text]).rules
        taken = [key for key in left if rule.matches(key)]
        assert len(taken) == count > 0
        left = [key for key in left if key not in taken]
    assert all(keymap.pairs[key] == key for key in left)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("maps")


@thorough
@given(keymap=maps())
def test_the_file_of_a_map_gives_the_map_and_leads_back(folder: Path, keymap: KeyMap) -> None:
    path = folder / "rules.toml"
    path.write_bytes(keymap.to_file().encode())
    rules = load_file(str(path))
    assert rules.keymap(keymap.pairs) == keymap
    new = list(keymap.pairs.values())
    if not keymap.dropped and len(set(new)) == len(new):
        assert rules.reverse([key for key in new if key is not None]) == keymap.inverse()


@given(st.lists(plain, unique=True, min_size=1, max_size=30), st.integers(0, 9))
def test_laws(old: list[str], seed: int) -> None:
    rng = random.Random(seed)
    first = KeyMap(dict(zip(old, rng.sample(old, len(old)), strict=True)))
    second = KeyMap({key: f"{key}.x" for key in old})
    third = KeyMap({f"{key}.x": None if rng.random() < 0.2 else key for key in old})
    assert first.inverse().inverse() == first
    assert first.then(first.inverse()).is_identity()
    assert first.then(second).then(third) == first.then(second.then(third))
    assert first.then(second).inverse() == second.inverse().then(first.inverse())


# -- what people meet ---------------------------------------------------------------------------------


def by(change: Callable[[str], str], names: list[str]) -> dict[str, str]:
    return {name: change(name) for name in names}


LINES = [
    ("strip", by(lambda k: k[7:], [f"module.{k}" for k in CNN]), ["module.** -> **  6"]),
    ("strip twice", by(lambda k: k[14:], [f"module.module.{k}" for k in CNN]), ["module.module.** -> **  6"]),
    ("strip one of two", by(lambda k: k[7:], [f"module.module.{k}" for k in CNN]), ["module.** -> **  6"]),
    ("strip, one kept", {"n_averaged": "n_averaged", "module.w": "w", "module.x.w": "x.w"}, ["module.** -> **  2"]),
    ("add", by(lambda k: f"module.{k}", CNN), ["** -> module.**  6"]),
    ("add to one", {"weight": "module.weight"}, ["** -> module.**  1"]),
    ("add below", by(moved("fc.", "head.fc."), CNN), ["fc.** -> head.fc.**  2"]),
    ("move", by(moved("layers.", "encoder.layers."), CNN + LAYERS), ["layers.** -> encoder.layers.**  48"]),
    ("swap", {"a.w": "b.w", "a.v": "b.v", "b.w": "a.w", "b.v": "a.v"}, ["a.** -> b.**  2", "b.** -> a.**  2"]),
    ("nothing", by(str, CNN), []),
    ("one", {"conv1.weight": "w", "conv1.bias": "conv1.bias"}, ["conv1.weight -> w  1"]),
    ("shift", by(shifted(1), CNN + LAYERS), ["layers.{n}.** -> layers.{n+1}.**  48"]),
    ("shift back", by(shifted(-1), [shifted(1)(k) for k in LAYERS]), ["layers.{n}.** -> layers.{n-1}.**  48"]),
    ("shift and move", by(lambda k: shifted(2)(k).replace("layers", "h"), LAYERS), ["layers.{n}.** -> h.{n+2}.**  48"]),
    ("first one stays", by(shifted(1, begins=1), LAYERS),
     ["layers.0.** -> layers.0.**  4", "layers.{n}.** -> layers.{n+1}.**  44"]),
    ("last two move", by(shifted(1, begins=10), LAYERS),
     ["layers.10.** -> layers.11.**  4", "layers.11.** -> layers.12.**  4"]),
    ("first one elsewhere", by(lambda k: shifted(-1)(k) if not k.startswith("layers.0.") else f"stem.{k[9:]}", LAYERS),
     ["layers.0.** -> stem.**  4", "layers.{n}.** -> layers.{n-1}.**  44"]),
    ("two are no line", {"conv1.w": "0.w", "conv2.w": "3.w", "fc.w": "6.w"},
     ["conv1.** -> 0.**  1", "conv2.** -> 3.**  1", "fc.** -> 6.**  1"]),
    ("round", by(lambda k: re.sub(r"[0-9]+", lambda m: str(11 - int(m[0])), k), LAYERS),
     ["layers.{n}.** -> layers.{11-n}.**  48"]),
    ("named to numbered", {f"conv{i}.{x}": f"model1.{2 * i - 2}.{x}" for i in (1, 2, 3) for x in ("weight", "bias")},
     ["conv{n}.** -> model1.{2*n-2}.**  6"]),
    ("numbered to named", {f"model1.{2 * i - 2}.{x}": f"conv{i}.{x}" for i in (1, 2, 3) for x in ("weight", "bias")},
     ["model1.{n}.** -> conv{n//2+1}.**  6"]),
    ("in every layer", by(lambda k: k.replace("attn.q", "q_proj"), CNN + LAYERS),
     ["layers.*.attn.q.** -> layers.*.q_proj.**  24"]),
    ("in every layer of every stage", {f"s.{i}.b.{j}.n.w": f"s.{i}.b.{j}.ln.w" for i in range(3) for j in range(3)},
     ["s.*.b.*.n.** -> s.*.b.*.ln.**  9"]),
    ("in every layer, and the rest", by(lambda k: k[6:].replace("norm", "ln"), [f"model.{k}" for k in CNN + LAYERS]),
     ["model.layers.*.norm.** -> layers.*.ln.**  24", "model.** -> **  30"]),
    ("gamma", {f"{p}LayerNorm.gamma": f"{p}LayerNorm.weight" for p in ("", "emb.", "enc.0.att.", "enc.0.out.x.")},
     ["**.gamma -> **.weight  4"]),
    ("wrappers in the middle", {f"{p}._fsdp_wrapped_module.w": f"{p}.w" for p in ("a", "b.c", "d.0", "d.1")},
     ["**._fsdp_wrapped_module.** -> **.**  4"]),
    ("a number, not a name", {"conv0.w": "c.0.w", "conv1.w": "c.1.w", "conv2.w": "c.2.w", "convert.w": "convert.w"},
     ["conv{n}.** -> c.{n+0}.**  3"]),
]  # fmt: skip


@pytest.mark.parametrize(("pairs", "lines"), [line[1:] for line in LINES], ids=[line[0] for line in LINES])
def test_lines_of_the_plan(pairs: dict[str, str], lines: list[str]) -> None:
    keymap = KeyMap(pairs)
    assert [f"{rule}  {count}" for rule, count in keymap.rule_counts()] == lines
    assert again(keymap) == keymap


def test_odd_names_are_spelled_so_that_they_mean_themselves() -> None:
    pairs = {
        "a b": "x",
        " a": "b ",
        "*": "a.*",
        "{n}": "}",
        "a->b": "->",
        "\\": "\\\\",
        "s/a/b/": "s",
        "": "e",
        "é\n": "\ud800",
    }
    assert KeyMap(pairs).rules() == [
        "a b -> x", "\\x20a -> b\\x20", "\\* -> a.\\*", "\\{n\\} -> \\}", "a\\->b -> \\->", "\\\\ -> \\\\\\\\",
        "s\\/a/b/ -> s", " -> e", "é\\x0a -> \\ud800",
    ]  # fmt: skip
    assert again(KeyMap(pairs)) == KeyMap(pairs)


@pytest.mark.parametrize(
    ("dropped", "kept", "globs"),
    [
        (["head.w", "head.b"], ["a.w"], ["head.*"]),
        (["head.w"], ["a.w"], ["head.w"]),
        (["head.w", "head.b"], ["head.c"], ["head.w", "head.b"]),
        (["a.w", "b"], [], ["*"]),
        (["a.inv_freq", "b.c.inv_freq", "x[0]*?.w"], ["a.w"], ["*.inv_freq", "x[[]0][*][?].w"]),
        (["ema_a_w", "ema_b.w", "x"], ["em.w", "a.ema_w"], ["ema_*", "x"]),
        (["ema_a", "ema_b.w"], ["ema_c.w"], ["ema_a", "ema_b.w"]),
        ([], ["a"], []),
    ],
)
def test_globs_of_what_is_dropped(dropped: list[str], kept: list[str], globs: list[str]) -> None:
    keymap = KeyMap({**dict.fromkeys(dropped), **{key: key for key in kept}})
    assert keymap.drops() == globs
    assert again(keymap) == keymap


def test_file() -> None:
    pairs = {"module.a": "a", "module.b": "b", "head.w": None, "head.b": None, "q\x7f": None, "k": "k"}
    text = KeyMap(pairs).to_file()
    assert text == (
        "# renamed: 2, dropped: 3, kept: 1\n"
        'rules = [\n    "module.** -> **",\n]\ndrop = [\n    "head.*",\n    "q\\u007f",\n]\n'
    )
    assert tomllib.loads(text)["drop"][1] == "q\x7f"
    assert json.loads(KeyMap({"a": "b", "\ud800": None}).to_file()) == {"rules": ["a -> b"], "drop": ["\ud800"]}
    assert tomllib.loads(KeyMap({"a.x": "x"}).to_file()) == {"rules": ["a.** -> **"], "reverse": ["** -> a.**"]}
    assert tomllib.loads(KeyMap({"x": "x"}).to_file()) == {"rules": []}


# -- properties and errors ----------------------------------------------------------------------------


def test_properties() -> None:
    keymap = KeyMap({"a": "b", "b": None, "c": "c"})
    assert keymap.renamed == [("a", "b")]
    assert keymap.dropped == ["b"]
    assert keymap.kept == 1
    assert len(keymap) == 3
    assert not keymap.is_identity()
    assert KeyMap({"a": "a"}).is_identity()
    assert KeyMap({}).is_identity()
    assert repr(keymap) == "<KeyMap: 1 renamed, 1 dropped, 1 kept>"
    assert keymap != keymap.pairs


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({"a.x": "x", "b.x": "x"}, "'a.x' and 'b.x' would both be named 'x' in 'model'"),
        ({"a": "b", "b": "b"}, "'a' would be named 'b', and 'b' stays in 'model'"),
        ({"b": "b", "a": "b"}, "'a' would be named 'b', and 'b' stays in 'model'"),
    ],
)
def test_names_that_would_meet(pairs: dict[str, str], message: str) -> None:
    with pytest.raises(KeyCollisionError) as caught:
        KeyMap(pairs).check("model")
    assert caught.value.message == message
    with pytest.raises(KeyCollisionError):
        KeyMap(pairs).inverse()


def test_names_that_do_not_meet() -> None:
    KeyMap({"a": "b", "b": "a", "c": None, "d": None}).check()
    KeyMap({"a": "b", "b": None}).check()


def test_no_way_back_for_what_is_dropped() -> None:
    with pytest.raises(UnsupportedError, match="there is no way back: 'b' and 1 more would be dropped"):
        KeyMap({"a": "b", "b": None, "c": None}).inverse()


def test_steps_that_do_not_fit() -> None:
    with pytest.raises(MissingKeyError, match="the second map has no key 'b'"):
        KeyMap({"a": "b"}).then(KeyMap({"a": "c"}))
