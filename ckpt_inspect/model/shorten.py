"""Many alike rules made one: ``layers.0.** -> layers.1.**``, ``layers.1.** -> layers.2.**``, … is ``{n} -> {n+1}``.

A wider rule is taken only if it is right for every key that it matches and no rule before it took. So it can stand
before all that are left, whatever they are, and those whose keys it takes are not needed any more.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

from ..errors import RuleError
from .arithmetic import shifted
from .moves import Move, find_moves
from .pattern import escape, write
from .rule import Rule

_LAST_NUMBER = re.compile(r"(|.*[^0-9])([0-9]{1,18})([^0-9]*)", re.DOTALL)
_NAMES = "nmkij"
_MOST_WORK = 3_000_000  # keys tried against wider rules; then the rules stay as they are


class Counted(NamedTuple):
    """A rule and how many keys take it."""

    text: str
    keys: int


def find_rules(pairs: Sequence[tuple[str, str]]) -> list[Counted]:
    """A short list of rules that gives just this map for just these keys."""
    moves = find_moves(pairs)
    if len(moves) < 2:
        return [Counted(move.text, len(move.keys)) for move in moves]
    open_keys = _Open(pairs, moves)
    found: list[Counted] = []
    for wider in sorted(_wider(moves), key=lambda wider: -wider.moves):
        found += open_keys.take(wider)
    return found + [Counted(move.text, left) for move, left in open_keys.left() if left]


class _Wider(NamedTuple):
    """A rule that may replace several: ways to write it, best first, and how many it may replace.

    Below ``exceptions`` segments, subtrees that it must not touch can be excepted; 0: they cannot.
    """

    texts: list[str]
    moves: int
    exceptions: int


class _Fit(NamedTuple):
    """A wider rule's text, the keys it renames rightly, and rules that must stand before it, with their keys."""

    text: str
    right: list[str]
    before: dict[str, list[str]]


class _Open:
    """The keys that no wider rule took yet, and how many each move still has."""

    def __init__(self, pairs: Sequence[tuple[str, str]], moves: list[Move]) -> None:
        self._new = dict(pairs)
        self._sorted = sorted(self._new)
        self._moves = moves
        self._move_of = {key: index for index, move in enumerate(moves) for key in move.keys}
        self._left = [len(move.keys) for move in moves]
        self._work = 0

    def left(self) -> Iterator[tuple[Move, int]]:
        return zip(self._moves, self._left, strict=True)

    def take(self, wider: _Wider) -> list[Counted]:
        """Take a wider rule's keys, if that saves rules: what must stand before it, and the rule."""
        best: _Fit | None = None
        for text in wider.texts:
            fit = self._try(text, wider)
            if fit is not None and (best is None or len(fit.before) < len(best.before)):
                best = fit
                if not fit.before:
                    break
        if best is None:
            return []
        found = []
        for text, keys in (*best.before.items(), (best.text, best.right)):
            still = [key for key in keys if key in self._new]
            for key in still:
                self._close(key)
            if still:
                found.append(Counted(text, len(still)))
        return found

    def _try(self, text: str, wider: _Wider) -> _Fit | None:
        """How the rule fits; None: it renames some keys wrongly, or saves nothing."""
        try:
            rule = Rule.parse(text)
        except RuleError:  # an expression too long
            return None
        right: list[str] = []
        stay: list[str] = []  # keys that it should leave alone
        moves: set[int] = set()  # of keys that it should rename otherwise
        for key in self._below(rule.head):
            self._work += 1
            if self._work > _MOST_WORK or len(moves) > wider.moves:
                return None
            renamed = _renamed(rule, key)
            if renamed is None:
                continue
            if renamed == self._new[key]:
                right.append(key)
            elif key in self._move_of:
                moves.add(self._move_of[key])
            else:
                stay.append(key)
        moves = self._with_inner(moves)
        excepted = self._except(stay, wider.exceptions)
        if excepted is None or self._saved(right, moves) < max(2 * (len(excepted) + 1), len(moves)):
            return None
        first = {self._moves[index].text: self._moves[index].keys for index in sorted(moves)}
        return _Fit(text, right, first | excepted)

    def _with_inner(self, moves: set[int]) -> set[int]:
        """These moves, and those inside their subtrees, which stand right before them."""
        found = set(moves)
        for index in moves:
            outer = self._moves[index]
            while outer.below and index and self._moves[index - 1].old.startswith(outer.old):
                index -= 1
                found.add(index)
        return found

    def _below(self, head: str) -> Iterator[str]:
        """Open keys that begin with ``head``."""
        for at in range(bisect_left(self._sorted, head), len(self._sorted)):
            key = self._sorted[at]
            if not key.startswith(head):
                return
            if key in self._new:
                yield key

    def _except(self, keys: list[str], segments: int) -> dict[str, list[str]] | None:
        """Rules that keep the subtrees of ``keys`` as they are, with their keys; None if something there is renamed."""
        found: dict[str, list[str]] = {}
        if keys and not segments:
            return None
        for key in keys:
            parts = key.split(".", segments)
            beginning = escape(key) if len(parts) <= segments else escape(".".join(parts[:segments])) + ".**"
            text = write(beginning, beginning)
            if text not in found:
                inner = [key] if len(parts) <= segments else list(self._below(key[: len(key) - len(parts[-1])]))
                if any(self._new[one] != one for one in inner):
                    return None
                found[text] = inner
        return found

    def _saved(self, keys: list[str], apart: set[int]) -> int:
        """How many moves are left without keys when these are gone; ``apart`` stay anyway."""
        gone = Counter(self._move_of[key] for key in keys if key in self._move_of)
        return sum(count == self._left[index] for index, count in gone.items() if index not in apart)

    def _close(self, key: str) -> None:
        del self._new[key]
        if key in self._move_of:
            self._left[self._move_of[key]] -= 1


def _renamed(rule: Rule, key: str) -> str | tuple[()] | None:
    try:
        return rule.match(key)
    except RuleError:  # a negative index: the rule matches, and has no name for it
        return ()


def _wider(moves: list[Move]) -> Iterator[_Wider]:
    yield from _numbered(moves)
    yield from _anywhere(moves)


# -- the same at several depths: **.gamma -> **.weight ------------------------------------------------


def _anywhere(moves: list[Move]) -> Iterator[_Wider]:
    """Moves that change the same segments in the same way, wherever they stand."""
    alike: Counter[tuple[str, str, bool]] = Counter()
    for move in moves:
        old, new = _segments(move.old, move.below), _segments(move.new, move.below)
        begin = _common(old, new)
        end = _common(old[begin:][::-1], new[begin:][::-1])
        if begin and len(old) > begin + end:
            changed = [".".join(side[begin : len(side) - end]) for side in (old, new)]
            alike[changed[0], changed[1], bool(end) or move.below] += 1
    for (before, after, below), count in alike.items():
        if count > 1 and (after or below):
            tail = ".**" if below else ""
            texts = [write(f"**.{escape(before)}{tail}", f"**.{escape(after)}{tail}" if after else "**.**")]
            yield _Wider(texts, count, 0)


def _segments(text: str, below: bool) -> list[str]:
    text = text[:-1] if below else text
    return text.split(".") if text or not below else []


def _common(one: list[str], other: list[str]) -> int:
    """How many segments both begin with."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


# -- the same for several numbers: layers.{n}.** -> layers.{n+1}.** -----------------------------------


class _Numbers(NamedTuple):
    """A move seen as its numbers: those in the segments of its two sides, and the text they stand in."""

    old: tuple[str, ...]
    new: tuple[str, ...]


Frame = tuple[tuple[str, str] | str, ...]  # a segment, or what stands before and after a number in it


def _framed(segments: Iterable[str]) -> tuple[Frame, tuple[str, ...]]:
    frame: list[tuple[str, str] | str] = []
    numbers = []
    for segment in segments:
        match = _LAST_NUMBER.fullmatch(segment)
        if match is None:
            frame.append(segment)
        else:
            frame.append((match[1], match[3]))
            numbers.append(match[2])
    return tuple(frame), tuple(numbers)


def _numbered(moves: list[Move]) -> Iterator[_Wider]:
    """Moves that are the same but for numbers, which follow one another in a line."""
    families: dict[tuple[bool, Frame, Frame], list[_Numbers]] = {}
    for move in moves:
        old, old_numbers = _framed(_segments(move.old, move.below))
        new, new_numbers = _framed(_segments(move.new, move.below))
        if old_numbers and new_numbers:
            families.setdefault((move.below, old, new), []).append(_Numbers(old_numbers, new_numbers))
    for (below, old, new), members in families.items():
        yield from _family(below, old, new, members)


def _family(below: bool, old: Frame, new: Frame, members: list[_Numbers]) -> Iterator[_Wider]:
    whole = _line(below, old, new, members)
    if whole is not None or len(members) < 2:
        yield from [whole] if whole is not None else []
        return
    shifts: dict[tuple[int, ...], list[_Numbers]] = {}  # not all in one line: those that move by as much
    for member in members:
        if len(member.old) == len(member.new):
            shift = tuple(int(after) - int(before) for before, after in zip(*member, strict=True))
            shifts.setdefault(shift, []).append(member)
    for group in shifts.values():
        some = _line(below, old, new, group)
        if some is not None:
            yield some


def _line(below: bool, old: Frame, new: Frame, members: list[_Numbers]) -> _Wider | None:
    """The rule in which all members are one line; None where there is none."""
    before = list(zip(*(member.old for member in members), strict=True))
    after = list(zip(*(member.new for member in members), strict=True))
    varying = [index for index, column in enumerate(before) if len(set(column)) > 1]
    if not varying or len(varying) > len(_NAMES):
        return None
    names = {index: _NAMES[at] for at, index in enumerate(varying)}
    values: dict[int, tuple[int, str]] = {}  # number of NEW: the number of OLD that it follows, and how
    for index, column in enumerate(after):
        if len(set(column)) > 1:
            followed = _follow(index, column, before, names)
            if followed is None:
                return None
            values[index] = followed
    if {source for source, _ in values.values()} != set(varying):
        return None
    starred = _starred(old, new, names, values)
    texts = [_text(below, old, new, members[0], names, values, starred)]
    exact = {at: (source, how + "+0" if how in names.values() else how) for at, (source, how) in values.items()}
    texts.append(_text(below, old, new, members[0], names, exact, {}))
    first = [at for at, part in enumerate(old) if isinstance(part, tuple)][varying[0]]
    return _Wider(texts, len(members), first + 1)


def _follow(
    place: int, column: Sequence[str], before: list[tuple[str, ...]], names: dict[int, str]
) -> tuple[int, str] | None:
    """Which number of OLD a number of NEW follows, the one in the same place first; and the expression."""
    for source in sorted(names, key=lambda at: abs(at - place)):
        found = _fit([int(text) for text in before[source]], [int(text) for text in column], names[source])
        if found is not None:
            return source, found
    return None


def _fit(before: list[int], after: list[int], name: str) -> str | None:
    """The line through all points, as an expression in ``name``; None where there is none or it is level."""
    low, high = min(range(len(before)), key=before.__getitem__), max(range(len(before)), key=before.__getitem__)
    if before[low] == before[high]:  # 1 and 01
        return None
    slope = Fraction(after[high] - after[low], before[high] - before[low])
    rise, run = slope.numerator, slope.denominator
    constant = run * after[low] - rise * before[low]
    if slope != 1 and len(set(before)) < 3:  # any two points are in one line
        return None
    if not rise or any(run * y != rise * x + constant for x, y in zip(before, after, strict=True)):
        return None
    if rise == 1 and constant % run == 0 and run > 1:
        return shifted(f"{name}//{run}", constant // run)
    if rise == -1:
        found = f"{constant}-{name}"
    else:
        found = shifted(name if rise == 1 else f"{rise}*{name}", constant)
    return found if run == 1 else f"({found})//{run}"


def _starred(old: Frame, new: Frame, names: dict[int, str], values: dict[int, tuple[int, str]]) -> dict[int, int]:
    """Numbers that are whole segments and only repeated, in the same order: ``*``. Of NEW: of OLD."""
    whole_old = [part == ("", "") for part in old if isinstance(part, tuple)]
    whole_new = [part == ("", "") for part in new if isinstance(part, tuple)]
    used = Counter(source for source, _ in values.values())
    found = {
        at: source
        for at, (source, how) in values.items()
        if how == names[source] and whole_old[source] and whole_new[at] and used[source] == 1
    }
    order = list(found.values())
    return found if order == sorted(order) else {}


def _text(
    below: bool, old: Frame, new: Frame, example: _Numbers, names: dict[int, str],
    values: dict[int, tuple[int, str]], starred: dict[int, int],
) -> str:  # fmt: skip
    """The rule; numbers that all members share are as in the example."""
    hidden = set(starred.values())
    left = {at: "*" if at in hidden else f"{{{name}}}" for at, name in names.items()}
    right = {at: "*" if at in starred else f"{{{how}}}" for at, (_, how) in values.items()}
    tail = ["**"] if below else []
    return write(".".join(_filled(old, example.old, left) + tail), ".".join(_filled(new, example.new, right) + tail))


def _filled(frame: Frame, numbers: Sequence[str], instead: dict[int, str]) -> list[str]:
    found = []
    at = 0
    for part in frame:
        if isinstance(part, str):
            found.append(escape(part))
        else:
            found.append(escape(part[0]) + instead.get(at, numbers[at]) + escape(part[1]))
            at += 1
    return found
