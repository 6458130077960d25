"""The notation of rules: text ↔ pieces of segments, and pieces → one regular expression (design 2, Rules).

In that expression nothing is ever tried twice. A part of a segment, and ``**``, is the shortest that fits; whatever
follows it is taken at its first place, and an atomic group keeps that choice. The first place is the best one too:
what begins earlier ends earlier, numbers being whole runs of digits. So no match is missed, and the time is linear in
the key whatever the rule.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple, NoReturn

from ..errors import RuleError

DELIMITERS = "/|,#!@%~:;"  # s/regex/replacement/, with any of these
_TOKEN = re.compile(
    r"""\\(?: x(?P<x>[0-9a-fA-F]{2}) | u(?P<u>[0-9a-fA-F]{4}) | U(?P<U>[0-9a-fA-F]{8}) | (?P<char>[^A-Za-z0-9]|[ntr]) )
      | (?P<arrow>->) | (?P<stars>\*+) | \{(?P<braces>[^{}]*)\} | (?P<space>\s+) | (?P<text>[^\\*{}\s-]+|-)""",
    re.VERBOSE | re.DOTALL,
)
_SHORT = {"n": "\n", "t": "\t", "r": "\r"}
_KIND = {"arrow": "->", "braces": "{", "x": "text", "u": "text", "U": "text", "char": "text"}
_SPECIAL = re.compile(r"[\\*{}]|-(?=>)")
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")  # printable by Unicode, and print as nothing


class Piece(NamedTuple):
    """A stretch of a segment: kind ``text``, ``*``, ``**`` or ``{`` (then ``text`` is what the braces hold)."""

    kind: str
    text: str


Segment = list[Piece]


def refuse(rule: str, message: str, hint: str | None = None) -> NoReturn:
    """Raise a :class:`RuleError` that quotes the rule."""
    raise RuleError(f"rule '{rule.strip()}': {message}", hint=hint)


# -- reading ------------------------------------------------------------------------------------------


def sides(rule: str) -> tuple[list[Segment], list[Segment]]:
    """OLD and NEW.

    Raises:
        RuleError: ``rule`` is not of the form ``OLD -> NEW``.
    """
    found: list[list[Piece]] = [[]]
    for piece in _pieces(rule):
        if piece.kind != "->":
            found[-1].append(piece)
        elif len(found) == 2:
            refuse(rule, "has two arrows", "An arrow that belongs to a name is written \\->")
        else:
            found.append([])
    if len(found) == 1:
        refuse(rule, "has no arrow", "Write OLD -> NEW, such as 'module.** -> **', or s/regex/replacement/.")
    return _segments(found[0]), _segments(found[1])


def _pieces(rule: str) -> Iterator[Piece]:
    at = 0
    while at < len(rule):
        match = _TOKEN.match(rule, at)
        if match is None:
            _refuse_at(rule, at)
        kind = match.lastgroup or ""
        text = match[kind]
        if kind in ("x", "u", "U"):
            if int(text, 16) > 0x10FFFF:
                refuse(rule, f"there is no character \\U{text}")
            text = chr(int(text, 16))
        elif kind == "char":
            text = _SHORT.get(text, text)
        elif kind == "stars" and len(text) > 2:
            refuse(rule, f"{text} means nothing", "* is one segment, ** one or more; a star of a name is written \\*")
        yield Piece(text if kind == "stars" else _KIND.get(kind, kind), text)
        at = match.end()


def _refuse_at(rule: str, at: int) -> NoReturn:
    if rule[at] != "\\":
        refuse(rule, f"a {rule[at]} has no partner", f"One that belongs to a name is written \\{rule[at]}")
    if at + 1 == len(rule):
        refuse(rule, "ends in a lone backslash", "One that belongs to a name is written \\\\")
    hint = "A backslash that belongs to a name is written \\\\; regular expressions go s/regex/replacement/."
    refuse(rule, f"{rule[at : at + 2]} means nothing", hint)


def _segments(pieces: list[Piece]) -> list[Segment]:
    """Cut at the dots; unescaped space around the whole belongs to the arrow."""
    while pieces and pieces[0].kind == "space":
        del pieces[0]
    while pieces and pieces[-1].kind == "space":
        del pieces[-1]
    found: list[Segment] = [[]]
    for kind, text in pieces:
        if kind not in ("text", "space"):
            found[-1].append(Piece(kind, text))
            continue
        for index, part in enumerate(text.split(".")):
            if index:
                found.append([])
            if part and found[-1] and found[-1][-1].kind == "text":
                found[-1][-1] = Piece("text", found[-1][-1].text + part)
            elif part:
                found[-1].append(Piece("text", part))
    return found


# -- matching -----------------------------------------------------------------------------------------


def translate(segments: list[Segment], numbers: Collection[str]) -> tuple[str, list[str]]:
    """A regular expression for whole keys, and what each of its groups is: ``*``, ``**`` or a name."""
    groups: list[str] = []
    found = ""
    waiting = False  # in the atomic group of a ** that something follows
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        if segment and segment[0].kind == "**":
            found += (")" if waiting else "") + ("(.*)" if last else "(?>(.*?)")
            groups.append("**")
            waiting = not last
        else:
            found += _translate_segment(segment, numbers, groups)
        found += "" if last else r"\."
    return found + (r"\Z)" if waiting else ""), groups


def _translate_segment(segment: Segment, numbers: Collection[str], groups: list[str]) -> str:
    if len(segment) == 1 and segment[0].kind != "text" and segment[0].text not in numbers:
        groups.append(segment[0].text)
        return "([^.]*+)"
    found = ""
    waiting = False  # in the atomic group of a part that something follows
    for index, (kind, text) in enumerate(segment):
        if kind == "text":
            found += re.escape(text)
            continue
        groups.append(text)
        if text in numbers:
            found += "([0-9]{1,18}+)(?![0-9])"
            continue
        found += ")" if waiting else ""
        waiting = index < len(segment) - 1
        found += "(?>([^.]+?)" if waiting else "([^.]++)"
    return found + (r"(?=\.|\Z))" if waiting else "")


# -- writing ------------------------------------------------------------------------------------------


def escape(text: str) -> str:
    """``text`` as a part of a rule that stands for just that; nothing in it can upset a terminal."""
    if text.isascii() and text.isprintable():
        return _SPECIAL.sub(r"\\\g<0>", text)
    return "".join(map(_spell, _SPECIAL.sub(r"\\\g<0>", text)))


def _spell(char: str) -> str:
    code = ord(char)
    if (char.isprintable() and char not in _UNSEEN and code >> 12 != 0xE0) or char == " ":
        return char
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def write(old: str, new: str) -> str:
    """The rule of two escaped sides."""
    if old[:1] == "s" and old[1:2] and old[1] in DELIMITERS:
        old = f"s\\{old[1:]}"
    return f"{_edges(old)} -> {_edges(new)}"


def _edges(side: str) -> str:
    """Space at the ends would be taken for that around the arrow."""
    if side.startswith(" "):
        side = "\\x20" + side[1:]
    return side[:-1] + "\\x20" if side.endswith(" ") else side


def write_pieces(segments: list[Segment]) -> str:
    """One side, as text."""
    return ".".join(
        "".join(escape(text) if kind == "text" else f"{{{text}}}" if kind == "{" else kind for kind, text in segment)
        for segment in segments
    )
