"""Bytes inside a pickle, however they are spelled."""

from __future__ import annotations

from typing import Any

from ..model.graph import Blob, Opaque
from ..model.source import BytesSource, Source

# What bytes are made of text with; looking a name up would import a module.
_ENCODINGS = {
    spelled: name
    for name, spellings in {
        "latin-1": "latin-1 latin1 latin l1 iso-8859-1 iso8859-1 iso8859 8859 cp819 ibm819 iso-ir-100 csisolatin1",
        "utf-8": "utf-8 utf8 u8 utf cp65001",
        "ascii": "ascii us-ascii 646 us",
        "utf-16-le": "utf-16-le utf-16le utf16-le unicodelittleunmarked",
        "utf-16-be": "utf-16-be utf-16be utf16-be unicodebigunmarked",
    }.items()
    for spelled in spellings.split()
}
_ERRORS = ("strict", "surrogatepass", "surrogateescape", "ignore", "replace")
_MAKERS = ("builtins.bytes", "__builtin__.bytes", "builtins.bytearray", "__builtin__.bytearray")


def bytes_of(node: Any) -> Any:
    """The content of a bytes value: bytes, or a :class:`Blob`; None if it is none.

    Protocol 2 has no bytes: they are ``_codecs.encode(str, 'latin1')`` (formats 2.1). The cheap ways to spell them
    otherwise are known too, for who hides something.
    """
    inside = False
    for _ in range(2):  # bytearray(bytes(…)), and no deeper
        if (
            type(node) is Opaque
            and type(node.args) is tuple
            and len(node.args) == 1
            and not node.ops
            and node.qualname in _MAKERS
        ):
            node, inside = node.args[0], True
    if isinstance(node, (bytes, bytearray)) or type(node) is Blob:
        return node
    if isinstance(node, str):  # Python 2's str, read as text
        return node.encode("utf-8", "surrogatepass")
    if inside and type(node) in (list, tuple):  # bytes([…])
        return _of_numbers(node)
    if (
        type(node) is Opaque and type(node.args) is tuple and not node.ops
    ):  # what is appended to a bytearray is not followed
        name, args = node.qualname, node.args
        if name in ("_codecs.encode", "codecs.encode") or (name in _MAKERS and len(args) > 1):
            return _encoded(args)
        if name in _MAKERS and not args:
            return b""
    return None


def _of_numbers(items: Any) -> bytes | None:
    if all(type(item) is int and 0 <= item < 256 for item in items):
        return bytes(items)
    return None


def _encoded(args: tuple[Any, ...]) -> bytes | None:
    """``_codecs.encode(text, encoding, errors)``, and so ``bytes(…)``."""
    if not 1 <= len(args) <= 3 or not all(isinstance(arg, str) for arg in args):
        return None
    encoding = args[1] if len(args) > 1 else "utf-8"
    errors = args[2] if len(args) > 2 else "strict"
    known = _ENCODINGS.get(str(encoding).lower().replace("_", "-").replace(" ", "-"))
    if known is None or errors not in _ERRORS:
        return None
    try:
        return str(args[0]).encode(known, str(errors))
    except UnicodeEncodeError:
        return None


def source_of(content: Any, path: str) -> Source:
    """A source over what :func:`bytes_of` gave."""
    if type(content) is Blob:
        return content.source.slice(content.offset, content.nbytes)
    return BytesSource(bytes(content), path)
