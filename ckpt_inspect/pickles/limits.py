"""Bounds that no honest file meets, in one place."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """What a reader accepts before it gives up with a :class:`~ckpt_inspect.errors.LimitError`.

    Attributes:
        objects: containers and calls that one pickle may make. A checkpoint of 100,000 tensors makes 700,000.
        memo: entries of one pickle's memo.
        stack: values that may wait on one pickle's stack.
        integer: bytes of one integer.
        string: bytes of one string or line.
        name: characters of one name to import; TorchScript's longest are a few hundred.
        inflated: bytes to which the members of one archive that are parsed may inflate, and as much again as
            four times the archive; scripts and pickles deflate to a fifth, and weights lie beside them.
        depth: nesting of containers or modules that is followed.
        records: members of one archive.
        header: bytes of one JSON header or index; safetensors itself refuses more than 100 MB.
    """

    objects: int = 20_000_000
    memo: int = 20_000_000
    stack: int = 8_000_000
    integer: int = 1024
    string: int = 1 << 30
    name: int = 1000
    inflated: int = 4_000_000
    depth: int = 200
    records: int = 2_000_000
    header: int = 100_000_000

    def of_deflated(self, nbytes: int) -> Limits:
        """For a pickle that was deflated: a few bytes may make many objects; what honest ones of that length make is allowed."""
        room = 100_000 + nbytes // 8
        return self._replace(objects=min(self.objects, room), memo=min(self.memo, room))


DEFAULT = Limits()
