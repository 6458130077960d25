"""A process that rewrites a file again and again until it is killed: ``python -m tests.containers.victim KIND PATH``.

It prints the number of the generation when that is complete. ``content`` is what a generation looks like.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
from collections.abc import Iterator

from ckpt_inspect.containers.copying import Piece
from ckpt_inspect.containers.journal import FileEdit, edit, edit_many
from ckpt_inspect.containers.output import replace_directory, replace_file
from ckpt_inspect.model.source import FileSource

HEAD, BODY = 70_000, 500_000


def head(generation: int) -> bytes:
    return b"%020d" % generation + random.Random(generation).randbytes(HEAD - 20)


def tail(generation: int) -> bytes:
    chance = random.Random(-generation - 1)
    return chance.randbytes(chance.randrange(200_000))


def content(generation: int) -> bytes:
    return head(generation) + random.Random("body").randbytes(BODY) + tail(generation)


def generation_of(data: bytes) -> int:
    return int(data[:20])


def change(file: FileEdit, generation: int) -> None:
    """From any generation to this one."""
    file.overwrite(0, head(generation))
    file.truncate(HEAD + BODY)
    data = tail(generation)
    file.append(data[:-30])
    file.barrier()
    file.append(data[-30:])


def pieces(generation: int, body: str) -> Iterator[Piece]:
    source = FileSource(body)
    yield head(generation)
    for offset in range(HEAD, HEAD + BODY, 100_000):
        yield source.slice(offset, 100_000)
    yield tail(generation)


def step(kind: str, path: str, generation: int) -> None:
    """One rewrite."""
    if kind == "edit":
        with edit(path) as file:
            change(file, generation)
            file.commit()
    elif kind == "edit-many":
        paths = [os.path.join(path, name) for name in sorted(os.listdir(path)) if name.startswith("shard")]
        with edit_many(paths) as whole:
            for each in paths:
                change(whole[each], generation)
            whole.commit()
    elif kind == "file":
        replace_file(path, pieces(generation, path), force=True)
    elif kind == "directory":
        names = ("shard-1", "shard-2")
        files = {name: pieces(generation, os.path.join(path, name)) for name in names}
        replace_directory(path, files, force=True)


def main() -> None:
    kind, path, first = sys.argv[1:]
    for generation in itertools.count(int(first)):
        print(generation - 1, flush=True)
        step(kind, path, generation)


if __name__ == "__main__":
    main()
