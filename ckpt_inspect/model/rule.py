"""One rule, ``OLD -> NEW`` or ``s/regex/replacement/``: checked, matched against keys, turned round (design 2)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import NoReturn

from . import arithmetic
from .arithmetic import Expression
from .pattern import DELIMITERS, Piece, Segment, escape, refuse, sides, translate, write, write_pieces


class Rule:
    """A rule, parsed.

    Attributes:
        text: the rule as it was given.
        head: what every key that it matches begins with: nothing, or whole segments and a dot.
        literal: the one key that it matches, None if there may be others.
    """

    text: str
    head = ""
    literal: str | None = None

    @staticmethod
    def parse(text: str) -> Rule:
        """The rule that ``text`` spells.

        Raises:
            RuleError: it is no rule; the message quotes it and the hint says what to write.
        """
        bare = text.strip()
        if bare[:1] == "s" and bare[1:2] and bare[1] in DELIMITERS:
            return RegexRule(text)
        return PatternRule(text)

    def match(self, key: str) -> str | None:
        """The new name of ``key``, None where the rule does not match.

        Raises:
            RuleError: there is no new name: an index would be negative, or is divided by zero.
        """
        raise NotImplementedError

    def matches(self, key: str) -> bool:
        """Whether the rule matches ``key``."""
        raise NotImplementedError

    def inverse(self) -> Rule:
        """The rule that leads back, as far as can be told without the keys.

        Raises:
            RuleError: it cannot be told.
        """
        raise NotImplementedError

    def refuse(self, message: str, hint: str | None = None) -> NoReturn:
        refuse(self.text, message, hint)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rule) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Rule({self.text!r})"


class RegexRule(Rule):
    """``s/regex/replacement/``: ``re.sub``. A backslash makes the delimiter an ordinary character."""

    def __init__(self, text: str) -> None:
        self.text = text
        bare = text.strip()
        mark = bare[1]
        part = rf"((?:\\.|(?!\{mark})[^\\])*+)"
        whole = re.compile(rf"s\{mark}{part}\{mark}{part}\{mark}", re.DOTALL).fullmatch(bare)
        if whole is None:
            hint = f"Write s{mark}regex{mark}replacement{mark}, with nothing after it."
            if "->" in bare:
                hint += f" A name that begins with {bare[:2]} is written s\\{mark}…"
            self.refuse("is no regular expression with its replacement", hint)
        self._replacement = whole[2].replace("\\" + mark, mark)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._regex = re.compile(whole[1])
                self._regex.sub(self._replacement, "")  # the replacement is read even where nothing matches
        except (re.error, IndexError, OverflowError, RecursionError) as error:
            self.refuse(f"Python's re says: {error}", "The syntax is that of re.sub; groups are \\1 or \\g<name>.")

    def match(self, key: str) -> str | None:
        new, count = self._regex.subn(self._replacement, key)
        return new if count else None

    def matches(self, key: str) -> bool:
        return self._regex.search(key) is not None

    def inverse(self) -> Rule:
        self.refuse(
            "a regular expression cannot be turned round",
            "Keep the map with --save-rules when it is applied, and reverse that file.",
        )


class PatternRule(Rule):
    """``OLD -> NEW`` in whole segments."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._old, self._new = sides(text)
        self._check_shape()
        names = self._check_names()
        self._computed = self._check_expressions(names)
        numbers = {name for expression in self._computed.values() for name in arithmetic.names(expression)}
        self._check_numbers(numbers)
        self._pattern, self._groups = translate(self._old, numbers)
        self._numbers = [(name, group) for group, name in enumerate(self._groups, 1) if name in numbers]
        self._build = self._template().format
        self._worked_out: dict[tuple[str, ...], list[str]] = {}
        fixed = 0
        while fixed < len(self._old) and all(piece.kind == "text" for piece in self._old[fixed]):
            fixed += 1
        self.head = "".join("".join(piece.text for piece in segment) + "." for segment in self._old[:fixed])
        if fixed == len(self._old):
            self.literal = self.head = self.head[:-1]

    @cached_property
    def _fullmatch(self) -> Callable[[str], re.Match[str] | None]:
        return re.compile(self._pattern, re.DOTALL).fullmatch

    def match(self, key: str) -> str | None:
        if key == self.literal and not self._computed:
            return self._build()
        match = self._fullmatch(key)
        if match is None:
            return None
        if not self._computed:
            return self._build(*match.groups())
        numbers = tuple([match[group] for _, group in self._numbers])
        worked_out = self._worked_out.get(numbers)
        if worked_out is None:
            worked_out = self._worked_out[numbers] = self._work_out(key, numbers)
        return self._build(*match.groups(), *worked_out)

    def matches(self, key: str) -> bool:
        return self._fullmatch(key) is not None

    def _work_out(self, key: str, texts: Sequence[str]) -> list[str]:
        """What NEW computes, given the numbers in ``key``."""
        numbers = {name: int(text) for (name, _), text in zip(self._numbers, texts, strict=True)}
        stays = write(escape(key), escape(key))
        hint = f"To leave that key as it is, put a rule before this one: '{stays}'"
        found = []
        for text, expression in self._computed.items():
            try:
                value = arithmetic.value(expression, numbers)
            except ArithmeticError as error:
                why = "divides by zero" if isinstance(error, ZeroDivisionError) else "gets too large"
                self.refuse(f"{{{text}}} {why} for {key!r}", hint)
            if value < 0:
                self.refuse(f"{{{text}}} is {value} for {key!r}: an index cannot be negative", hint)
            found.append(str(value))
        return found

    # -- checking -------------------------------------------------------------------------------------

    def _check_shape(self) -> None:
        old = [piece for segment in self._old for piece in segment]
        if self._new == [[]] and any(piece.kind != "text" for piece in old):
            self.refuse("NEW is empty", "To take a prefix off write 'prefix.** -> **'; to drop keys use --drop GLOB.")
        for segment in (*self._old, *self._new):
            for piece in segment:
                if piece.kind in ("*", "**") and len(segment) > 1:
                    named = write_pieces([[Piece("{", "x") if one is piece else one for one in segment]])
                    whole = f"{piece.kind} stands for whole segments, not for a part of {write_pieces([segment])}"
                    self.refuse(whole, f"Name the part, {named}; a star that belongs to a name is written \\*")
        for star in ("*", "**"):
            there, again = (sum(segment == [(star, star)] for segment in side) for side in (self._old, self._new))
            if again > there:
                self.refuse(f"NEW has {again} {star}, OLD has {there}", "NEW repeats each one of OLD, in order.")
            if 0 < again < there:
                hint = "Name them, such as {a} and {b}." if star == "*" else "Say it as s/regex/replacement/."
                self.refuse(f"NEW repeats {again} of the {there} {star} of OLD: which is meant?", hint)

    def _check_names(self) -> list[str]:
        """The names that OLD gives."""
        found: list[str] = []
        for segment in self._old:
            for index, piece in enumerate(segment):
                if piece.kind != "{":
                    continue
                name = piece.text.strip()
                if arithmetic.IDENTIFIER.fullmatch(name) is None:
                    self.refuse(f"{{{piece.text}}} in OLD is no name", "OLD gives names, {n}; NEW computes, {n+1}.")
                if name in found:
                    self.refuse(f"{{{name}}} stands twice in OLD", "Give the second one another name.")
                found.append(name)
                segment[index] = Piece("{", name)
        return found

    def _check_expressions(self, names: list[str]) -> dict[str, Expression]:
        """What NEW computes, by the text in the braces; a name alone is not computed with."""
        found: dict[str, Expression] = {}
        for text in (piece.text for segment in self._new for piece in segment if piece.kind == "{"):
            try:
                expression = arithmetic.parse(text)
            except ValueError as error:
                self.refuse(f"{{{text}}} {error}", "Write whole numbers, names of OLD, + - * // % and ( ).")
            for name in sorted(arithmetic.names(expression).difference(names)):
                given = ", ".join(f"{{{one}}}" for one in names) or "no names"
                self.refuse(f"NEW uses {{{name}}}, which OLD does not give", f"OLD gives {given}.")
            if not isinstance(expression, str):
                found[text] = expression
        return found

    def _check_numbers(self, numbers: set[str]) -> None:
        for segment in self._old:
            for piece, after in pairwise(segment):
                if piece.kind != "{" or piece.text not in numbers:
                    continue
                if (after.kind == "text" and after.text[0] in "0123456789") or (after.text in numbers):
                    shown = write_pieces([[piece, after]])
                    self.refuse(f"{shown}: nothing tells where the number ends", "A number is all the digits there.")

    # -- making ---------------------------------------------------------------------------------------

    def _template(self) -> str:
        """NEW for ``str.format``: of the groups, then of what is computed."""
        stars = {star: iter([at for at, name in enumerate(self._groups) if name == star]) for star in ("*", "**")}
        computed = list(self._computed)
        segments = []
        for segment in self._new:
            parts = []
            for kind, text in segment:
                if kind == "text":
                    parts.append(text.replace("{", "{{").replace("}", "}}"))
                elif kind in stars:
                    parts.append(f"{{{next(stars[kind])}}}")
                elif text in self._computed:
                    parts.append(f"{{{len(self._groups) + computed.index(text)}}}")
                else:
                    parts.append(f"{{{self._groups.index(text.strip())}}}")
            segments.append("".join(parts))
        return ".".join(segments)

    def inverse(self) -> Rule:
        turned = _Turned(self, self._old, self._new, self._computed)
        return Rule.parse(write(write_pieces(turned.old), write_pieces(turned.new)))


class _Turned:
    """A rule's sides exchanged: NEW's values become names, and what OLD named is worked out from them."""

    def __init__(self, rule: Rule, old: list[Segment], new: list[Segment], computed: dict[str, Expression]) -> None:
        self._rule = rule
        self._computed = computed
        self._known: dict[str, str] = {}  # a name of OLD: how it follows from what NEW shows
        if sum(segment == [("**", "**")] for segment in new) > 1:
            self._refuse("NEW could be read in several ways")
        if any(sum(piece.kind == "{" for piece in segment) > 1 for segment in new):
            self._refuse("NEW could be read in several ways")
        plain = {text.strip() for segment in new for kind, text in segment if kind == "{" and text not in computed}
        taken = set(plain)
        self.old = [[self._shown(piece, plain, taken) for piece in segment] for segment in new]
        stars = [segment[0].kind for segment in new if segment and segment[0].kind in ("*", "**")]
        self.new = []
        for segment in old:
            for piece in segment:
                if piece.kind in ("*", "**") and piece.kind not in stars:
                    self._refuse(f"NEW does not say what {piece.kind} was")
                if piece.kind == "{" and piece.text not in self._known:
                    self._refuse(f"NEW does not say what {{{piece.text}}} was")
            self.new.append([Piece("{", self._known[p.text]) if p.kind == "{" else p for p in segment])

    def _refuse(self, why: str) -> NoReturn:
        self._rule.refuse(
            f"cannot be turned round: {why}",
            "Keep the map with --save-rules when it is applied, and reverse that file.",
        )

    def _shown(self, piece: Piece, plain: set[str], taken: set[str]) -> Piece:
        """A piece of NEW as a piece of OLD."""
        if piece.kind != "{":
            return piece
        name = piece.text.strip()
        if name in plain and name not in self._known:
            self._known[name] = name
            return Piece("{", name)
        found = arithmetic.linear(self._computed[piece.text]) if piece.text in self._computed else None
        if found is not None and found[0] not in taken:
            name = found[0]
            self._known[name] = arithmetic.solved(*found)
        else:  # a value known otherwise: the forward rule will tell whether it is the right one
            name = next(f"x{at}" for at in range(len(taken) + 1) if f"x{at}" not in taken)
        taken.add(name)
        return Piece("{", name)
