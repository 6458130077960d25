"""Attacks of the legacy stream, of the tar before it, of plain pickles, and of bytes that are none of them."""

# fmt: off: one attack a line
from __future__ import annotations

import struct

from .build import (
    BUILD,
    DICT,
    EMPTY,
    FLOATS,
    GOOD,
    LIST,
    MAGIC,
    NEWOBJ,
    NONE,
    PID,
    POP,
    REBUILD,
    STOP,
    archive,
    call,
    dict_of,
    get,
    keep,
    legacy,
    list_of,
    members,
    name,
    nested,
    number,
    pickled,
    repeated,
    sizes,
    storage,
    tar,
    tar_storages,
    tar_tensors,
    tensor,
    text,
    tuple_of,
)
from .pickles import DANGEROUS, ODD_VALUES, STORAGES
from .registry import ANY, CORRUPT, FORMAT, OPENS, add

# -- the legacy stream ---------------------------------------------------------------------------------------

ROOT = dict_of(text("weight"), GOOD)
KEYS = pickled(list_of(text("0")))
add("legacy: nothing wrong", lambda: legacy(ROOT))
ODD = ODD_VALUES | {
    "a long text": text("x" * 5000),
    "controls": text(DANGEROUS),
    "2**70": number(2**70),
    "-1": number(-1),
}
for kind, odd in ODD.items():
    add(
        f"legacy: {kind} as sys_info",
        lambda odd=odd: (
            MAGIC + pickled(number(1001)) + pickled(odd) + pickled(ROOT) + KEYS + struct.pack("<q", 4) + bytes(16)
        ),
    )
    add(
        f"legacy: {kind} as magic number",
        lambda odd=odd: MAGIC[:-1] + POP + odd + STOP + legacy(ROOT)[len(MAGIC) :],
        ANY,
    )
    add(
        f"legacy: {kind} as protocol",
        lambda odd=odd: MAGIC + pickled(odd) + pickled(NONE) + pickled(ROOT) + KEYS,
        CORRUPT,
    )
    add(f"legacy: {kind} as the list of keys", lambda odd=odd: legacy(ROOT, keys=pickled(odd)))
    add(f"legacy: {kind} as a key", lambda odd=odd: legacy(ROOT, keys=pickled(list_of(odd))))
    for field in range(3):
        view = [text("1"), number(0), number(4)]
        view[field] = odd
        add(
            f"legacy: {kind} as field {field} of a view",
            lambda view=view: legacy(dict_of(text("w"), tensor(storage("0", 4, FLOATS, "cpu", tuple_of(*view))))),
            ANY,
        )
for count in (-1, 0, 3, 5, 2**62, -(2**63)):
    add(
        f"legacy: a count of {count}",
        lambda count=count: legacy(ROOT, data=struct.pack("<q", count) + bytes(16)),
        OPENS,
        "elements",
    )
for label, code in STORAGES.items():
    add(f"legacy: a storage {label}", lambda code=code: legacy(dict_of(text("a"), tensor(code), text("b"), code)))
for label, keys in {
    "no keys": LIST,
    "another key": list_of(text("7")),
    "a key twice": list_of(text("0"), text("0")),
    "a number as key": list_of(number(0)),
    "a key 200,000 times": keep(3, text("0")) + repeated(get(3), 200_000),
}.items():
    add(f"legacy: {label}", lambda keys=keys: legacy(ROOT, keys=pickled(keys)))
    add(
        f"legacy: {label}, and no bytes",
        lambda keys=keys: legacy(
            dict_of(text("w"), tensor(storage(numel=0), sizes(0))), keys=pickled(keys), data=bytes(8)
        ),
    )
for label, view in {
    "beyond": (text("1"), number(0), number(5)),
    "far beyond": (text("1"), number(2**62), number(2**62)),
    "of itself": (text("0"), number(0), number(4)),
    "before": (text("1"), number(-1), number(1)),
    "of one field": (text("1"),),
}.items():
    add(
        f"legacy: a view {label}",
        lambda view=view: legacy(dict_of(text("w"), tensor(storage("0", 4, FLOATS, "cpu", tuple_of(*view)), sizes(1)))),
    )
add(
    "legacy: views of long keys",
    lambda: legacy(
        keep(3, text("k" * 100_000))
        + list_of(
            *(
                tuple_of(
                    text("storage"),
                    FLOATS,
                    get(3),
                    text("cpu"),
                    number(4),
                    tuple_of(text(f"{i}"), number(0), number(1)),
                )
                + PID
                for i in range(5000)
            )
        )
    ),
    ANY,
)
add(
    "legacy: a source of controls",
    lambda: legacy(
        dict_of(
            text("w"),
            GOOD,
            text("m"),
            tuple_of(text("module"), name("__main__", "Net"), text(DANGEROUS), text(DANGEROUS))
            + PID
            + EMPTY
            + NEWOBJ
            + DICT
            + BUILD,
        )
    ),
)
STREAM = legacy(ROOT)
for at in (*range(len(MAGIC) - 2, len(STREAM), 37), len(STREAM) - 1, len(STREAM) - 17, len(STREAM) - 25):
    add(f"legacy: cut at byte {at}", lambda at=at: STREAM[:at], ANY)

# -- the tar -------------------------------------------------------------------------------------------------

TAR_STORAGES = tar_storages((number(1), FLOATS, 4, bytes(16)))
TAR_TENSORS = tar_tensors((number(2), number(1), (4,), (1,), 0))
OBJECT = pickled(dict_of(text("w"), text("2") + PID))


def tarred(
    stored: bytes = TAR_STORAGES, tensors: bytes = TAR_TENSORS, size: bytes | None = None, kind: bytes = b"0"
) -> bytes:
    return tar(
        [(b"sys_info", pickled(DICT)), (b"pickle", OBJECT), (b"tensors", tensors), (b"storages", stored)],
        size=size,
        kind=kind,
    )


add("tar: nothing wrong", lambda: tarred())
for label, digits in {
    "a negative size": b"-0000000001",
    "a size of nines": b"99999999999",
    "no size": b"",
    "a size in base 256": b"\x80" + b"\xff" * 10,
    "a size of spaces": b"  7 7 7",
}.items():
    add(f"tar: {label}", lambda digits=digits: tarred(size=digits), CORRUPT)
for digits in (b"77777777777", b"777777777777"):
    add(f"tar: a size of {len(digits)} sevens", lambda digits=digits: tarred(size=digits), CORRUPT)
for kind, odd in ODD.items():
    for place, made in {
        "the number of storages": (tar_storages(count=odd), TAR_TENSORS),
        "the number of tensors": (TAR_STORAGES, tar_tensors(count=odd)),
        "the key of a storage": (tar_storages((odd, FLOATS, 4, bytes(16))), TAR_TENSORS),
        "the class of a storage": (tar_storages((number(1), odd, 4, bytes(16))), TAR_TENSORS),
        "the key of a tensor": (TAR_STORAGES, tar_tensors((odd, number(1), (4,), (1,), 0))),
        "the storage of a tensor": (TAR_STORAGES, tar_tensors((number(2), odd, (4,), (1,), 0))),
        "the views": (tar_storages((number(1), FLOATS, 4, bytes(16)), views=odd), TAR_TENSORS),
        **{
            f"field {i} of a view": (
                tar_storages(
                    (number(1), FLOATS, 4, bytes(16)),
                    views=list_of(tuple_of(*(odd if i == j else number(n) for j, n in enumerate((3, 1, 0, 4))))),
                ),
                TAR_TENSORS,
            )
            for i in range(4)
        },
    }.items():
        add(f"tar: {kind} as {place}", lambda made=made: tarred(*made), ANY)
for numel in (-1, 5, 2**62, -(2**63), 2**63 - 1):
    add(
        f"tar: a storage of {numel} elements",
        lambda numel=numel: tarred(
            tar_storages((number(1), FLOATS, numel, bytes(16)), (number(5), FLOATS, 1, bytes(4)))
        ),
        CORRUPT if numel < 0 or numel == 5 else OPENS,  # 5: the next pickle begins in its middle
        "" if numel < 0 or numel == 5 else "is cut",
    )
for label, (size, stride, offset) in {
    "negative sizes": ((-4,), (1,), 0),
    "huge sizes": ((2**62,) * 3, (2**62,) * 3, 0),
    "a negative offset": ((4,), (1,), -5),
    "huge sizes of step 0": ((2**62,) * 1000, (0,) * 1000, 0),
    "huge sizes and a 0": ((*(2**62,) * 1000, 0), (0,) * 1001, 0),
}.items():
    add(
        f"tar: {label}", lambda a=size, b=stride, c=offset: tarred(tensors=tar_tensors((number(2), number(1), a, b, c)))
    )
add(
    "tar: two billion dimensions",
    lambda: tarred(tensors=TAR_TENSORS.replace(struct.pack("<i4x", 1), struct.pack("<i4x", 2 * 10**9))),
    CORRUPT,
)
add("tar: 20,000 storages", lambda: tarred(tar_storages(*((number(i), FLOATS, 0, b"") for i in range(20_000)))))
add("tar: members twice", lambda: tar([(b"pickle", OBJECT), (b"storages", TAR_STORAGES)] * 3), OPENS, "tensors")
add("tar: links", lambda: tarred(kind=b"2"), CORRUPT)
add("tar: 1,000 members of one name", lambda: tar([(b"x", b"")] * 1000), FORMAT)
add(
    "tar: a name of controls",
    lambda: tar([(DANGEROUS.encode("utf-8", "surrogatepass")[:90].replace(b"\0", b""), b"")]),
    FORMAT,
)
TARRED = tarred()
for at in range(300, len(TARRED), 300):
    add(f"tar: cut at byte {at}", lambda at=at: TARRED[:at], ANY)

# -- plain pickles -------------------------------------------------------------------------------------------

SMALL = legacy(storage())
add("plain: nothing wrong", lambda: pickled(dict_of(text("w"), tensor(nested(SMALL)))))


def streams_in_streams(depth: int) -> bytes:
    stream = SMALL
    for _ in range(depth):
        stream = legacy(nested(stream))
    return pickled(dict_of(text("w"), tensor(nested(stream)), text("v"), GOOD))


for depth in (2, 1000):
    add(f"plain: {depth} streams one in the other", lambda depth=depth: streams_in_streams(depth))
for label, stream in {
    "nothing": b"",
    "nonsense": b"x" * 1000,
    "a bomb": legacy(ODD["bomb"]),
    "no storage": legacy(NONE),
    "a tensor": legacy(GOOD),
    "half a storage": SMALL[: len(SMALL) // 2],
    "a cut storage": SMALL[:-8],
    "700 KB": legacy(list_of(NONE * 700_000)),
    "a zip": archive(members(pickled(ROOT))),
    "a storage": SMALL,
}.items():
    add(
        f"plain: {label} as a nested stream",
        lambda stream=stream: pickled(dict_of(text("w"), tensor(nested(stream)), text("v"), GOOD)),
    )
    rest = number(0), sizes(4), sizes(1), NONE, NONE
    add(
        f"plain: {label} in 5,000 calls",
        lambda stream=stream, rest=rest: pickled(
            keep(3, b"B" + struct.pack("<I", len(stream)) + stream)
            + keep(4, name("torch.storage", "_load_from_bytes"))
            + repeated(call(REBUILD, call(get(4), get(3)), *rest), 5000)
        ),
        ANY,
    )
    add(
        f"plain: {label} in one call of 5,000 tensors",
        lambda stream=stream, rest=rest: pickled(
            keep(3, nested(stream)) + repeated(call(REBUILD, get(3), *rest), 5000)
        ),
        ANY,
    )
add("plain: what it would import", lambda: pickled(call(name("os", "system"), text("echo"))), FORMAT, "os.system")
add("plain: a pickle that breaks", lambda: pickled(name("os", "system"))[:-1] + b"\xff", CORRUPT, "os.system")
add("plain: 60,000 names", lambda: pickled(list_of(*(name("m", f"C{i}") for i in range(60_000)))), FORMAT)
for protocol in (0, 1, 2, 3, 4, 5, 6, 7, 128, 255):
    add(
        f"plain: protocol {protocol}",
        lambda protocol=protocol: b"\x80" + bytes([protocol]) + name("os", "system") + STOP,
        FORMAT,
    )

# -- other bytes ---------------------------------------------------------------------------------------------

add("no bytes", lambda: b"", FORMAT, "empty")
add("a page with a title of controls", lambda: b"<html><title>\x1b[2J\xe2\x80\xae&#27;</title>", FORMAT)
add(
    "a pointer of git-LFS with a long size",
    lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize " + b"9" * 5000,
    FORMAT,
)
for first in range(0, 256, 3):
    add(f"byte {first}", lambda first=first: bytes([first]), FORMAT)
    add(f"byte {first}, 4,096 times", lambda first=first: bytes([first]) * 4096, ANY)
