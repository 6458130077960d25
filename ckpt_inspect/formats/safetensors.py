"""safetensors: a JSON header, then the bytes (formats 11). Parsed here; the tests hold it to its own library."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from ..dtypes import BY_SAFETENSORS, DType
from ..errors import CorruptError, LimitError
from ..model import pointer as pointers
from ..model.checkpoint import Checkpoint
from ..model.problem import Problem
from ..model.section import Section, Value
from ..model.source import Source
from ..model.storage import Container, Record, Storage
from ..model.tensor import TensorInfo
from ..pickles.limits import DEFAULT, Limits
from .finish import finish

NAME = "safetensors"
MAX_HEADER = 100_000_000  # the library's own limit
_MAX_DEPTH = 127  # serde_json's recursion limit
_LARGEST = sys.float_info.max
_FIELDS = ("dtype", "shape", "data_offsets")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # half a character, escaped: alone it is no text


def matches(head: bytes, source: Source) -> bool:
    if len(head) < 9:
        return False
    length = int.from_bytes(head[:8], "little")
    return head[8:].lstrip(b" \t\r\n").startswith(b"{") and (length <= source.size - 8 or length <= MAX_HEADER)


def read(source: Source, limits: Limits = DEFAULT) -> Checkpoint:
    checkpoint = Checkpoint(source.path, NAME, source.size)
    section, metadata = read_file(source, checkpoint, limits, "")
    checkpoint.sections[""] = section
    for key, text in metadata.items():
        shown = repr(text)
        if key == "ckpt_inspect":
            from . import recorded

            shown = recorded.parse(metadata).summary()
        checkpoint.values.append(Value(pointers.join("__metadata__", key), "str", text, shown))
    checkpoint.facts["writer"] = "safetensors" + (f", format {metadata['format'][:40]}" if "format" in metadata else "")
    return finish(checkpoint)


def read_file(source: Source, checkpoint: Checkpoint, limits: Limits, prefix: str) -> tuple[Section, dict[str, str]]:
    """One file as one section; ``prefix`` makes its storage ids unique among shards.

    Raises:
        CorruptError: the header breaks a rule of the format; the rule and the tensor are named.
    """
    container = Container(source.path, NAME, source)
    header, length = read_header(source, limits)
    container.graphs["header"] = header
    checkpoint.containers.append(container)
    metadata = header.get("__metadata__") or {}
    section = Section("", "state_dict")
    base = 8 + length
    spans: list[tuple[int, int, str]] = []
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        try:
            dtype, shape, begin, end = _entry(entry)
        except ValueError as error:
            raise CorruptError(f"tensor {key[:80]!r}: {error}", path=source.path, record="header") from error
        record = Record(key, end - begin, source.slice(base + begin, end - begin))
        container.records[key] = record
        storage = Storage(f"{prefix}{begin}:{key}", end - begin, None, record)
        section.tensors[key] = TensorInfo(key, dtype.name, shape, contiguous(shape), storage, 0, None)
        spans.append((begin, end, key))
    _check_tiling(source, base, spans, checkpoint.problems)
    section.node = header
    return section, metadata


def read_header(source: Source, limits: Limits) -> tuple[dict[str, Any], int]:
    """The header as parsed JSON, and its length in bytes."""
    head = source.read_at(0, 8)
    length = int.from_bytes(head, "little")
    if length > min(MAX_HEADER, limits.header):
        raise LimitError(f"a header of {length:,} bytes: the format allows {MAX_HEADER:,}", path=source.path, offset=0)
    if length > source.size - 8:
        raise CorruptError(
            f"the header is cut: {length:,} bytes are announced, {source.size - 8:,} are there",
            path=source.path, offset=8, hint="Download or copy the file again.",
        )  # fmt: skip
    raw = source.read_at(8, length)
    try:
        text = raw.decode("utf-8")
        integer = _integer if b"-0" in raw else None  # a function for each number costs time: only where needed
        header = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=integer)
        if _SURROGATE.search(raw):
            json.dumps(header, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise CorruptError("the header is not UTF-8", path=source.path, record="header", offset=error.start) from error
    except json.JSONDecodeError as error:
        raise CorruptError(
            f"the header is not JSON: {error.msg}", path=source.path, record="header", offset=error.pos
        ) from error
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"the header breaks a rule: {error}", path=source.path, record="header") from error
    if type(header) is not dict:
        raise CorruptError("the header is no JSON object", path=source.path, record="header")
    metadata = header.get("__metadata__")
    if metadata is not None and (
        type(metadata) is not dict or any(type(value) is not str for value in metadata.values())
    ):
        raise CorruptError("__metadata__ must map strings to strings", path=source.path, record="header")
    return header, length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The specification forbids duplicate keys; the library takes the last. Refused here (formats 11)."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} stands twice")
    return found


def _integer(text: str) -> int | float:
    return int(text) if text != "-0" else -0.0  # no count: the library reads it as a float


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _entry(entry: Any) -> tuple[DType, tuple[int, ...], int, int]:
    """One entry: ``dtype``, ``shape``, ``data_offsets``; unknown fields are ignored, as the library does."""
    if type(entry) is not dict:
        raise ValueError("its entry is no object")
    if len(entry) > len(_FIELDS):
        _check_ignored([value for name, value in entry.items() if name not in _FIELDS])
    code, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    dtype = BY_SAFETENSORS.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise ValueError(f"the dtype {code[:40]!r} is not known" if isinstance(code, str) else "its dtype is no text")
    if type(shape) is not list or any(type(n) is not int or not 0 <= n < 2**64 for n in shape):
        raise ValueError("its shape is no list of counts")
    if type(offsets) is not list or len(offsets) != 2 or any(type(n) is not int or not 0 <= n < 2**64 for n in offsets):
        raise ValueError("its data_offsets are no two counts")
    begin, end = offsets
    numel = 1
    for n in shape:
        numel *= n
        if numel >= 2**64:
            raise ValueError("its shape overflows 64 bits")
    bits = 4 if code == "F4" else dtype.bits
    if numel * bits >= 2**64 or numel * bits % 8:
        raise ValueError("its size is no whole number of bytes")
    if begin > end or end - begin != numel * bits // 8:
        raise ValueError(f"its shape needs {numel * bits // 8:,} bytes, its data_offsets give {end - begin:,}")
    if code == "F4":  # two values in a byte: torch's float4_e2m1fn_x2 counts bytes
        if not shape or shape[-1] % 2:
            raise ValueError("an F4 tensor whose last dimension is odd")
        shape = [*shape[:-1], shape[-1] // 2]
    return dtype, tuple(shape), begin, end


def _check_ignored(values: list[Any]) -> None:
    """What the library ignores it has read all the same: within its depth, its numbers as floats."""
    waiting = [(value, 3) for value in values]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, (dict, list)):
            if depth > _MAX_DEPTH:
                raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
            waiting += [(item, depth + 1) for item in (value.values() if isinstance(value, dict) else value)]
        elif isinstance(value, (int, float)) and not -_LARGEST <= value <= _LARGEST:
            raise ValueError("it holds a number that is out of range")


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides as torch gives them: an empty dimension counts as one; the others may overflow then."""
    if not shape:
        return ()
    stride = [1]
    for size in reversed(shape[1:]):
        stride.append(min(stride[-1] * max(size, 1), 2**63 - 1))
    return tuple(reversed(stride))


def _check_tiling(source: Source, base: int, spans: list[tuple[int, int, str]], problems: list[str]) -> None:
    """Data must be tiled exactly: no holes, overlaps or trailing bytes."""
    spans.sort()
    end = 0
    for begin, stop, key in spans:
        if begin != end:
            what = "overlaps the one before" if begin < end else f"leaves a hole of {begin - end:,} bytes before it"
            problems.append(Problem(f"tensor {key[:80]!r} {what}: safetensors refuses the file", names=(key,)))
        end = max(end, stop)
    there = source.size - base
    if there < end:
        problems.append(
            f"the file is cut: {source.size:,} bytes are there, its header needs {base + end:,}; "
            "names and shapes below are right, not all values are there"
        )
    elif there > end:
        problems.append(f"{there - end:,} bytes after the last tensor: safetensors refuses the file")
