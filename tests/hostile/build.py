"""Hostile bytes, made by hand: opcodes, zip archives that lie, legacy streams, safetensors headers.

Nothing here imports torch or the package: what is written is what the specifications say, or its opposite.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

PROTO, STOP, MARK = b"\x80\x02", b".", b"("
NONE, TRUE, FALSE = b"N", b"\x88", b"\x89"
LIST, DICT, SET, EMPTY = b"]", b"}", b"\x8f", b")"
REDUCE, NEWOBJ, BUILD, PID = b"R", b"\x81", b"b", b"Q"
APPEND, APPENDS, SETITEM, SETITEMS = b"a", b"e", b"s", b"u"
POP, DUP, MEMOIZE = b"0", b"2", b"\x94"
MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."


# -- opcodes ---------------------------------------------------------------------------------------------


def pickled(*body: bytes) -> bytes:
    return PROTO + b"".join(body) + STOP


def text(value: str | bytes) -> bytes:
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return (b"\x8a" + bytes([len(data)]) if len(data) < 256 else b"\x8b" + struct.pack("<i", len(data))) + data


def tuple_of(*items: bytes) -> bytes:
    return MARK + b"".join(items) + b"t"


def list_of(*items: bytes) -> bytes:
    return LIST + MARK + b"".join(items) + APPENDS


def dict_of(*pairs: bytes) -> bytes:
    """Keys and values in turn."""
    return DICT + MARK + b"".join(pairs) + SETITEMS


def name(module: str | bytes, qualified: str | bytes) -> bytes:
    parts = [part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part for part in (module, qualified)]
    return b"c" + parts[0] + b"\n" + parts[1] + b"\n"


def put(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def get(index: int) -> bytes:
    return b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index)


def call(callee: bytes, *args: bytes) -> bytes:
    return callee + tuple_of(*args) + REDUCE


def new(callee: bytes, state: bytes) -> bytes:
    """An object of a class, with BUILD."""
    return callee + EMPTY + NEWOBJ + state + BUILD


FLOATS = name("torch", "FloatStorage")
ORDERED = name("collections", "OrderedDict") + EMPTY + REDUCE
REBUILD = name("torch._utils", "_rebuild_tensor_v2")


def storage(key: bytes | str = "0", numel: bytes | int = 4, kind: bytes = FLOATS, device: bytes | str = "cpu",
            *view: bytes) -> bytes:  # fmt: skip
    return tuple_of(
        text("storage"), kind,
        text(key) if isinstance(key, str) else key,
        text(device) if isinstance(device, str) else device,
        number(numel) if isinstance(numel, int) else numel, *view,
    ) + PID  # fmt: skip


def sizes(*dims: int) -> bytes:
    return tuple_of(*map(number, dims))


def tensor(stored: bytes | None = None, size: bytes = sizes(4), stride: bytes = sizes(1), offset: bytes = number(0),
           *more: bytes) -> bytes:  # fmt: skip
    return call(REBUILD, stored or storage(), offset, size, stride, FALSE, ORDERED, *more)


def module(*, parameters: bytes = DICT, buffers: bytes = DICT, modules: bytes = DICT, more: bytes = b"") -> bytes:
    """An ``nn.Module`` as its pickle has it."""
    state = (text("_parameters"), parameters, text("_buffers"), buffers, text("_modules"), modules, more)
    return new(name("torch.nn.modules.module", "Module"), dict_of(*state))


GOOD = tensor()  # of the storage that every archive here has


def tower(leaf: bytes, levels: int, join: bytes) -> bytes:
    """A value that is held twice by a value that is held twice by …: ``join`` makes one of two."""
    return leaf + (DUP + join) * levels


def keep(index: int, value: bytes = b"") -> bytes:
    """Put a value, or what is on the stack, into the memo and off the stack."""
    return value + put(index) + POP


def repeated(value: bytes, times: int) -> bytes:
    """A list of the same opcodes again and again."""
    return LIST + MARK + value * times + APPENDS


# -- zip -------------------------------------------------------------------------------------------------


class Member(NamedTuple):
    """One record; what is None is told truly. ``says_*`` are the lies of the directory, ``local_*`` of the header."""

    name: bytes
    data: bytes = b""
    deflate: bool = False
    flags: int = 0x800
    method: int | None = None
    crc: int | None = None
    says_compressed: int | None = None
    says_size: int | None = None
    says_offset: int | None = None
    extra: bytes = b""
    local_name: bytes | None = None
    local_method: int | None = None
    local_extra: bytes = b""
    local_magic: bytes = b"PK\x03\x04"
    listed: bool = True


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def archive(
    members: Iterable[Member], *, prefix: bytes = b"", between: bytes = b"", comment: bytes = b"", count: int | None = None,
    shift: int = 0, directory_size: int | None = None, end64: tuple[int, int, int] | None = None, disk: int = 0,
    trailing: bytes = b"",
) -> bytes:  # fmt: skip
    """A zip file; ``end64`` adds a zip64 end record with this count, size and offset of the directory (-1: the true one)."""
    body, entries, total = bytearray(prefix), bytearray(), 0
    for m in members:
        packed = deflated(m.data) if m.deflate else m.data
        method = m.method if m.method is not None else 8 * m.deflate
        crc = zlib.crc32(m.data) if m.crc is None else m.crc
        offset = len(body)
        local_name = m.name if m.local_name is None else m.local_name
        body += struct.pack(
            "<4s5H3I2H", m.local_magic, 20, m.flags, method if m.local_method is None else m.local_method, 0, 0, crc,
            len(packed), len(m.data), len(local_name), len(m.local_extra),
        ) + local_name + m.local_extra + packed  # fmt: skip
        if m.listed:
            total += 1
            entries += struct.pack(
                "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, m.flags, method, 0, 0, crc,
                len(packed) if m.says_compressed is None else m.says_compressed,
                len(m.data) if m.says_size is None else m.says_size, len(m.name), len(m.extra), 0, 0, 0, 0,
                offset if m.says_offset is None else m.says_offset,
            ) + m.name + m.extra  # fmt: skip
    start = len(body)
    body += entries + between
    total = total if count is None else count
    size = len(entries) if directory_size is None else directory_size
    if end64 is not None:
        at = len(body)
        lies = [true if lie < 0 else lie for lie, true in zip(end64, (total, size, start), strict=True)]
        body += struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, lies[0], *lies)
        body += struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
    here = min(total, 0xFFFF)
    body += struct.pack("<4s4H2IH", b"PK\x05\x06", disk, disk, here, here, size, start + shift, len(comment)) + comment
    return bytes(body) + trailing


def members(pickle: bytes, *more: Member, storages: int = 1, deflate: bool = False) -> list[Member]:
    """What torch.save writes; each storage is 16 bytes."""
    data = [Member(b"a/data/%d" % key, bytes(16)) for key in range(storages)]
    rest = [Member(b"a/byteorder", b"little"), *data, Member(b"a/version", b"3\n")]
    return [Member(b"a/data.pkl", pickle, deflate), *rest, *more]


def checkpoint(*body: bytes, deflate: bool = False) -> bytes:
    """A torch zip around the opcodes of one value."""
    return archive(members(pickled(*body), deflate=deflate))


def script(*body: bytes, code: bytes = b"", deflate: bool = False) -> bytes:
    """A TorchScript archive; ``code`` is its one source file."""
    more = [Member(b"a/constants.pkl", pickled(EMPTY)), Member(b"a/code/__torch__.py", code, deflate)]
    return archive(members(pickled(*body), *more))


# -- the other containers --------------------------------------------------------------------------------


def legacy(*body: bytes, keys: bytes | None = None, data: bytes | None = None) -> bytes:
    """The stream of torch before 1.6, with one storage of four floats."""
    head = MAGIC + pickled(number(1001)) + pickled(dict_of(text("little_endian"), TRUE))
    keys = pickled(list_of(text("0"))) if keys is None else keys
    return head + pickled(*body) + keys + (struct.pack("<q", 4) + bytes(16) if data is None else data)


def nested(stream: bytes) -> bytes:
    """``torch.storage._load_from_bytes`` of a stream, as plain pickles have it."""
    return call(name("torch.storage", "_load_from_bytes"), b"B" + struct.pack("<I", len(stream)) + stream)


def tar(entries: Sequence[tuple[bytes, bytes]], *, size: bytes | None = None, kind: bytes = b"0") -> bytes:
    """A ustar file; ``size`` is the size field that every header gets instead of the true one."""
    out = bytearray()
    for member, data in entries:
        field = b"%011o\0" % len(data) if size is None else size
        header = member.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + field.ljust(12, b"\0") + b"00000000000\0"
        header += b" " * 8 + kind + bytes(100) + b"ustar\0" + b"00"
        header = header.ljust(512, b"\0")
        out += header[:148] + b"%06o\0 " % sum(header) + header[156:] + data + bytes(-len(data) % 512)
    return bytes(out) + bytes(1024)


def tar_storages(*entries: tuple[bytes, bytes, int, bytes], count: bytes | None = None, views: bytes = LIST) -> bytes:
    """Member ``storages``: (key, class, stated numel, data) each."""
    out = pickled(number(len(entries)) if count is None else count)
    for key, kind, numel, data in entries:
        out += pickled(tuple_of(key, text("cpu"), kind)) + struct.pack("<q", numel) + data
    return out + pickled(views)


def tar_tensors(*entries: tuple[bytes, bytes, Sequence[int], Sequence[int], int], count: bytes | None = None) -> bytes:
    """Member ``tensors``: (key, storage key, sizes, strides, offset) each."""
    out = pickled(number(len(entries)) if count is None else count)
    for key, stored, size, stride, offset in entries:
        out += pickled(tuple_of(key, stored, name("torch", "FloatTensor"))) + struct.pack("<i4x", len(size))
        out += struct.pack(f"<{len(size) + len(stride)}q", *size, *stride) + struct.pack("<q", offset)
    return out


def safetensors(header: Any, data: bytes = bytes(16), *, length: int | None = None) -> bytes:
    """A header (text or anything JSON takes) and data; ``length`` is the lie of the first eight bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(
    shape: Sequence[Any] = (4,), offsets: Sequence[Any] = (0, 16), dtype: Any = "F32", **more: Any
) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}
