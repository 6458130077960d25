"""Bytes inside a pickle, however they are spelled."""

from __future__ import annotations

from typing import Any

from ..model.graph import Blob, Opaque
from ..model.source import BytesSource, Source

_MAKERS = ("builtins.bytes", "__builtin__.bytes", "builtins.bytearray", "__builtin__.bytearray")


def bytes_of(node: Any) -> Any:
    """The content of a bytes value: bytes, or a :class:`Blob`; None if it is none.

    Protocol 2 has no bytes: they are ``_codecs.encode(str, 'latin1')`` (formats 2.1).
    """
    for _ in range(2):  # bytearray(bytes(…)), and no deeper
        if type(node) is Opaque and node.qualname in _MAKERS and type(node.args) is tuple and node.args:
            node = node.args[0]
    if isinstance(node, (bytes, bytearray)) or type(node) is Blob:
        return node
    if isinstance(node, str):  # Python 2's str, read as text
        return node.encode("utf-8", "surrogatepass")
    if type(node) is Opaque and type(node.args) is tuple:
        name, args = node.qualname, node.args
        if (
            name == "_codecs.encode"
            and len(args) == 2
            and isinstance(args[0], str)
            and args[1] in ("latin1", "latin-1")
        ):
            try:
                return args[0].encode("latin-1")
            except UnicodeEncodeError:
                return None
        if name in _MAKERS and not args:
            return b""
    return None


def source_of(content: Any, path: str) -> Source:
    """A source over what :func:`bytes_of` gave."""
    if type(content) is Blob:
        return content.source.slice(content.offset, content.nbytes)
    return BytesSource(bytes(content), path)
