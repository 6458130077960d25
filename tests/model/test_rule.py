"""The grammar of rules, as the design has it, against slower ways of saying the same."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ckpt_inspect.errors import RuleError
from ckpt_inspect.model import arithmetic
from ckpt_inspect.model.pattern import sides, translate
from ckpt_inspect.model.rule import Rule
from ckpt_inspect.operations.rules import Rules

thorough = settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("rule", "key", "new"),
    [
        ("module.** -> **", "module.conv1.weight", "conv1.weight"),
        ("module.** -> **", "module.weight", "weight"),
        ("module.** -> **", "module.module.weight", "module.weight"),
        ("module.** -> **", "module.", ""),
        ("module.** -> **", "module", None),
        ("module.** -> **", "sa_module.mlp", None),
        ("module.** -> **", "x.module.mlp", None),
        ("** -> module.**", "weight", "module.weight"),
        ("** -> module.**", "", "module."),
        ("a.* -> b.*", "a.x", "b.x"),
        ("a.* -> b.*", "a.x.y", None),
        ("a.* -> b.*", "a.", "b."),
        ("*.w.** -> **.*", "a.w.b.c", "b.c.a"),
        ("a.*.b.* -> *.c.*", "a.1.b.2", "1.c.2"),
        ("**.x.** -> **.y.**", "a.x.b.x.c", "a.y.b.x.c"),
        ("**.x.** -> **.y.**", "x.b", None),
        ("**.** -> **.m.**", "a.b.c", "a.m.b.c"),
        ("**.weight -> **.w", "a.weight.weight", "a.weight.w"),
        ("conv{n}.* -> model1.{2*n-2}.*", "conv3.bias", "model1.4.bias"),
        ("conv{n}.* -> model1.{2*n-2}.*", "conv10.bias", "model1.18.bias"),
        ("conv{n}.* -> model1.{2*n-2}.*", "convx.bias", None),
        ("layers.{n}.** -> blocks.{n+1}.**", "layers.9.a.b", "blocks.10.a.b"),
        ("layers.{n}.** -> blocks.{n+1}.**", "layers.x.a.b", None),
        ("layers.{n}.** -> blocks.{n}.**", "layers.x.a.b", "blocks.x.a.b"),
        ("layer_{n}.w -> {n}.{ n // 2 }.{n%2}", "layer_07.w", "07.3.1"),
        ("a.{n} -> a.{n+0}", "a.007", "a.7"),
        ("a.{n} -> a.{n+1}", "a.٣", None),
        ("a.{n} -> a.{n+1}", f"a.{'9' * 19}", None),
        ("{a}{b}.w -> {a}.{b}.w", "xyz.w", "x.yz.w"),
        ("{a}_{b}.w -> {a}.{b}.w", "x_y_z.w", "x.y_z.w"),
        ("{a}_{b}.w -> {a}.{b}.w", "_y.w", None),
        ("{a}{n} -> {n+0}{a}", "conv10", "10conv"),
        ("{n}{a} -> {a}{n+1}", "10a", "a11"),
        ("{a}.w -> x{a}.w", ".w", "x.w"),
        ("a.{n} -> a.{9-(n+1)*2}", "a.2", "a.3"),
        ("a.{n} -> a.{-n+5}", "a.2", "a.3"),
        ("a -> b", "a", "b"),
        ("a->b", "a", "b"),
        ("a -> b", "a.x", None),
        ("*.weight -> weight", "fc.weight", "weight"),
        ("a b -> c  d", "a b", "c  d"),
        ("\\ a\\  -> \\ ", " a ", " "),
        ("\\*.\\{n\\} -> \\\\\\->", "*.{n}", "\\->"),
        ("a\\.b -> c\\n\\x41\\u00e9\\U0001f600", "a.b", "c\nAé\U0001f600"),
        ("a\nb -> c", "a\nb", "c"),
        ("s/^module\\.//", "module.a", "a"),
        ("s/^module\\.//", "a.module.a", None),
        ("s/(\\d+)/<\\1>/", "a.1.b.2", "a.<1>.b.<2>"),
        ("s/(?P<x>a)/\\g<x>\\g<x>/", "ba", "baa"),
        ("s/a\\/b/c\\/d/", "a/b", "c/d"),
        ("s|a\\|b|c\\|d|", "a|b", "c|d"),
        ("s|a\\|b|c\\|d|", "a", None),
        ("s#\\\\#/#", "a\\b", "a/b"),
        ("s/$/.x/", "a", "a.x"),
        ("  s/a/b/ ", "a", "b"),
        ("s\\/a -> b", "s/a", "b"),
        ("s -> t", "s", "t"),
        ("s1.** -> **", "s1.s", "s"),
        ("s.** -> **", "s.x", "x"),
    ],
)
def test_a_rule_and_a_key(rule: str, key: str, new: str | None) -> None:
    parsed = Rule.parse(rule)
    assert parsed.match(key) == new
    assert parsed.matches(key) == (new is not None)
    assert key.startswith(parsed.head) or new is None


@pytest.mark.parametrize(
    ("rule", "what", "hint"),
    [
        ("module.", "has no arrow", "Write OLD -> NEW"),
        ("a -> b -> c", "has two arrows", "\\->"),
        ("module.** ->", "NEW is empty", "prefix.** -> **"),
        ("a.*** -> b", "*** means nothing", "\\*"),
        ("a{ -> b", "a { has no partner", "\\{"),
        ("a} -> b", "a } has no partner", "\\}"),
        ("a -> b\\", "ends in a lone backslash", "\\\\"),
        ("layer\\d -> b", "\\d means nothing", "s/regex/replacement/"),
        ("\\UFFFFFFFF -> b", "there is no character", None),
        ("conv*.w -> x", "* stands for whole segments, not for a part of conv*", "conv{x}"),
        ("a.** -> b**", "** stands for whole segments, not for a part of b**", "b{x}"),
        ("a.* -> *.*", "NEW has 2 *, OLD has 1", "in order"),
        ("a.* -> **", "NEW has 1 **, OLD has 0", "in order"),
        ("*.*.w -> *.w", "NEW repeats 1 of the 2 * of OLD: which is meant?", "{a} and {b}"),
        ("**.a.** -> **", "NEW repeats 1 of the 2 ** of OLD: which is meant?", "s/regex/replacement/"),
        ("{n+1}.w -> w", "{n+1} in OLD is no name", "NEW computes"),
        ("{}.w -> w", "{} in OLD is no name", "{n}"),
        ("{n}.{n} -> w", "{n} stands twice in OLD", "another name"),
        ("{n}.w -> {m}.w", "NEW uses {m}, which OLD does not give", "OLD gives {n}."),
        ("a.w -> {m+1}.w", "NEW uses {m}, which OLD does not give", "OLD gives no names."),
        ("a.{n} -> a.{}", "{} is empty", "+ - * // % and ( )"),
        ("a.{n} -> a.{n/2}", "{n/2} uses / where // is meant", "//"),
        ("a.{n} -> a.{n**2}", "{n**2} lacks a number or a name before '*'", "+ - *"),
        ("a.{n} -> a.{(n+1}", "{(n+1} lacks a closing parenthesis", "+ - *"),
        ("a.{n} -> a.{n+}", "{n+} ends too early", "+ - *"),
        ("a.{n} -> a.{n 2}", "{n 2} does not go on with '2' there", "+ - *"),
        ("a.{n} -> a.{n.real}", "{n.real} has '.real', which is no arithmetic", "+ - *"),
        ("a.{n} -> a.{" + "(" * 100 + "n}", "is longer than 100 characters", "+ - *"),
        ("a{n}1 -> a{n+1}", "{n}1: nothing tells where the number ends", "all the digits"),
        ("a{n}{m} -> a{n+m}", "{n}{m}: nothing tells where the number ends", "all the digits"),
        ("s/a/b", "is no regular expression with its replacement", "s/regex/replacement/"),
        ("s/a/b/g", "is no regular expression with its replacement", "nothing after it"),
        (
            "s/x.** -> b.**",
            "is no regular expression with its replacement",
            "A name that begins with s/ is written s\\/",
        ),
        ("s/(/b/", "Python's re says: missing )", "re.sub"),
        ("s/a/\\2/", "Python's re says: invalid group reference", "\\1"),
        ("s/a/\\g<x>/", "Python's re says: unknown group name", "\\g<name>"),
        ("s/a{1,99999999999}/b/", "Python's re says:", "re.sub"),
    ],
)
def test_what_is_no_rule(rule: str, what: str, hint: str | None) -> None:
    with pytest.raises(RuleError) as caught:
        Rule.parse(rule)
    assert caught.value.message.startswith(f"rule '{rule}': ")
    assert what in caught.value.message
    assert (hint or "") in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("rule", "key", "what"),
    [
        ("a.{n} -> a.{n-1}", "a.0", "{n-1} is -1 for 'a.0': an index cannot be negative"),
        ("a.{n} -> a.{7//n}", "a.0", "{7//n} divides by zero for 'a.0'"),
        ("a.{n} -> a.{7%(n-1)}", "a.1", "{7%(n-1)} divides by zero for 'a.1'"),
        ("a.{n} -> a.{n*n*n}", f"a.{10**17}", f"{{n*n*n}} gets too large for 'a.{10**17}'"),
    ],
)
def test_keys_without_a_new_name(rule: str, key: str, what: str) -> None:
    with pytest.raises(RuleError) as caught:
        Rule.parse(rule).match(key)
    assert caught.value.message == f"rule '{rule}': {what}"
    assert caught.value.hint == f"To leave that key as it is, put a rule before this one: '{key} -> {key}'"
    assert Rules.parse([f"{key} -> {key}", rule]).keymap([key, "a.2"], allow_unused=True).pairs[key] == key


# -- against slower ways ------------------------------------------------------------------------------

pieces = st.sampled_from(["a", "b", "1", "x", "_", "{}", "{}", "{#}"])
segments = st.one_of(
    st.sampled_from(["*", "**", "{}", "a", "1", ""]), st.lists(pieces, min_size=1, max_size=5).map("".join)
)
small_keys = st.lists(st.text("ab12x_", max_size=5), min_size=1, max_size=6).map(".".join)


@thorough
@given(st.lists(segments, min_size=1, max_size=5), st.lists(small_keys, min_size=1, max_size=20))
@example(["{}{#}x"], ["1y22x", "12x", "1x2x"])
@example(["**", "{}1{#}", "**", "a"], ["1.a11.a.a", "a12.a", "x.112.b.a"])
def test_matching_agrees_with_plain_backtracking(side: list[str], keys: list[str]) -> None:
    """Lazy groups that may be tried again say what "the shortest that fits, from the left" is."""
    names = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    numbered = iter(f"n{i}" for i in range(99))
    old = [re.sub(r"\{#?\}", lambda m: f"{{{next(numbered if '#' in m[0] else names)}}}", text) for text in side]
    numbers = set(re.findall(r"\{(n[0-9]+)\}", ".".join(old)))
    try:
        Rule.parse(f"{'.'.join(old)} -> x.{'.'.join(f'{{{name}+0}}' for name in numbers)}")
    except RuleError as error:
        assert "where the number ends" in error.message or not numbers  # noqa: PT017
        return
    fast, groups = translate(sides(f"{'.'.join(old)} -> x")[0], numbers)
    slow = []
    for text in old:
        if text in ("*", "**"):
            slow.append("([^.]*)" if text == "*" else "(.*?)")
        elif re.fullmatch(r"\{[a-zA-Z]\}", text):
            slow.append("([^.]*)")
        else:
            text = re.sub(r"\{n[0-9]+\}", "([0-9]{1,18})(?![0-9])", text)
            slow.append(re.sub(r"\{[a-zA-Z]\}", "([^.]+?)", text))
    for key in keys:
        one, other = re.fullmatch(fast, key, re.DOTALL), re.fullmatch(r"\.".join(slow), key, re.DOTALL)
        assert (one and one.groups()) == (other and other.groups())
        assert one is None or len(one.groups()) == len(groups)


@pytest.mark.parametrize(
    "rule",
    [
        "{a}{b}{c}_{d}_{e}.** -> x",
        "{a}{b}.*.**.{c}x{d}x{e}x.** -> x",
        "**.a.**.a.**.a.**.b -> x",
        "{a}{n}{b}{m}{c}.w -> {n+m}",
        "**.*.**.*.**.w.* -> x",
    ],
)
def test_no_rule_takes_long(rule: str) -> None:
    parsed = Rule.parse(rule)
    for key in (
        "_" * 100_000,
        "a." * 50_000,
        "1" * 100_000 + ".w",
        "1x" * 50_000 + ".v",
        "a.x" + "x" * 100_000 + "." * 9,
    ):
        parsed.match(key)


expressions = st.recursive(
    st.one_of(st.integers(0, 20).map(str), st.sampled_from(["n", "m"])),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%", " + "]), inner).map("".join),
        inner.map("({})".format),
        inner.map("-{}".format),
    ),
    max_leaves=8,
)


@thorough
@given(expressions, st.integers(0, 50), st.integers(0, 50))
def test_arithmetic_agrees_with_python(text: str, n: int, m: int) -> None:
    if len(text) > 100:
        return
    parsed = arithmetic.parse(text)
    try:
        expected = eval(text, {"n": n, "m": m})
    except ZeroDivisionError:
        with pytest.raises(ArithmeticError):
            arithmetic.value(parsed, {"n": n, "m": m})
        return
    assert arithmetic.value(parsed, {"n": n, "m": m}) == expected
    line = arithmetic.linear(parsed)
    if line is not None:
        name, factor, constant = line
        assert factor * {"n": n, "m": m}[name] + constant == expected
        assert eval(arithmetic.solved(*line), {name: expected}) == {"n": n, "m": m}[name]
