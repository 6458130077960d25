"""What is wrong with a file: words, and what they are about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Problem(str):
    """A sentence; where it is known, the record that is damaged and the tensors that are hurt by it.

    Attributes:
        record: name of the member of the archive, or id of the storage; None: not one of them.
        names: tensors that the problem names itself; others follow from the record.
        node: the graph node of a tensor that could not be described.
        hint: what to do about it; None where that is not known.
        damage: False for what is odd, or not understood here, in a file that may be sound.
    """

    __slots__ = ("damage", "hint", "names", "node", "record")

    record: str | None
    names: tuple[str, ...]
    damage: bool
    node: Any
    hint: str | None

    def __new__(
        cls, text: str, record: str | None = None, names: Sequence[str] = (), damage: bool = True, node: Any = None,
        hint: str | None = None,
    ) -> Problem:  # fmt: skip
        self = super().__new__(cls, text)
        self.record = record
        self.names = tuple(names)
        self.damage = damage
        self.node = node
        self.hint = hint
        return self

    @classmethod
    def of(cls, text: str) -> Problem:
        """A problem that may be bare words."""
        return text if isinstance(text, Problem) else cls(text)

    def in_shard(self, name: str) -> Problem:
        """The same, as the whole says it that the shard is a part of."""
        record = f"{name}:{self.record}" if self.record else None
        return Problem(f"shard {name}: {self}", record, self.names, self.damage, self.node, self.hint)
