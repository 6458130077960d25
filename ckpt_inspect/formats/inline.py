"""Bytes inside a pickle, however they are spelled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..model.graph import Blob, Dict, Global, Opaque, Persistent, Pickle, Set
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
_LOADER = "torch.storage._load_from_bytes"
_ERRORS = ("strict", "surrogatepass", "surrogateescape", "ignore", "replace")
_ENCODERS = ("_codecs.encode", "codecs.encode")
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
        if name in _ENCODERS or (name in _MAKERS and len(args) > 1):
            return _encoded(args)
        if name in _MAKERS and not args:
            return b""
    return None


def _of_numbers(items: Any) -> bytes | None:
    if all(type(item) is int and 0 <= item < 256 for item in items):
        return bytes(items)
    return None


def _is_encoded(node: Any) -> bool:
    """Whether it makes bytes of text, in an encoding that is not followed."""
    named = type(node) is Opaque and node.qualname in (*_MAKERS, *_ENCODERS) and type(node.args) is tuple
    return named and any(isinstance(arg, str) for arg in node.args)


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


def contents(pickle: Pickle) -> Iterator[tuple[Any, str, bool]]:
    """All bytes in a pickle, each once; what holds them: a call, a state, plain containers; and whether torch.load reads them.

    None for bytes that it reads and whose making is not followed.
    """
    seen: set[int] = set()
    for call in pickle.calls:
        name = call.qualname or "a call"
        if name.endswith(_LOADER):
            given = call.args[0] if type(call.args) is tuple and call.args else None
            if id(given) not in seen:
                seen.add(id(given))
                yield bytes_of(given), f"given to {name}", True
        for part in (call.args, call.kwargs):
            yield from _below(part, seen, f"given to {name}")
        if call.ops:
            yield from _below(call.ops, seen, f"in what {call.qualname or 'an object'} holds")
    named: list[Global | Persistent] = [*pickle.globals, *pickle.persistent]
    for node in named:
        if node.state is not None:
            yield from _below(node.state, seen, "in what would change a name")
    yield from _below(pickle.root, seen, "in a container")


def _below(node: Any, seen: set[int], owner: str) -> Iterator[tuple[Any, str, bool]]:
    """Bytes in plain containers; what calls made is not entered."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            if node == _LOADER.rpartition(".")[2]:  # the name, for who gets at it by getattr
                yield None, owner, True
            continue
        if node is None or isinstance(node, (int, float)) or id(node) in seen:
            continue
        seen.add(id(node))
        if type(node) in (tuple, list):
            waiting.extend(node)
        elif type(node) is Dict:
            waiting.extend(node.pairs)
        elif type(node) is Set:
            waiting.extend(node.members)
        elif type(node) is Global:
            if node.qualname.endswith(_LOADER):  # handed on, to be called later
                yield None, f"{owner}, which is handed {node.qualname}", True
        elif (content := bytes_of(node)) is not None:
            yield content, owner, False
        elif _is_encoded(node):
            yield None, owner, False
