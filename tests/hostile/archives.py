"""Attacks of the zip container, of what is deflated in it, and of TorchScript archives of both ages."""

# fmt: off: one attack a line
from __future__ import annotations

import json
import struct

from .build import (
    DICT,
    EMPTY,
    GOOD,
    LIST,
    MARK,
    MEMOIZE,
    NONE,
    POP,
    PROTO,
    REDUCE,
    STOP,
    Member,
    archive,
    call,
    dict_of,
    get,
    keep,
    list_of,
    members,
    name,
    new,
    number,
    pickled,
    repeated,
    script,
    text,
    tower,
    tuple_of,
)
from .pickles import CYCLES, DANGEROUS, LONG, LONG_VALUES, MANY, NUMBERS, ODD_VALUES
from .registry import ANY, CORRUPT, FORMAT, LIMIT, OPENS, add

# -- the directory, its end records, the local headers -------------------------------------------------------

BASE = members(pickled(dict_of(text("weight"), GOOD)))
HUGE = 1 << 62


def zipped(label: str, *more: Member, error: str = OPENS, says: str = "", **lies: object) -> None:
    add(f"zip: {label}", lambda: archive([*BASE, *more], **lies), error, says)  # type: ignore[arg-type]


_INNER = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"  # a member of unknown length


add("zip: 3,000 headers, each in the member before", lambda: _INNER * 3000, ANY)
add("zip: 3,000 headers, each in the member before, and pickles", lambda: (_INNER + pickled(NONE)) * 3000, ANY)
add(
    "zip: the same, deflated in a member",
    lambda: archive([*BASE, Member(b"a/x.pkl", _INNER * 3000, deflate=True)]),
    ANY,
)
add(
    "zip: the same, stored in 20 members",
    lambda: archive([*BASE, *(Member(b"a/%d.zip" % n, _INNER * 300) for n in range(20))]),
    ANY,
)

# What may be a record, where an archive has lost its directory: names one in the other, ends and headers without end.
CUT = archive(BASE)[:-150]
_ENTRY = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 0, 0, 0, 0, 0, 0, 1, 4, 4, 65535, 0, 0, 0, 0, 0, 0) + b"a/x"
_LOCAL = struct.pack("<4s5H3I2H", b"PK\x03\x04", 0, 0x808, 0, 0, 0, 0, 0, 0, 10, 0) + b"a/data.pkl"
_DESCRIPTOR = struct.pack("<4s3I", b"PK\x07\x08", 5, 16, 16)


def _ends() -> bytes:
    entries = _ENTRY * 300
    ends = (struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(entries) + 22 * n, 22 * n, 0) for n in range(20_000))
    return CUT + entries + b"".join(ends)


for _what, _made in {
    "entries of 64 KB names": lambda: CUT + _ENTRY * 15_000,
    "ends of directories": _ends,
    "headers of pickles": lambda: CUT + _LOCAL * 15_000,
    "headers, each in the member before,": lambda: CUT + _INNER.replace(b"a", b"a/data/0") * 15_000,
    "descriptors": lambda: CUT + _DESCRIPTOR * 40_000,
}.items():
    add(f"zip: {_what} where the directory is lost", _made, ANY)
zipped("nothing wrong")
zipped("a name twice", Member(b"a/data.pkl", pickled(NONE)), error=CORRUPT, says="twice")
zipped("a name in another case", Member(b"a/DATA.PKL", pickled(NONE)), error=CORRUPT, says="the same")
zipped("another root", Member(b"b/x"), says="outside")
zipped("a prefix", prefix=b"#!/bin/sh\n", error=FORMAT, says="in front")
zipped("a prefix that is an archive", prefix=archive(BASE))
zipped("trailing bytes", comment=b"x" * 1000)
zipped("70,000 trailing bytes", trailing=bytes(70_000), error=ANY)
zipped("a comment that is an end record", comment=b"PK\x05\x06" + bytes(18), error=ANY)
zipped("a comment that is half an end record", comment=b"PK\x05\x06" + bytes(10))
zipped("a gap before the end record", between=b"x" * 10, error=CORRUPT, says="between")
zipped("nine entries counted", count=9, error=CORRUPT)
zipped("two entries counted", count=2, error=CORRUPT)
zipped("no entries counted", count=0, error=CORRUPT)
zipped("a directory that is too long", directory_size=60_000, error=ANY)
zipped("a directory one byte on", shift=1, error=ANY)
zipped("a directory at 4 GB", shift=0xFFFFFFF0 - 600, error=ANY)
zipped("two disks", disk=1, error=CORRUPT)
zipped("a zip64 end record", end64=(-1, -1, -1))
zipped("a zip64 count of 2**62", end64=(HUGE, -1, -1), error=CORRUPT)
zipped("a zip64 size of 2**62", end64=(-1, HUGE, -1), error=CORRUPT)
zipped("a zip64 offset of 2**62", end64=(-1, -1, HUGE), error=CORRUPT)
zipped("a zip64 end record of another directory", end64=(0, 0, -1), error=CORRUPT)
zipped("an encrypted record", Member(b"a/x", b"x", flags=1), error=FORMAT, says="encrypted")
zipped("method 12", Member(b"a/x", b"x", method=12), error=CORRUPT, says="method")
zipped("a record beyond the end", Member(b"a/x", b"x", says_offset=10**9), error=CORRUPT)
zipped("a record in the directory", Member(b"a/x", b"x", says_compressed=100, says_size=100), error=CORRUPT)
zipped("a record on another", Member(b"a/x", b"x", says_offset=0), error=CORRUPT, says="on each other")
zipped("a record of two lengths", Member(b"a/x", b"x", says_size=2), error=CORRUPT, says="two lengths")
NO_VALUE = 0xFFFFFFFF
zipped(
    "a zip64 record of 2**62 bytes",
    Member(b"a/x", b"x", says_size=NO_VALUE, says_compressed=NO_VALUE, extra=struct.pack("<HHQQ", 1, 16, HUGE, HUGE)),
    error=CORRUPT,
)
zipped(
    "a zip64 record without its extra",
    Member(b"a/x", b"x", says_size=NO_VALUE, says_compressed=NO_VALUE),
    error=CORRUPT,
)
zipped("a zip64 extra that is cut", Member(b"a/x", b"x", says_size=NO_VALUE, extra=b"\1\0\xff\xff\1"), error=CORRUPT)
for label, leaf in {
    "NUL": b"a/x\0y",
    "backslashes": b"a\\..\\x",
    "..": b"a/../../x",
    "a root of ..": b"../x",
    "an absolute path": b"/x",
    "nothing": b"",
    "only a root": b"a/",
    "60,000 characters": b"a/" + b"x" * 60_000,
    "controls": b"\x1b[2J/\xe2\x80\xae\x9b",
}.items():
    add(f"zip: {label} as a name", lambda leaf=leaf: archive([*BASE, Member(leaf, b"x")]))
    add(f"zip: {label} as the first name", lambda leaf=leaf: archive([Member(leaf, b"x"), *BASE]), ANY)
    add(
        f"zip: {label} as all names",
        lambda leaf=leaf: archive([Member(leaf + b"%d" % i, b"x") for i in range(5)]),
        FORMAT,
    )
for label, lie in {
    "another name": {"local_name": b"a/data.pkx"},
    "another method": {"local_method": 8},
    "no magic": {"local_magic": b"PK\x03\x05"},
    "a shifted start": {"local_extra": b"x" * 5},
}.items():
    opens = label == "a shifted start"
    add(
        f"zip: {label} in the first local header",
        lambda lie=lie: archive([BASE[0]._replace(**lie), *BASE[1:]]),
        OPENS if opens else ANY,
    )  # type: ignore[arg-type]
    add(
        f"zip: {label} in the local header of a storage",
        lambda lie=lie: archive([*BASE[:2], BASE[2]._replace(**lie), *BASE[3:]]),
    )  # type: ignore[arg-type]
    add(
        f"zip: {label} in the local header of the version",
        lambda lie=lie: archive([*BASE[:-1], BASE[-1]._replace(**lie)]),
        OPENS if opens else CORRUPT,
    )  # type: ignore[arg-type]
OVER = archive([BASE[1], BASE[0], *BASE[2:]])  # byteorder first: its header claims an extra field as long as the pickle
OVER = OVER.replace(b"\x0b\0\0\0a/byteorder", b"\x0b\0\x40\0a/byteorder", 1)
add("zip: a record that lies in the next", lambda: OVER, CORRUPT, "into the next")
add("zip: a wrong checksum", lambda: archive([BASE[0]._replace(crc=1), *BASE[1:]]), OPENS, "checksum")
add("zip: no checksum", lambda: archive([BASE[0]._replace(crc=0), *BASE[1:]]))
add("zip: a version of 4,000 nines", lambda: archive([*BASE[:-1], Member(b"a/version", b"9" * 4000)]), OPENS, "version")
add(
    "zip: a byteorder of controls",
    lambda: archive([BASE[0], Member(b"a/byteorder", b"\x1b[2J"), *BASE[2:]]),
    OPENS,
    "byteorder",
)
add("zip: a byteorder of 700 KB", lambda: archive([BASE[0], Member(b"a/byteorder", b"x" * 700_000), *BASE[2:]]))
add("zip: 15,000 records", lambda: archive([*BASE, *(Member(b"a/%d" % i) for i in range(15_000))]))
add("zip: 70,002 records", lambda: archive([*BASE, *(Member(b"a/%d" % i) for i in range(70_002))], end64=(-1, -1, -1)))
add("zip: no records", lambda: archive([]), FORMAT)
add("zip: an empty pickle", lambda: archive([Member(b"a/data.pkl")]), CORRUPT)
add("zip: an end record of zeros", lambda: b"PK\x03\x04" + bytes(100) + b"PK\x05\x06" + bytes(18), CORRUPT)
add(
    "zip: 3,000 end records",
    lambda: b"PK\x03\x04" + (b"PK\x05\x06" + bytes(12) + b"\xff\xff\xff\x7f\0\0") * 3000,
    CORRUPT,
)
WHOLE = archive(BASE, end64=(-1, -1, -1))
BOUNDARIES = [WHOLE.find(b"PK", at) for at in range(len(WHOLE) - 30)]
for at in sorted(
    {
        1,
        3,
        4,
        29,
        31,
        40,
        *BOUNDARIES,
        *(boundary + 2 for boundary in BOUNDARIES),
        *(boundary + 30 for boundary in BOUNDARIES),
    }
):
    if at < len(WHOLE):
        add(f"zip: cut at byte {at}", lambda at=at: WHOLE[:at], ANY)

# -- deflated members ----------------------------------------------------------------------------------------

for kind, step in {
    "nothing": NONE + POP,
    "empty dicts": DICT,
    "marks": MARK,
    "memo entries": NONE + MEMOIZE,
    "calls": NONE + NONE + REDUCE,
}.items():
    add(
        f"deflated: 100 MB of {kind}",
        lambda step=step: archive(members(PROTO + step * (10**8 // len(step)) + DICT + STOP, deflate=True)),
        LIMIT,
    )
    add(
        f"deflated: 3 MB of {kind}",
        lambda step=step: archive(members(PROTO + step * (3_000_000 // len(step)) + DICT + STOP, deflate=True)),
        ANY,
    )
SCRIPT = [*members(pickled(new(name("__torch__", "M"), DICT))), Member(b"a/constants.pkl", pickled(EMPTY))]
add("deflated: code of 100 MB", lambda: archive([*SCRIPT, Member(b"a/code/__torch__.py", b"#" * 10**8, True)]), LIMIT)
add(
    "deflated: 100 files of code",
    lambda: archive([*SCRIPT, *(Member(b"a/code/%d.py" % i, b"#" * 1_000_000, True) for i in range(100))]),
    LIMIT,
)
add(
    "deflated: 90 MB of model.json",
    lambda: archive([Member(b"a/model.json", b"[" + b"[]," * 30_000_000 + b"[]]", True)]),
    LIMIT,
)
add("deflated: 100 MB of byteorder", lambda: archive([BASE[0], Member(b"a/byteorder", bytes(10**8), True), *BASE[2:]]))
add(
    "deflated: more than is declared",
    lambda: archive([BASE[0]._replace(deflate=True, says_size=20), *BASE[1:]]),
    CORRUPT,
)
add(
    "deflated: less than is declared",
    lambda: archive([BASE[0]._replace(deflate=True, says_size=10_000), *BASE[1:]]),
    CORRUPT,
    "inflates to less",
)
add("deflated: not at all", lambda: archive([BASE[0]._replace(method=8), *BASE[1:]]), CORRUPT, "cannot be inflated")
add(
    "deflated: exabytes declared",
    lambda: archive(
        [BASE[0]._replace(deflate=True, says_size=NO_VALUE, extra=struct.pack("<HHQ", 1, 8, HUGE)), *BASE[1:]]
    ),
    LIMIT,
)

# -- TorchScript ---------------------------------------------------------------------------------------------

CLASS = b'class M(Module):\n  __parameters__ = ["w", ]\n  w : Tensor\n'
M = name("__torch__", "M")
SCRIPTED = new(M, dict_of(text("w"), GOOD))
add("TorchScript: nothing wrong", lambda: script(SCRIPTED, code=CLASS))
for label, code in {
    "one line of 1 MB": CLASS + b"  x : " + b"a" * 1_000_000,
    "one text of 1 MB": CLASS + b'  x : "' + b"a" * 1_000_000,
    "open brackets": CLASS + b"(" * 300_000,
    "open quotes": CLASS + b'"' * 300_000,
    "newlines": b"\n" * 300_000,
    "NUL": bytes(300_000),
    "backslashes": b"\\" * 300_000,
    "no UTF-8": CLASS + b"  \xff : \xfe\n",
    "many names": b"class M(Module):\n  __parameters__ = [" + b'"w", ' * 100_000 + b"]\n",
    "an endless name": b"class " + b"M" * 700_000 + b"(Module):\n",
    "many classes": b"".join(b"class C%d(Module):\n  x : int\n" % i for i in range(10_000)),
    "a class many times": CLASS * 1000,
    "many constants": CLASS + b"".join(b"  def f%d(self):\n    CONSTANTS.c%d\n" % (i, i) for i in range(10_000)),
    "a device of controls": CLASS + b'  x : torch.device("\x1b[2J\xe2\x80\xae")\n',
}.items():
    add(f"TorchScript code: {label}", lambda code=code: script(SCRIPTED, code=code))
add(
    "TorchScript code: one line of 10 MB, deflated",
    lambda: script(SCRIPTED, code=CLASS + b"  x : " + b"a" * 10_000_000, deflate=True),
    LIMIT,
)
for kind, odd in ODD_VALUES.items():
    for place, (root, constants) in {
        "the root": (odd, EMPTY),
        "a state": (new(M, odd), EMPTY),
        "a parameter": (new(M, dict_of(text("w"), odd)), EMPTY),
        "the name of a parameter": (new(M, dict_of(odd, GOOD)), EMPTY),
        "an attribute": (new(M, dict_of(text("x"), odd)), EMPTY),
        "the constants": (SCRIPTED, odd),
        "a constant": (SCRIPTED, tuple_of(odd, GOOD)),
        "an enum": (new(M, dict_of(text("x"), M + odd + REDUCE)), EMPTY),
        "a typed list": (new(M, dict_of(text("x"), call(name("torch.jit._pickle", "build_tensorlist"), odd))), EMPTY),
        "a typed dict": (
            new(M, dict_of(text("x"), call(name("torch.jit._pickle", "restore_type_tag"), odd, odd))),
            EMPTY,
        ),
    }.items():
        add(
            f"TorchScript: {kind} as {place}",
            lambda root=root, constants=constants: archive(
                [
                    *members(pickled(root)),
                    Member(b"a/constants.pkl", pickled(constants)),
                    Member(b"a/code/__torch__.py", CLASS),
                ]
            ),
            ANY,
        )
for kind, code in CYCLES.items():
    add(
        f"TorchScript: a cycle through {kind}",
        lambda code=code: script(new(M, dict_of(text("x"), code)), code=CLASS),
        ANY,
    )
TWICE = keep(9) + POP + new(M, dict_of(text("a"), get(9), text("b"), get(9)))
add(
    "TorchScript: a bomb of modules",
    lambda: script(tower(SCRIPTED, 60, TWICE), code=CLASS),
    LIMIT,
    "expand without end",
)
add(
    "TorchScript: a bomb of lists",
    lambda: script(
        new(M, dict_of(text("x"), tower(number(1), 60, keep(9) + POP + list_of(get(9), get(9))))), code=CLASS
    ),
)
add(
    "TorchScript: typed lists 20,000 deep",
    lambda: script(
        new(
            M,
            dict_of(
                text("x"), name("torch.jit._pickle", "build_tensorlist") * 20_000 + LIST + (b"\x85" + REDUCE) * 20_000
            ),
        ),
        code=CLASS,
    ),
)
for kind, code in {
    "a long text": LONG,
    "a list of numbers": list_of(NUMBERS),
    "a tensor": GOOD,
    "an object": LONG_VALUES["an object of scalars"],
    "a module": SCRIPTED,
    "an object of many states": LONG_VALUES["an object of many states"],
}.items():
    add(
        f"TorchScript: {kind}, 20,000 times",
        lambda code=code: script(keep(3, code) + new(M, dict_of(text("x"), repeated(get(3), MANY))), code=CLASS),
        ANY,
    )
    add(
        f"TorchScript: {kind}, as 5,000 attributes",
        lambda code=code: script(
            keep(3, code) + new(M, dict_of(*(text(f"a{i}") + get(3) for i in range(5000)))), code=CLASS
        ),
        ANY,
    )
PARENT = new(M, dict_of(text("k" * 3000), text("HERE"))).split(text("HERE"))
add(
    "TorchScript: modules of long names",
    lambda: script(
        PARENT[0] * 180
        + keep(3, GOOD)
        + new(M, dict_of(*(text(f"{i}") + get(3) for i in range(3000))))
        + PARENT[1] * 180,
        code=CLASS,
    ),
    ANY,
)
add(
    "TorchScript: modules of a class of many names",
    lambda: script(
        keep(3, SCRIPTED) + repeated(get(3), MANY),
        code=b"class M(Module):\n  __parameters__ = [" + b'"w", ' * 50_000 + b"]\n",
    ),
    ANY,
)
DOTTED = DANGEROUS.replace("\n", "")
add(
    "TorchScript: controls in every text",
    lambda: script(
        new(name("__torch__", DOTTED), dict_of(text(DANGEROUS), GOOD, text("x"), text(DANGEROUS))),
        code=CLASS.replace(b"w", b"\x1b[2J"),
    ),
)

# -- model.json ----------------------------------------------------------------------------------------------

TENSOR: dict[str, object] = {
    "dims": ["4"],
    "strides": ["1"],
    "offset": "0",
    "dataType": "FLOAT",
    "device": "cpu",
    "data": {"key": "tensors/0"},
}
ROOT: dict[str, object] = {"name": "M", "parameters": [{"name": "w", "tensorId": "0"}]}


def model(**changes: object) -> bytes:
    made: dict[str, object] = {"protoVersion": 3, "producerVersion": "1", "mainModule": ROOT, "tensors": [TENSOR]}
    return model_of(json.dumps(made | changes).encode())


def model_of(raw: bytes) -> bytes:
    return archive([Member(b"a/model.json", raw), Member(b"a/tensors/0", bytes(16))])


add("model.json: nothing wrong", lambda: model())
for label, field in {
    "a list": [],
    "an object": {},
    "None": None,
    "a huge number": 10**4000,
    "a huge text": "9" * 5000,
    "NaN": float("nan"),
    "a float": 1.5,
    "a boolean": True,
    "-1": -1,
    "lists": json.loads("[" * 400 + "]" * 400),
    "controls": DANGEROUS,
}.items():
    for place in (*TENSOR, "key"):
        lie = TENSOR | ({place: field} if place != "key" else {"data": {"key": field}})
        add(f"model.json: {label} as {place}", lambda lie=lie: model(tensors=[lie]))
    for place in ("dims", "strides"):
        add(
            f"model.json: {label} in {place}",
            lambda place=place, field=field: model(tensors=[TENSOR | {place: [field]}]),
        )
    for place in ("protoVersion", "producerName", "producerVersion", "mainModule", "tensors"):
        add(f"model.json: {label} as {place}", lambda place=place, field=field: model(**{place: field}))
    for place in ("name", "parameters", "submodules"):
        add(
            f"model.json: {label} as {place} of the module",
            lambda place=place, field=field: model(mainModule=ROOT | {place: field}),
        )
    for place in ("name", "tensorId", "isBuffer"):
        add(
            f"model.json: {label} as {place} of a parameter",
            lambda place=place, field=field: model(
                mainModule={"parameters": [{"name": "w", "tensorId": 0} | {place: field}]}
            ),
        )
add("model.json: 100,000 brackets", lambda: model_of(b"[" * 100_000), CORRUPT)
SIZES = ["9000000000000000000"] * 20_000
add(
    "model.json: sizes of 2**63",
    lambda: model(tensors=[TENSOR | {"dims": SIZES, "strides": ["0"] * len(SIZES)}]),
    OPENS,
    "malformed",
)
add(
    "model.json: sizes of 2**63 and a 0",
    lambda: model(tensors=[TENSOR | {"dims": [*SIZES, "0"], "strides": ["0"] * (len(SIZES) + 1)}]),
    OPENS,
    "malformed",
)


def deep_model() -> object:
    node: dict[str, object] = {"submodules": [{"name": "a"}] * 20_000}
    for _ in range(150):
        node = {"submodules": [{"name": "k" * 3000} | node]}
    return node


add("model.json: modules below long names", lambda: model(mainModule=deep_model()), LIMIT, "characters")
