"""JSON Pointers (RFC 6901) without their leading slash: how sections, keys and values are named."""

from __future__ import annotations

from collections.abc import Iterator


def escape(segment: str) -> str:
    """One segment: ``~`` and ``/`` become ``~0`` and ``~1``."""
    if "/" in segment or "~" in segment:
        return segment.replace("~", "~0").replace("/", "~1")
    return segment


def unescape(segment: str) -> str:
    return segment.replace("~1", "/").replace("~0", "~")


def join(pointer: str, segment: str) -> str:
    """``pointer`` and one raw segment below it.

    Without its leading slash the pointer of a root entry named ``""`` would be the root's: it is ``/`` here,
    and what is below it is as RFC 6901 has it (``/weight``).
    """
    if pointer in ("", "/"):
        return pointer + escape(segment) or "/"
    return f"{pointer}/{escape(segment)}"


def concat(*pointers: str) -> str:
    """Pointers one below the other; empty ones are the root."""
    return "/".join(pointer for pointer in pointers if pointer)


def split(pointer: str) -> list[str]:
    """The raw segments."""
    if pointer in ("", "/"):
        return [""] if pointer else []
    return [unescape(segment) for segment in pointer.split("/")]


def parted(pointer: str) -> tuple[str, str]:
    """The pointer of what holds an entry, and its raw key: ``join`` puts them together again."""
    above, slash, segment = pointer.rpartition("/")
    if not above and slash:  # in the root entry called ""
        return ("/", unescape(segment)) if segment else ("", "")
    return above, unescape(segment)


def is_below(pointer: str, ancestor: str) -> bool:
    """Whether ``pointer`` is ``ancestor`` or something inside it."""
    return not ancestor or pointer == ancestor or pointer.startswith(ancestor if ancestor == "/" else ancestor + "/")


def ancestors(pointer: str) -> Iterator[str]:
    """What a pointer is inside of, from the inside out; the root is the last."""
    end = len(pointer)
    while end > 0:
        end = max(0, pointer.rfind("/", 0, end))
        yield pointer[:end]


def relative(pointer: str, ancestor: str) -> str:
    """``pointer`` as seen from ``ancestor``, which holds it."""
    return pointer[len(ancestor) + (ancestor != "/") :] if ancestor else pointer
