"""Attacks of JSON headers: safetensors, indexes of shards, and the directories around them."""

# fmt: off: one attack a line
from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from .build import GOOD, checkpoint, dict_of, entry, pickled, safetensors, text
from .pickles import BOMB, DANGEROUS, beside
from .registry import ANY, CORRUPT, FORMAT, LIMIT, OPENS, add, add_directory, add_path

# -- safetensors ---------------------------------------------------------------------------------------------

add("safetensors: nothing wrong", lambda: safetensors({"a": entry()}))
for length in (0, 1, 7, 10**8 + 1, 2**62, 2**64 - 1):
    add(
        f"safetensors: a header of {length} bytes",
        lambda length=length: safetensors({"a": entry()}, length=length),
        ANY,
    )
for label, raw in {
    "100,000 brackets": b'{"a":' + b"[" * 100_000,
    "100,000 braces": b'{"a":' * 100_000,
    "126 brackets": b'{"a":' + b"[" * 126 + b"]" * 126 + b"}",
    "no JSON": b"{x}",
    "only a brace": b"{",
    "NUL at the end": b"{}" + bytes(8),
    "no UTF-8": b'{"\xff":1}',
    "a key twice": b'{"a":1,"a":2}',
    "metadata twice": b'{"__metadata__":{},"__metadata__":{}}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":-Infinity}',
    "5,000 digits": b'{"a":' + b"9" * 5000 + b"}",
    "a lone surrogate": b'{"\\ud800":1}',
    "a comma too many": b'{"a":1,}',
    "numbers as metadata": b'{"__metadata__":{"a":1}}',
    "a list as metadata": b'{"__metadata__":[]}',
    "deep metadata": b'{"__metadata__":{"a":' + b"[" * 900 + b"]" * 900 + b"}}",
    "many numbers": b'{"a":[' + b"1," * 300_000 + b"1]}",
    "many lists": b'{"a":[' + b"[]," * 200_000 + b"[]]}",
    "many objects": b'{"a":[' + b"{}," * 200_000 + b"{}]}",
    "a key of 700 KB": b'{"' + b"a" * 700_000 + b'":1}',
}.items():
    add(f"safetensors: {label}", lambda raw=raw: safetensors(raw), CORRUPT)
for label, raw in {
    "a list": b"[]",
    "spaces": b" " * 100_000 + b"{}",
    "a BOM": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
}.items():
    add(f"safetensors: {label} as header", lambda raw=raw: safetensors(raw), ANY)
for label, lie in {
    "an unknown dtype": entry(dtype="F33"),
    "a dtype of a list": entry(dtype=[]),
    "a dtype of None": entry(dtype=None),
    "a long dtype": entry(dtype="x" * 100_000),
    "a size of True": entry([True]),
    "a size of 4.0": entry([4.0]),
    "a size of -4": entry([-4]),
    "a size of text": entry(["4"]),
    "a size of 2**64": entry([2**64]),
    "sizes that overflow": entry([2**40, 2**40]),
    "offsets that overflow": entry(offsets=[0, 2**64]),
    "one offset": entry(offsets=[0]),
    "three offsets": entry(offsets=[0, 8, 16]),
    "offsets backwards": entry(offsets=[16, 0]),
    "negative offsets": entry(offsets=[-16, 0]),
    "offsets of False": entry(offsets=[False, 16]),
    "another length": entry(offsets=[0, 12]),
    "no shape": {"dtype": "F32", "data_offsets": [0, 16]},
    "text": "x",
    "None": None,
    "a number": 1,
    "F4 of odd shape": entry([3], [0, 1], "F4"),
    "F6 of odd bits": entry([1], [0, 1], "F6_E2M3"),
}.items():
    add(f"safetensors: {label} as an entry", lambda lie=lie: safetensors({"a": lie}), CORRUPT)
add(
    "safetensors: a size of 1e400",
    lambda: safetensors(b'{"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,16]}}'),
    CORRUPT,
)
LAYER = [
    "weight",
    "bias",
    "running_mean",
    "running_var",
    "num_batches_tracked",
    "weight_g",
    "weight_v",
    "weight_orig",
    "weight_u",
    "in_proj_weight",
    "weight_ih_l0",
    "weight_hh_l0",
]
SHAPES = [(0,), (0, 0), (0, 0, 0), (0, 0, 0, 0), (0,) * 5, (0,) * 6, (0, 2**40)]
for label, header, says in (
    ("data beyond the end", {"a": entry((2**40,), (0, 2**42))}, "cut"),
    ("a hole", {"a": entry((1,), (12, 16))}, "hole"),
    ("an overlap", {"a": entry(), "b": entry()}, "overlap"),
    ("trailing bytes", {"a": entry((1,), (0, 4))}, "after the last"),
    ("an unknown field", {"a": entry(x=1)}, ""),
    ("no tensors", {}, ""),
    ("sizes of 0 and of 2**63", {"a": entry([0, *[2**63] * 20_000], (0, 0))}, ""),
    ("many sizes of 1", {"a": entry([1] * 200_000, (0, 4))}, ""),
    ("a 0 and many nines", {"a": entry([0, *[9] * 200_000], (0, 0))}, ""),
    ("empty tensors", {f"{i}": entry((0,), (0, 0)) for i in range(10_000)}, ""),
    ("a key of dots", {"." * 700_000: entry()}, ""),
    ("keys of 60 dots", {"a." * 60 + f"{i}": entry((0,), (0, 0)) for i in range(3_000)}, ""),
    ("odd keys", {key: entry((0,), (0, 0)) for key in ("", "/", "~1", ".", "..", "\0", "a/b", "__class__")}, ""),
    (
        "layers that are none",
        {f"{i}.{leaf}": entry(shape, (0, 0)) for i, shape in enumerate(SHAPES) for leaf in LAYER},
        "",
    ),
    (
        "controls",
        {
            "__metadata__": {
                DANGEROUS.replace("\ud800", ""): DANGEROUS.replace("\ud800", ""),
                "format": DANGEROUS.replace("\ud800", ""),
            },
            DANGEROUS.replace("\ud800", ""): entry(),
        },
        "",
    ),
):
    add(
        f"safetensors: {label}",
        lambda header=header: safetensors(header),
        ANY if label == "no tensors" else OPENS,
        says,
    )

# -- indexes -------------------------------------------------------------------------------------------------

SHARD = safetensors({"a": entry()})


def index(
    label: str,
    weight_map: object,
    error: str = OPENS,
    says: str = "",
    prepare: Callable[[Path], object] | None = None,
    raw: bytes | None = None,
) -> None:
    def fill(folder: Path) -> None:
        (folder / "good.safetensors").write_bytes(SHARD)
        if prepare is not None:
            prepare(folder)
        (folder / "model.safetensors.index.json").write_bytes(raw or json.dumps({"weight_map": weight_map}).encode())

    def write(directory: Path) -> Path:
        fill(directory)
        return directory / "model.safetensors.index.json"

    add_directory(f"index: {label}", fill, error, says)
    add_path(f"index: {label}, by its name", write, error, says)


index("nothing wrong", {"a": "good.safetensors"})
for shard in ("../x", "/etc/passwd", "a/../../x", "a\\..\\x", "x\0y", "", ".", "./good.safetensors", "a//x", "a/"):
    index(f"{shard!r} as a shard", {"a": shard}, CORRUPT, "outside")
index("itself as a shard", {"a": "model.safetensors.index.json"}, CORRUPT, "index as a shard")
index(
    "another index as a shard",
    {"a": "other.json"},
    CORRUPT,
    "index as a shard",
    lambda f: (f / "other.json").write_text('{"weight_map":{"a":"other.json"}}'),
)
index(
    "itself by a link",
    {"a": "link"},
    OPENS,
    "shard link",
    lambda f: (f / "link").symlink_to("model.safetensors.index.json"),
)
index("a directory as a shard", {"a": "d"}, OPENS, "directory", lambda f: (f / "d").mkdir())
index("a pipe as a shard", {"a": "p"}, OPENS, "pipe", lambda f: os.mkfifo(f / "p"))
index("a pipe by a link", {"a": "l"}, OPENS, "pipe", lambda f: (os.mkfifo(f / "p"), (f / "l").symlink_to("p")))
index("a link to itself", {"a": "l"}, OPENS, "shard l", lambda f: (f / "l").symlink_to("l"))
index("a link to nowhere", {"a": "l"}, OPENS, "missing", lambda f: (f / "l").symlink_to("nowhere"))
index(
    "links to one file",
    {"a": "good.safetensors", "b": "l"},
    OPENS,
    "same file",
    lambda f: (f / "l").symlink_to("good.safetensors"),
)
index("a shard of 1,000 characters", {"a": "x" * 1000}, OPENS, "shard x")
index("a shard of a lone surrogate", {"a": "\ud800"}, OPENS, "shard")
index("a shard of controls", {"a": DANGEROUS.replace("\0", "")}, OPENS, "shard")
index("20,000 missing shards", {f"k{i}": f"s{i}" for i in range(20_000)}, OPENS, "missing")
index("a key that is elsewhere", {"b": "good.safetensors"}, OPENS, "does not name")
index("a list as weight_map", [], FORMAT)
index("objects as shards", {"a": {}}, CORRUPT)
index("numbers as shards", {"a": 1}, CORRUPT)
index("100,000 brackets", None, CORRUPT, raw=b'{"weight_map":' + b"[" * 100_000)
index("no JSON", None, CORRUPT, raw=b'{"weight_map"')
index("a hostile shard", {"a": "bad.pt"}, OPENS, "shard bad.pt", lambda f: (f / "bad.pt").write_bytes(beside(BOMB)))
index(
    "a shard that is no state_dict",
    {"a": "x.pt"},
    OPENS,
    "not in shard",
    lambda f: (f / "x.pt").write_bytes(checkpoint(dict_of(text("m"), dict_of(text("w"), GOOD)))),
)

# -- directories ---------------------------------------------------------------------------------------------

HOSTILE_NAME = "$(touch x);'`\x1b[2J\u202e\n.pt"
add_directory("directory: nothing", lambda f: None, FORMAT)
add_directory("directory: a pipe as index", lambda f: os.mkfifo(f / "x.index.json"), FORMAT, "pipe")
add_directory("directory: a directory as index", lambda f: (f / "x.index.json").mkdir(), FORMAT, "directory")
add_directory("directory: a link to itself", lambda f: (f / "x.pt").symlink_to("x.pt"), FORMAT)
add_directory("directory: a pipe as weights", lambda f: os.mkfifo(f / "x.pt"), FORMAT)
add_directory(
    "directory: names of controls",
    lambda f: ((f / HOSTILE_NAME).mkdir(), os.mkdir(os.fsencode(f) + b"/\xff\x1b[2J")),
    FORMAT,
)
add_directory(
    "directory: weights of a hostile name",
    lambda f: (f / HOSTILE_NAME).write_bytes(checkpoint(dict_of(text("w"), GOOD))),
)
add_directory(
    "directory: hostile weights of a hostile name", lambda f: (f / HOSTILE_NAME).write_bytes(beside(BOMB)), LIMIT
)
add_directory(
    "directory: two weights of hostile names",
    lambda f: [(f / f"{i}{HOSTILE_NAME}").write_bytes(pickled()) for i in range(2)],
    "SelectionError",
)
