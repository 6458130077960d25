"""``ckpt add-prefix``: a prefix before every key of the weights, the inverse of ``strip-prefix``."""

from __future__ import annotations

from ..errors import SelectionError, UnsupportedError
from ..model.checkpoint import Checkpoint
from ..model.keymap import KeyMap
from ..model.spelling import shell_path
from .naming import beside
from .rename import Plan, section_keys, target


def add_prefix(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    """The checkpoint with a prefix, as a view; write it with :func:`ckpt_inspect.save`. As :func:`plan`."""
    return plan(checkpoint, prefix).checkpoint


def plan(checkpoint: Checkpoint, prefix: str) -> Plan:
    """Plan ``prefix`` (with or without its last dot) before every key of the one weights candidate, or of the part.

    Raises:
        SelectionError: several sections could be meant, or the prefix is empty.
        UnsupportedError: the weights are a module object, whose names are not in a table.
    """
    if not prefix.strip("."):
        raise SelectionError("an empty prefix adds nothing", hint="For example: ckpt add-prefix model.pt module")
    section = target(checkpoint)
    refuse_objects(section.kind, checkpoint.path)
    dotted = prefix if prefix.endswith(".") else prefix + "."
    keys = KeyMap({key: dotted + key for key in section_keys(section)})
    if not keys.pairs:
        raise SelectionError(f"{section.pointer or 'the root'} has no keys", path=checkpoint.path)
    return Plan("add-prefix", checkpoint, {section.pointer: keys}, [])


def refuse_objects(kind: str, path: str) -> None:
    """Whole modules and TorchScript cannot be renamed: their names live in code and registries."""
    if kind == "module":
        raise UnsupportedError(
            "a module object: its names live in code and registries, not in a table of keys",
            path=path,
            hint=state_dict_first(path),
        )


def state_dict_first(path: str) -> str:
    """The way out for a module object."""
    return f"Make a state_dict first: ckpt convert {shell_path(path)} --weights-only -o {shell_path(beside(path, 'weights'))}"
