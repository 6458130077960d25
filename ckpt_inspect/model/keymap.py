"""What becomes of each key of a section: another name, the same, or nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from ..errors import KeyCollisionError, MissingKeyError, UnsupportedError

_MAX_SEGMENTS = 16  # deeper keys are dropped one by one
_GLOB = re.compile(r"[*?\[]")


class KeyMap:
    """Ordered old key -> new key, or None: dropped. Covers every key of one section.

    Attributes:
        pairs: the map, in the section's order.
    """

    def __init__(self, pairs: Mapping[str, str | None]) -> None:
        self.pairs: dict[str, str | None] = dict(pairs)

    @cached_property
    def renamed(self) -> list[tuple[str, str]]:
        """Those that change, in order."""
        return [(old, new) for old, new in self.pairs.items() if new is not None and new != old]

    @cached_property
    def dropped(self) -> list[str]:
        """Keys that are no more."""
        return [old for old, new in self.pairs.items() if new is None]

    @property
    def kept(self) -> int:
        """How many keys stay as they are."""
        return len(self.pairs) - len(self.renamed) - len(self.dropped)

    def is_identity(self) -> bool:
        return self.kept == len(self.pairs)

    def check(self, section: str = "") -> None:
        """
        Raises:
            KeyCollisionError: two keys would have the same name; both are named, and ``section``.
        """
        seen: dict[str, str] = {}
        for old, new in self.pairs.items():
            if new is None:
                continue
            first = seen.setdefault(new, old)
            if first == old:
                continue
            where = f" in {section!r}" if section else ""
            if new in (first, old):
                other = old if new == first else first
                message = f"{other!r} would be named {new!r}, and {new!r} stays{where}"
            else:
                message = f"{first!r} and {old!r} would both be named {new!r}{where}"
            raise KeyCollisionError(message, hint="Give one of them another name, or drop it: --drop GLOB.")

    def inverse(self) -> KeyMap:
        """The way back.

        Raises:
            UnsupportedError: a key was dropped.
            KeyCollisionError: two keys have the same name.
        """
        if self.dropped:
            more = f" and {len(self.dropped) - 1:,} more" if len(self.dropped) > 1 else ""
            raise UnsupportedError(
                f"there is no way back: {self.dropped[0]!r}{more} would be dropped",
                hint="Only a renaming can be reversed; take the dropped keys from the file as it was.",
            )
        self.check()
        return KeyMap({new: old for old, new in self._named()})

    def then(self, after: KeyMap) -> KeyMap:
        """One map for two steps: ``after`` goes on from the new keys.

        Raises:
            MissingKeyError: ``after`` does not know one of them.
        """
        found: dict[str, str | None] = {}
        for old, new in self.pairs.items():
            if new is not None and new not in after.pairs:
                raise MissingKeyError(
                    f"the second map has no key {new!r}", hint="It must cover the names after the first."
                )
            found[old] = None if new is None else after.pairs[new]
        return KeyMap(found)

    # -- as rules -------------------------------------------------------------------------------------

    def rules(self) -> list[str]:
        """A short list of rules that gives this map for these keys: ``module.** -> **``.

        Dropped keys are not in it, see :meth:`drops`.
        """
        return [rule for rule, _ in self._counted]

    def rule_counts(self) -> list[tuple[str, int]]:
        """The same rules, and how many keys each takes."""
        return list(self._counted)

    @cached_property
    def _counted(self) -> list[tuple[str, int]]:
        if not self.renamed:
            return []
        from .shorten import find_rules

        return [(rule, count) for rule, count in find_rules(list(self._named()))]

    def drops(self) -> list[str]:
        """A short list of globs that match just the dropped keys: ``head.*``, ``*.total_ops``."""
        return _globs(self.dropped, [old for old, _ in self._named()])

    def to_file(self) -> str:
        """A file of rules, in TOML. Where nothing is dropped, it knows the way back as well."""
        lists = {"rules": self.rules(), "drop": self.drops()}
        if not self.dropped and len(set(self.pairs.values())) == len(self.pairs):
            lists["reverse"] = self.inverse().rules()
        try:
            "".join(lists["drop"]).encode()
        except UnicodeEncodeError:  # a lone surrogate has no spelling in TOML, nor in a glob; in JSON it has
            return json.dumps(lists, indent=1) + "\n"
        head = f"# renamed: {len(self.renamed):,}, dropped: {len(self.dropped):,}, kept: {self.kept:,}\n"
        return head + "".join(_toml(name, texts) for name, texts in lists.items() if texts or name == "rules")

    def _named(self) -> Iterator[tuple[str, str]]:
        return ((old, new) for old, new in self.pairs.items() if new is not None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyMap) and self.pairs == other.pairs

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"<KeyMap: {len(self.renamed):,} renamed, {len(self.dropped):,} dropped, {self.kept:,} kept>"


def _toml(name: str, texts: list[str]) -> str:
    """An array of strings, one a line. JSON's strings are TOML's, but for the character 127."""
    lines = [f"    {json.dumps(text, ensure_ascii=False)},\n".replace("\x7f", "\\u007f") for text in texts]
    return f"{name} = [\n{''.join(lines)}]\n" if lines else f"{name} = []\n"


def _globs(dropped: list[str], others: Iterable[str]) -> list[str]:
    """Whole subtrees, common last segments and first words where no other key has them, the largest first; then single keys."""
    if not dropped:
        return []
    spoiled = {glob for key in others for glob in _heads_and_tails(key)}
    covers: dict[str, list[str]] = {}
    for key in dropped:
        for glob in _heads_and_tails(key):
            if glob not in spoiled:
                covers.setdefault(glob, []).append(key)
    wide = sorted((glob for glob, keys in covers.items() if len(keys) > 1), key=lambda glob: -len(covers[glob]))
    found: dict[str, str] = {}  # key -> the glob that takes it
    for glob in wide:
        if any(key not in found for key in covers[glob]):
            for key in covers[glob]:
                found.setdefault(key, glob)
    return list(dict.fromkeys(found.get(key) or _literal(key) for key in dropped))


def _heads_and_tails(key: str) -> Iterator[str]:
    """Globs that a key falls under: each subtree that holds it, the largest first, its last segment anywhere,
    and whatever begins with its first word, ``ema_*``."""
    *path, last = key.split(".", _MAX_SEGMENTS)
    head = ""
    yield "*"
    for segment in path:
        head += _literal(segment) + "."
        yield head + "*"
    if path and "." not in last:
        yield "*." + _literal(last)
    word, line, _ = (path[0] if path else last).partition("_")
    if word and line:
        yield _literal(word) + "_*"


def _literal(text: str) -> str:
    return _GLOB.sub(r"[\g<0>]", text)
