"""``ckpt code``: Python source of the modules that a checkpoint shows, with what cannot be known left as comments."""

from __future__ import annotations

import os
import re
from typing import Any

from ..model.checkpoint import Checkpoint

SCHEMA = "ckpt-inspect/code/1"


class Code:
    """The source.

    Attributes:
        checkpoint: the file; ``section``: pointer of the weights in it.
        source: Python; ``build()`` in it makes the modules.
        layers, containers: how many modules are layers of ``torch.nn``, and how many only hold names.
    """

    def __init__(self, checkpoint: Checkpoint, section: str, source: str, layers: int, containers: int) -> None:
        self.checkpoint = checkpoint
        self.section = section
        self.source = source
        self.layers = layers
        self.containers = containers

    def __repr__(self) -> str:
        return f"<Code of {self.checkpoint.path}: {self.layers} layers, {self.containers} containers>"

    def __str__(self) -> str:
        return self.source

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "path": self.checkpoint.path,
            "section": self.section,
            "source": self.source,
            "layers": self.layers,
            "containers": self.containers,
        }


def code(checkpoint: Checkpoint, section: str | None = None) -> Code:
    """The source of what :func:`ckpt_inspect.torch.build_module` builds.

    Raises:
        UnsupportedError: keys that are no strings, or tensors that are no plain ones; all are listed. A frozen module.
        SelectionError: no part, or several, can be meant.
    """
    from ..torch.blueprint import Blueprint, is_rebuilt
    from ..torch.rebuild import draft
    from ..torch.source import Writer
    from ..torch.state_dicts import choose, dropped_ties
    from ..torch.tensors import Loader

    chosen = choose(checkpoint, section)
    plan, _ = draft(checkpoint, chosen, Loader(device="meta"))
    kept = {chosen.name_of(key): key for key, info in chosen.items() if info.persistent}
    groups = [[kept[name] for name in names if name in kept] for names in checkpoint.tied()]
    ties = [keys for keys in groups if len(keys) > 1]
    dropped = dict(dropped_ties(checkpoint, chosen))
    ties += [
        [kept, *(key for key, twin in dropped.items() if twin == kept)] for kept in dict.fromkeys(dropped.values())
    ]
    file = os.path.basename(checkpoint.path.rstrip("/"))
    part = f"#{chosen.pointer}" if chosen.pointer else ""
    title = f"The modules of {file}{part}, as far as the file tells: what is inferred is marked ~, the rest left open."
    stem = "".join(word[:1].upper() + word[1:] for word in re.findall(r"[A-Za-z][A-Za-z0-9]*", file.partition(".")[0]))
    left_out = [key for key, info in chosen.items() if not is_rebuilt(info)]
    source = Writer(plan, title, stem or "Net", ties, list(dropped), left_out).source()

    def count(node: Blueprint) -> tuple[int, int]:
        if node.call is not None:
            return 1, 0
        below = [count(child) for child in node.children.values()]
        return sum(a for a, _ in below), (not node.group) + sum(b for _, b in below)

    layers, containers = count(plan)
    return Code(checkpoint, chosen.pointer, source, layers, containers)
