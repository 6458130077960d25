"""Rules together, the way back, files of rules, and what is said of rules that cannot be followed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckpt_inspect.errors import FileError, MissingFileError, RuleError
from ckpt_inspect.operations.rules import Rules, load_file

# -- rules together -----------------------------------------------------------------------------------


def test_the_first_rule_that_matches_the_original_key_counts() -> None:
    rules = Rules.parse(["a.** -> b.**", "b.** -> a.**"])
    assert rules.keymap(["a.x", "b.x", "c"]).pairs == {"a.x": "b.x", "b.x": "a.x", "c": "c"}
    rules = Rules.parse(["a.x -> y", "a.** -> b.**"])
    assert rules.keymap(["a.z", "a.x"]).pairs == {"a.z": "b.z", "a.x": "y"}


def test_many_rules_are_found_as_few_are() -> None:
    keys = [f"l.{i}.{j}.w" for i in range(20) for j in range(3)] + ["l.5", "q", "", "l.19.1"]
    texts = [f"l.{i}.0.w -> x.{i}" for i in range(0, 20, 2)] + [f"l.{i}.** -> m.{i}.**" for i in range(18)]
    texts += ["l.*.2.* -> *.*", "** -> rest.**", "q -> never"]
    rules = Rules.parse(texts)
    found = rules.keymap(keys, allow_unused=True)
    for key in keys:
        assert found.pairs[key] == next(filter(None, (rule.match(key) for rule in rules.rules)))


def test_drop_and_keep() -> None:
    keys = ["a.w", "a.b", "b.w", "num_batches_tracked"]
    assert Rules.parse(["a.** -> **"], drop=["*.b"]).keymap(keys).dropped == ["a.b"]
    assert Rules.parse([], keep=["a.*", "b*"]).keymap(keys).dropped == ["num_batches_tracked"]
    assert Rules.parse(["b.** -> **"], drop=["*.b"], keep=["*.w", "a.*"]).keymap(keys).pairs == {
        "a.w": "a.w", "a.b": None, "b.w": "w", "num_batches_tracked": None,
    }  # fmt: skip
    assert Rules.parse(drop=["a[!w.]*"]).keymap(["A.w", "a.w", "ax"]).dropped == ["ax"]


def test_what_matches_nothing() -> None:
    keys = ["module.conv1.weight", "module.conv1.bias"]
    for rules, what, hint in [
        (Rules.parse(["modul.** -> **"]), "rule 'modul.** -> **' matches no key", "Did you mean 'module'?"),
        (Rules.parse(["x.** -> **"]), "rule 'x.** -> **' matches no key", "The keys begin with 'module'."),
        (Rules.parse(["s/x/y/"]), "rule 's/x/y/' matches no key", "The keys begin with"),
        (Rules.parse(drop=["module.conv2.*"]), "drop 'module.conv2.*' matches no key", "Did you mean 'module.conv1'?"),
        (Rules.parse(keep=["head.*"]), "keep 'head.*' matches no key", "The keys begin with"),
        (
            Rules.parse(["** -> x.**", "module.conv1.** -> y.**"]),
            "rule 'module.conv1.** -> y.**': never comes to its turn: '** -> x.**' before it takes"
            " 'module.conv1.weight' and 1 more",
            "put this one before it",
        ),
    ]:
        with pytest.raises(RuleError) as caught:
            rules.keymap(keys)
        assert caught.value.message == what
        assert hint in (caught.value.hint or "")
        rules.keymap(keys, allow_unused=True)
    with pytest.raises(RuleError, match="There are no keys"):
        Rules.parse(["a -> b"]).keymap([])
    Rules.parse(["module.conv1.** -> x.**"], drop=["module.conv1.*"]).keymap(keys)  # matches, though all are dropped


def test_rules_add_up() -> None:
    rules = Rules.parse(["a -> b"], drop=["x"]) + Rules.parse(["c -> d"], keep=["y"])
    assert rules == Rules.parse(["a -> b", "c -> d"], ["x"], ["y"])
    assert (Rules.parse(["a -> b"], back=["b -> a"]) + Rules.parse(drop=["x"])).back
    assert not (Rules.parse(["a -> b"], back=["b -> a"]) + Rules.parse(["c -> d"])).back
    assert repr(rules.rules[0]) == "Rule('a -> b')"
    assert len({*rules.rules, *rules.rules}) == 2


# -- the way back -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "keys"),
    [
        (["module.** -> **"], ["module.a", "module.b.c"]),
        (["** -> module.**"], ["a", "module.b"]),
        (["a.** -> b.**", "b.** -> a.**"], ["a.x", "b.x", "b.y", "c"]),
        (["conv{n}.* -> model1.{2*n-2}.*"], ["conv1.w", "conv2.w", "conv10.w", "fc.w"]),
        (["l.0.** -> l.0.**", "l.{n}.** -> l.{n+1}.**"], ["l.0.w", "l.1.w", "l.2.w"]),
        (["l.{n}.** -> l.{11-n}.**"], ["l.0.w", "l.1.w"]),
        (["l.{n}.w -> {n+1}.{n}.w"], ["l.0.w", "l.1.w"]),
        (["l.{a}.x.{n}.* -> {n}.*.{a}.{3*(n+1)}"], ["l.q.x.0.w", "l.q.x.1.w"]),
        (["*.a.** -> **.a.*"], ["x.a.b.c"]),
    ],
)
def test_reverse(rules: list[str], keys: list[str]) -> None:
    forward = Rules.parse(rules).keymap(keys)
    new = [key for _, key in forward.pairs.items() if key is not None]
    assert Rules.parse(rules).reverse(new) == forward.inverse()


@pytest.mark.parametrize(
    ("rules", "keys", "what"),
    [
        (Rules.parse(["s/a/b/"]), ["b"], "a regular expression cannot be turned round"),
        (Rules.parse(["*.w -> w"]), ["w"], "cannot be turned round: NEW does not say what * was"),
        (Rules.parse(["l.{n}.w -> {n//2}.w"]), ["0.w"], "cannot be turned round: NEW does not say what {n} was"),
        (Rules.parse(["**.a.** -> **.b.**"]), ["x.b.c"], "cannot be turned round: NEW could be read in several ways"),
        (Rules.parse(["{a}.{b} -> {a}_{b}"]), ["x_b"], "cannot be turned round: NEW could be read in several ways"),
        (Rules.parse(["a.** -> c.**", "b.** -> c.**"]), ["c.w"], "'c.w' may have been 'a.w' or 'b.w'"),
        (Rules.parse(["a.** -> c.**"]), ["a.w", "c.w"], "'a.w' is no name that these rules give"),
        (Rules.parse(["a.** -> c.**"]), ["b.w"], "rule 'a.** -> c.**', reversed, matches no key"),
        (Rules.parse(["a.{n} -> b.{n+1}"]), ["b.0"], "rule 'a.{n} -> b.{n+1}', reversed, matches no key"),
        (Rules.parse(["a.** -> c.**"], drop=["x.*"]), ["c.w"], "there is no way back from drop 'x.*'"),
        (
            Rules.parse(["a -> c"], back=["c -> b"]),
            ["c"],
            "the way back would name 'c' 'b', and the rules make that 'b'",
        ),
    ],
)
def test_no_way_back(rules: Rules, keys: list[str], what: str) -> None:
    with pytest.raises(RuleError) as caught:
        rules.reverse(keys)
    assert what in caught.value.message


def test_a_saved_map_leads_back_where_its_rules_alone_would_not(tmp_path: Path) -> None:
    saved = tmp_path / "rules.toml"
    for rules, keys in [(["s/_/./"], ["a_b", "c.d"]), (["a.** -> c.**", "b.** -> c.**"], ["a.x", "b.y", "c.z"])]:
        forward = Rules.parse(rules).keymap(keys)
        saved.write_text(forward.to_file())
        assert load_file(str(saved)).reverse([new for new in forward.pairs.values() if new]) == forward.inverse()


# -- files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'rules = ["a.** -> b.**"]  # one\ndrop = ["x*"]\n# {\n',
        '\ufeff# {"rules"}\n\ndrop = ["x*"]\nrules = [\n  "a.** -> b.**",\n]\n',
        '{"rules": ["a.** -> b.**"], "drop": ["x*"]}',
        '// one\n# two\n{ // three\n"rules": ["a.** -> b.**"], # four "\n "drop": ["x*"] // "five\n}',
    ],
)
def test_a_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "rules").write_text(text, encoding="utf-8")
    assert load_file(str(tmp_path / "rules")) == Rules.parse(["a.** -> b.**"], ["x*"])


def test_comment_marks_in_strings_are_no_comments(tmp_path: Path) -> None:
    (tmp_path / "rules").write_text(r'{"rules": ["a//b\"// -> c#d"]}')
    assert load_file(str(tmp_path / "rules")).keymap(['a//b"//']).pairs == {'a//b"//': "c#d"}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b'rule = ["a -> b"]', "there is no list called 'rule' in a file of rules"),
        (b'rules = "a -> b"', "'rules' is not a list of strings"),
        (b'{"drop": [1]}', "'drop' is not a list of strings"),
        (b'{"rules": [], "rules": []}', "a name stands twice"),
        (b'rules = ["a"]', "rule 'a': has no arrow"),
        (b"rules = [", "this is no file of rules: "),
        (b'{"rules"', "this is no file of rules: "),
        (b"\x80\x02}q", "this is no file of rules: "),
        (b'{"a":' * 100_000, "this is no file of rules: "),
        (b"a = " + b"[" * 100_000, "this is no file of rules: "),
        (b'["a -> b"]', "there is no list called 'a -> b' in a file of rules"),
    ],
)
def test_what_is_no_file_of_rules(tmp_path: Path, data: bytes, what: str) -> None:
    path = str(tmp_path / "rules.toml")
    Path(path).write_bytes(data)
    with pytest.raises(RuleError) as caught:
        load_file(path)
    assert what in caught.value.message
    assert caught.value.path == path


def test_a_file_beyond_all_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckpt_inspect.operations.rules._LARGEST_FILE", 1 << 20)
    (tmp_path / "model.pt").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(RuleError, match="it has more than 1 MB"):
        load_file(str(tmp_path / "model.pt"))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        load_file(str(tmp_path / "none"))
    with pytest.raises(FileError):
        load_file(str(tmp_path))
