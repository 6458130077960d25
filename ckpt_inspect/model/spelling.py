"""How names from a file are spelled where people read and type them: fit for a terminal, and for one line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from shlex import quote

# Control characters, line separators, bidirectional overrides, invisible marks, surrogates, tag characters:
# what could move the cursor, reorder a line or hide in it.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def escape(text: str) -> str:
    """``text`` from a file, fit for a terminal and for one line."""
    if text.isascii() and text.isprintable():
        return text
    found = _UNSAFE.search(text)
    if found is None:
        return text
    # a backslash of the text itself is doubled then, so that no two texts are shown as one
    return _UNSAFE.sub(_escaped, text.replace("\\", "\\\\"))


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _SHORT.get(character) or (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


_LONG = re.compile(r"\\(?:\\|[ntr]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_CHARACTERS = {"\\\\": "\\", **{spelled: character for character, spelled in _SHORT.items()}}


def unescape(text: str) -> str | None:
    """The text that ``escape`` spells so; None if it spells none so, or one that needs no escapes."""
    if "\\" not in text:
        return None
    try:
        meant = _LONG.sub(_character, text)
    except (ValueError, OverflowError):
        return None
    return meant if meant != text and escape(meant) == text else None


def _character(match: re.Match[str]) -> str:
    return _CHARACTERS.get(match[0]) or chr(int(match[0][2:], 16))


def shell_word(text: str) -> str:
    """A word as it is typed in a shell: quoted where that is needed; what cannot be typed as ``$'…'``."""
    if _UNSAFE.search(text) is None:
        return quote(text)
    plain = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{_UNSAFE.sub(_as_bytes, plain)}'"


def _as_bytes(match: re.Match[str]) -> str:
    data = match[0].encode("utf-8", "surrogateescape" if "\udc80" <= match[0] <= "\udcff" else "surrogatepass")
    return _SHORT.get(match[0]) or "".join(f"\\x{byte:02x}" for byte in data)


def as_path(path: str) -> str:
    """A path where an option could stand: one that begins with a dash would be taken for one."""
    return f"./{path}" if path.startswith("-") else path


def shell_path(path: str) -> str:
    """A path as it is typed in a shell, after a command."""
    return shell_word(as_path(path))


def shell_join(words: Iterable[str]) -> str:
    """Words as they are typed in a shell; paths among them have gone through ``as_path``."""
    return " ".join(map(shell_word, words))


def quoted(name: str) -> str:
    """A name in quotes that a shell takes away; what cannot be typed is printed with escapes, and understood so."""
    return f"'{name}'" if (word := quote(name)) == name else word
