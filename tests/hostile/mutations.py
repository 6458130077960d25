"""Files that are nearly right: real ones, changed a little where it matters."""

from __future__ import annotations

import json
import pickletools
import zipfile
from collections.abc import Callable
from io import BytesIO
from random import Random
from typing import Any

from .build import Member, archive
from .pickles import ODD_VALUES

Mutation = Callable[[Random, bytes], bytes]

_ODD_NUMBERS = (
    0,
    1,
    -1,
    127,
    128,
    255,
    256,
    2**31 - 1,
    -(2**31),
    2**32,
    2**62,
    2**63,
    -(2**63),
    2**64,
    1.5,
    1e308,
    True,
    None,
)
_ODD_TEXTS = (
    "",
    "/",
    "..",
    "\0",
    "~1",
    ".",
    "module.",
    "storage",
    "\ud800",
    "\x1b[2J",
    "a" * 300,
    "param_groups",
    "state",
    "_metadata",
)
_SHORT_ODD_VALUES = [value for value in ODD_VALUES.values() if len(value) < 2000]
_OPCODES = [op.code.encode("latin-1") for op in pickletools.opcodes if op.arg is None]


def flipped_once(random: Random, data: bytes) -> bytes:
    """One bit of one byte."""
    changed = bytearray(data)
    changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def flipped(random: Random, data: bytes) -> bytes:
    """A few bytes replaced, half of them by bytes that mean something."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        if changed:
            byte = (
                random.choice((0, 1, 0x7F, 0x80, 0xFF, *b'().012NQRabceqst}]{["'))
                if random.random() < 0.5
                else random.randrange(256)
            )
            changed[random.randrange(len(changed))] = byte
    return bytes(changed)


def spliced(random: Random, data: bytes) -> bytes:
    """A stretch left out, said twice, or put elsewhere."""
    start, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    end = min(end, start + random.choice((1, 4, 16, 64, 1024)))
    piece, at = data[start:end], random.randrange(len(data) + 1)
    return random.choice(
        (data[:start] + data[end:], data[:at] + piece + data[at:], data[:at] + piece + data[at + len(piece) :])
    )


def cut(random: Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def of_opcodes(random: Random, data: bytes) -> bytes:
    """A pickle with opcodes left out, added, exchanged, or with other arguments; anything else has bytes flipped."""
    try:
        places = [place for _, _, place in pickletools.genops(data) if place is not None]
    except ValueError:
        return flipped(random, data)
    rest = data[places[-1] + 1 :]
    codes = [data[a:b] for a, b in zip(places, [*places[1:], places[-1] + 1], strict=True)]
    for _ in range(random.choice((1, 1, 2, 3, 8))):
        at, other = random.randrange(len(codes)), random.randrange(len(codes))
        match random.randrange(6):
            case 0:
                codes[at] = b""
            case 1:
                codes[at], codes[other] = codes[other], codes[at]
            case 2:
                codes.insert(at, random.choice(_OPCODES))
            case 3:
                codes.insert(at, random.choice(_SHORT_ODD_VALUES))
            case 4:
                codes[at] = flipped(random, codes[at])
            case 5:
                codes[at:at] = codes[other : other + random.choice((1, 3, 10))]
    return b"".join(codes) + rest


def of_json(random: Random, data: bytes) -> bytes:
    """A JSON document in which some values are others."""
    try:
        document = json.loads(data)
    except ValueError:
        return flipped(random, data)
    for _ in range(random.choice((1, 1, 2, 4))):
        document = _changed(random, document)
    return json.dumps(document).encode()


def _changed(random: Random, value: Any) -> Any:
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        name = random.choice(_ODD_TEXTS) if random.random() < 0.1 else key
        return {name if k == key else k: _changed(random, v) if k == key else v for k, v in value.items()}
    if isinstance(value, list) and value and random.random() < 0.8:
        at = random.randrange(len(value))
        return [*value[:at], _changed(random, value[at]), *value[at + 1 :]]
    return random.choice((*_ODD_NUMBERS, *_ODD_TEXTS, [], {}, [value], {"a": value}, [value] * 3))


def of_records(random: Random, data: bytes) -> bytes:
    """A zip whose parsed records are changed and whose directory is right again."""
    with zipfile.ZipFile(BytesIO(data)) as old:
        records = [(info.filename, old.read(info)) for info in old.infolist()]
    parsed = [name for name, _ in records if name.endswith((".pkl", ".py", ".json", "version", "byteorder"))]
    chosen = random.choice(parsed) if random.random() < 0.3 else parsed[0]
    members = []
    for name, content in records:
        if name == chosen:
            how = (
                of_opcodes
                if name.endswith(".pkl")
                else of_json
                if name.endswith(".json")
                else random.choice((flipped, spliced))
            )
            content = how(random, content)
        members.append(Member(name.encode("utf-8", "surrogateescape"), content, deflate=random.random() < 0.1))
    if random.random() < 0.1:
        random.shuffle(members)
    return archive(members)


def of_header(random: Random, data: bytes) -> bytes:
    """A safetensors file with another header of the right length."""
    length = int.from_bytes(data[:8], "little")
    header = of_json(random, data[8 : 8 + length])
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def of_pickles(random: Random, data: bytes) -> bytes:
    """A stream of pickles, one of which is changed."""
    start = 0
    pickles = []
    try:
        while True:
            end = next(place for op, _, place in pickletools.genops(data[start:]) if op.name == "STOP") or 0
            pickles.append((start, start + end + 1))
            start += end + 1
    except (ValueError, StopIteration, IndexError):
        pass
    if not pickles:
        return flipped(random, data)
    start, end = random.choice([*pickles, max(pickles, key=lambda span: span[1] - span[0])])
    return data[:start] + of_opcodes(random, data[start:end]) + data[end:]


def mutations(data: bytes) -> list[Mutation]:
    """What can be done to a file, by what it is; the telling ones more often."""
    blind: list[Mutation] = [flipped, spliced, cut]
    if data[:4] == b"PK\x03\x04":
        return [*blind, *[of_records] * 6]
    if data[8:9] == b"{":
        return [*blind, *[of_header] * 4]
    if data[:1] == b"{":
        return [*blind, *[of_json] * 4]
    return [*blind, *[of_pickles] * 4]
