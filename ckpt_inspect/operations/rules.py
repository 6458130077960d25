"""Rules together: which key takes which, what is dropped, the way back, and files of rules (design 2, Rules)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import translate
from typing import Any, NoReturn

from ..errors import FileError, MissingFileError, RuleError
from ..model.keymap import KeyMap
from ..model.rule import Rule

__all__ = ["Rule", "RuleError", "Rules", "load_file"]

_LISTS = ("rules", "drop", "keep", "reverse")
_LARGEST_FILE = 64 << 20
_FEW = 8  # rules that are simply tried one after the other
_DEEPEST = 8  # segments that the index of rules looks at


@dataclass(frozen=True)
class Rules:
    """What is to become of keys.

    Attributes:
        rules: each key takes the first that matches it as it is in the file.
        drop: globs of keys that are left out, whatever the rules say of them.
        keep: globs; if there are any, all other keys are left out.
        back: rules that lead back, from the file of a map; without any, they are worked out.
    """

    rules: tuple[Rule, ...] = ()
    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    back: tuple[Rule, ...] = ()

    @classmethod
    def parse(
        cls, rules: Iterable[str] = (), drop: Iterable[str] = (), keep: Iterable[str] = (), back: Iterable[str] = ()
    ) -> Rules:
        """Rules from their text.

        Raises:
            RuleError: one of them is malformed; it is quoted.
        """
        return cls(tuple(map(Rule.parse, rules)), tuple(drop), tuple(keep), tuple(map(Rule.parse, back)))

    def __add__(self, more: Rules) -> Rules:
        """These, then ``more``. The way back is kept only if nothing has to be worked out anew."""
        mine = [one for one in (self, more) if one.rules]
        back = mine[0].back if len(mine) == 1 else ()
        return Rules(self.rules + more.rules, self.drop + more.drop, self.keep + more.keep, back)

    def keymap(self, keys: Iterable[str], *, allow_unused: bool = False) -> KeyMap:
        """What becomes of each key.

        Raises:
            RuleError: a rule or glob matches nothing (unless ``allow_unused``), or an index would be negative.
        """
        keys = list(dict.fromkeys(keys))
        gone = self._gone(keys, allow_unused)
        first = _First(self.rules)
        used: set[int] = set()
        pairs: dict[str, str | None] = {}
        for key in keys:
            if key in gone:
                pairs[key] = None
                continue
            index, pairs[key] = first.match(key)
            used.add(index)
        if not allow_unused:
            for index, rule in enumerate(self.rules):
                if index not in used:
                    self._check_unused(index, rule, keys, gone)
        return KeyMap(pairs)

    def _gone(self, keys: list[str], allow_unused: bool) -> set[str]:
        gone: set[str] = set()
        for name, globs in (("drop", self.drop), ("keep", self.keep)):
            found = set()
            for glob in globs:
                matches = re.compile(translate(glob)).match
                matched = [key for key in keys if matches(key)]
                if not matched and not allow_unused:
                    _refuse_unused(f"{name} '{glob}'", glob, keys)
                found.update(matched)
            if globs:
                gone |= found if name == "drop" else set(keys) - found
        return gone

    def _check_unused(self, index: int, rule: Rule, keys: list[str], gone: set[str]) -> None:
        """No key took the rule: say whether none matches, or those before it took them all."""
        matched = [key for key in keys if rule.matches(key)]
        if not matched:
            old = rule.text.partition("->")[0].strip()
            _refuse_unused(f"rule '{rule.text.strip()}'", old, keys)
        if gone.issuperset(matched):
            return
        key = next(key for key in matched if key not in gone)
        before = next(one for one in self.rules[:index] if one.matches(key))
        rule.refuse(
            f"never comes to its turn: '{before.text.strip()}' before it takes {key!r}"
            + (f" and {len(matched) - 1:,} more" if len(matched) > 1 else ""),
            "The first rule that matches counts: put this one before it.",
        )

    # -- the way back ---------------------------------------------------------------------------------

    def reverse(self, keys: Iterable[str], *, allow_unused: bool = False) -> KeyMap:
        """The way back: ``keys`` are names that these rules gave; each gets the one that it had.

        It is worked out for each key and tried forwards. A key that could have been renamed was, rather than left
        as it was; the file of a map knows better (``back``).

        Raises:
            RuleError: it cannot be told, or there are several ways.
        """
        keys = list(dict.fromkeys(keys))
        if self.drop or self.keep:
            what = "drop" if self.drop else "keep"
            raise RuleError(
                f"there is no way back from {what} '{(self.drop or self.keep)[0]}'",
                hint="What was dropped is in the file as it was. For the names alone, reverse the rules without it.",
            )
        if not self.back:
            pairs = self._worked_out(keys, allow_unused)
        else:
            back = Rules(self.back).keymap(keys, allow_unused=allow_unused).pairs
            pairs = {new: old for new, old in back.items() if old is not None}
        first = _First(self.rules)
        for new, old in pairs.items():
            again = first.match(old)[1]
            if again != new:
                raise RuleError(
                    f"the way back would name {new!r} {old!r}, and the rules make that {again!r}",
                    hint="These rules did not give the names in this file, or `reverse` beside them is not theirs.",
                )
        return KeyMap(pairs)

    def _worked_out(self, keys: list[str], allow_unused: bool) -> dict[str, str]:
        inverses = [rule.inverse() for rule in self.rules]
        first, back = _First(self.rules), _First(inverses)
        used: set[int] = set()
        pairs: dict[str, str] = {}
        for key in keys:
            origins: dict[str, int] = {}
            for index in back.candidates(key):
                old = _origin(inverses[index], key)
                if old is not None and _forward(first, old) == (index, key):
                    origins.setdefault(old, index)
            if len(origins) > 1:
                one, other = list(origins)[:2]
                raise RuleError(
                    f"{key!r} may have been {one!r} or {other!r}",
                    hint="Keep the map with --save-rules when it is applied, and reverse that file.",
                )
            if not origins and _forward(first, key)[0] >= 0:
                raise RuleError(
                    f"{key!r} is no name that these rules give",
                    hint="Are these the old names? Then leave out --reverse.",
                )
            pairs[key] = next(iter(origins), key)
            used.update(origins.values())
        for index, rule in enumerate(inverses):
            if index not in used and not allow_unused:
                _refuse_unused(
                    f"rule '{self.rules[index].text.strip()}', reversed,", rule.text.partition("->")[0], keys
                )
        return pairs


def _origin(inverse: Rule, key: str) -> str | None:
    try:
        return inverse.match(key)
    except RuleError:  # a negative index: the rule did not give this name
        return None


def _forward(first: _First, key: str) -> tuple[int, str | None]:
    try:
        return first.match(key)
    except RuleError:
        return -2, None


class _First:
    """Finds the first rule that matches; many rules are looked up by what their keys begin with."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._all = range(len(rules))
        self._literal: dict[str, list[int]] = {}
        self._heads: dict[str, list[int]] = {}
        self._found: dict[str, list[int]] = {}  # by the first segments of a key
        self._depth = 0
        for index, rule in enumerate(rules):
            if rule.literal is not None:
                self._literal.setdefault(rule.literal, []).append(index)
            else:
                segments = rule.head.split(".")[:-1][:_DEEPEST]
                self._depth = max(self._depth, len(segments))
                self._heads.setdefault("".join(f"{segment}." for segment in segments), []).append(index)

    def match(self, key: str) -> tuple[int, str]:
        """The rule's place and the new name; -1 and ``key`` where none matches."""
        for index in self.candidates(key):
            new = self._rules[index].match(key)
            if new is not None:
                return index, new
        return -1, key

    def candidates(self, key: str) -> Sequence[int]:
        """The rules that may match, in order."""
        if len(self._rules) <= _FEW:
            return self._all
        segments = key.split(".", self._depth)[:-1]
        beginning = ".".join(segments)
        found = self._found.get(beginning)
        if found is None:
            heads = [""] + [".".join(segments[:depth]) + "." for depth in range(1, len(segments) + 1)]
            found = self._found[beginning] = sorted(index for head in heads for index in self._heads.get(head, ()))
        literal = self._literal.get(key)
        return sorted(found + literal) if literal else found


def _refuse_unused(what: str, pattern: str, keys: list[str]) -> NoReturn:
    """Raise: ``what`` matches no key; name close ones."""
    words = pattern.strip().removesuffix(".**").removesuffix(".*")
    depth = words.count(".") + 1
    names = list(dict.fromkeys(".".join(key.split(".", depth)[:depth]) for key in keys))[:10_000]
    close = get_close_matches(words, names, n=3, cutoff=0.6)
    if close:
        hint = f"Did you mean {' or '.join(map(repr, close))}?"
    else:
        hint = f"The keys begin with {', '.join(map(repr, names[:3]))}." if names else "There are no keys."
    error = RuleError(f"{what} matches no key", hint=hint)
    error.unused = True
    raise error


# -- files --------------------------------------------------------------------------------------------


def load_file(path: str) -> Rules:
    """Rules from a file: TOML, or JSON if it begins with a brace. Both may have comments.

    Raises:
        FileError: the file cannot be read.
        RuleError: it is no file of rules, or a rule in it is malformed; the file and what is wrong are named.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError as error:
        raise MissingFileError("there is no such file", path=path) from error
    except OSError as error:
        raise FileError(error.strerror or str(error), path=path) from error
    table = _table(path, data)
    for name, texts in table.items():
        if name not in _LISTS:
            close = get_close_matches(name, _LISTS, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"A file of rules has {', '.join(_LISTS)}."
            raise RuleError(f"there is no list called {name!r} in a file of rules", path=path, hint=hint)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise RuleError(
                f"{name!r} is not a list of strings",
                path=path,
                hint=f'Write {name} = ["…", "…"], or in JSON "{name}": […]',
            )
    try:
        return Rules.parse(*(table.get(name, ()) for name in _LISTS))
    except RuleError as error:
        error.path = path
        raise


def _table(path: str, data: bytes) -> dict[str, Any]:
    try:
        if len(data) > _LARGEST_FILE:
            raise ValueError(f"it has more than {_LARGEST_FILE >> 20} MB")
        text = data.decode("utf-8-sig")
        return (_json if _COMMENT.sub(_blank, text).lstrip()[:1] == "{" else _toml)(text)
    except (ValueError, RecursionError) as error:
        raise RuleError(
            f"this is no file of rules: {error or 'it is nested too deeply'}",
            path=path,
            hint='In TOML: rules = ["module.** -> **"]; in JSON: {"rules": ["module.** -> **"]}.',
        ) from error


def _toml(text: str) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(text)


_COMMENT = re.compile(r'("(?:\\.|[^"\\\n])*+"?)|(?://|\#)[^\n]*')


def _blank(match: re.Match[str]) -> str:
    return match[1] or ""


def _json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_COMMENT.sub(_blank, text), object_pairs_hook=_once)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found
