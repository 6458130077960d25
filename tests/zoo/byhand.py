"""What torch no longer writes, made by hand: pickles opcode by opcode, containers around them."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class Global(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    """REDUCE, or NEWOBJ, of a global; then BUILD where there is a state."""

    callee: Global
    args: tuple[Any, ...]
    state: Any = None
    new: bool = False


class Pid(NamedTuple):
    """A persistent id: BINPERSID of any value."""

    value: Any


class Pairs(NamedTuple):
    """A dict as its pairs, so that a key may come twice."""

    pairs: Sequence[tuple[Any, Any]]


class Raw(NamedTuple):
    """Opcodes as they are."""

    opcodes: bytes


def pickled(value: Any, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + opcodes(value) + b"."


def opcodes(value: Any) -> bytes:
    """The opcodes that push ``value``; no memo, so nothing is shared."""
    match value:
        case Raw(code):
            return code
        case Global(module, name):
            return b"c" + module.encode() + b"\n" + name.encode() + b"\n"
        case Call(callee, args, state, new):
            made = opcodes(callee) + opcodes(tuple(args)) + (b"\x81" if new else b"R")
            return made if state is None else made + opcodes(state) + b"b"
        case Pid(inner):
            return opcodes(inner) + b"Q"
        case Pairs(pairs):
            return b"}(" + b"".join(opcodes(item) for pair in pairs for item in pair) + b"u"
        case dict():
            return opcodes(Pairs(list(value.items())))
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int() if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        case int():
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            data = value.encode("utf-8", "surrogatepass")
            return b"X" + struct.pack("<I", len(data)) + data
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
    raise TypeError(f"no opcodes for {value!r}")


def python2(text: str) -> Raw:
    """A string as Python 2 pickled it."""
    return Raw(b"U" + bytes([len(text)]) + text.encode())


ORDERED_DICT = Call(Global("collections", "OrderedDict"), ())
FLOAT_STORAGE = Global("torch", "FloatStorage")


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def storage(key: Any, numel: int, location: str = "cpu", kind: Global = FLOAT_STORAGE, *view: Any) -> Pid:
    return Pid(("storage", kind, key, location, numel, *view))


def tensor(stored: Pid, size: Sequence[int], stride: Sequence[int], offset: int = 0) -> Call:
    args = (stored, offset, tuple(size), tuple(stride), False, ORDERED_DICT)
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), args)


def write_zip(path: Path, value: Any, storages: Mapping[str, bytes]) -> None:
    """A torch archive around a pickle of our own, written by torch's own writer."""
    writer = torch._C.PyTorchFileWriter(str(path))
    records = {"data.pkl": pickled(value), "byteorder": b"little"}
    records |= {f"data/{key}": data for key, data in storages.items()}
    for name, data in records.items():
        writer.write_record(name, data, len(data))
    writer.write_end_of_file()


def write_legacy(path: Path, value: Any, storages: Mapping[str, tuple[int, bytes]]) -> None:
    """The stream of torch before 1.6; storages are (count, data) by key."""
    sizes = {"short": 2, "int": 4, "long": 4}
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
    keys = sorted(storages)
    pickles = [LEGACY_MAGIC, 1001, info, value, keys]
    data = b"".join(struct.pack("<q", count) + data for count, data in (storages[key] for key in keys))
    path.write_bytes(b"".join(map(pickled, pickles)) + data)


class TarStorage(NamedTuple):
    key: int
    location: str
    kind: str
    numel: int
    data: bytes


class TarTensor(NamedTuple):
    key: int
    storage: int
    kind: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0


def write_tar(
    path: Path,
    value: Any,
    storages: Sequence[TarStorage],
    tensors: Sequence[TarTensor],
    views: Sequence[tuple[int, int, int, int]] = (),
) -> None:
    """The tar of torch 0.1: pickles and raw numbers, one after another in four members."""
    stored = pickled(len(storages))
    for s in storages:
        stored += pickled((s.key, s.location, Global("torch", s.kind))) + struct.pack("<q", s.numel) + s.data
    stored += pickled(list(views))
    shaped = pickled(len(tensors))
    for t in tensors:
        shaped += pickled((t.key, t.storage, Global("torch", t.kind)))
        shaped += struct.pack("<i4x", len(t.size))
        shaped += struct.pack(f"<{2 * len(t.size)}q", *t.size, *t.stride) + struct.pack("<q", t.offset)
    info = {"protocol_version": 1000, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 8}}
    members = {"sys_info": pickled(info), "pickle": pickled(value), "tensors": shaped, "storages": stored}
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def repack(
    source: Path,
    target: Path,
    edit: Callable[[str, bytes], bytes | None] = lambda name, data: data,
    *,
    root: str | None = None,
    method: int | None = None,
) -> None:
    """An archive anew, by Python's zipfile: records edited (dropped where None), root renamed, (un)deflated.

    Nothing is aligned, so ``.format_version``, which promises computable offsets, is dropped.
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            stem, _, name = info.filename.partition("/")
            data = None if name == ".format_version" else edit(name, old.read(info))
            if data is not None:
                entry = zipfile.ZipInfo(f"{stem if root is None else root}/{name}")
                entry.compress_type = info.compress_type if method is None else method
                new.writestr(entry, data)


def dump(value: Any, protocol: int) -> bytes:
    return pickle.dumps(value, protocol=protocol)
