"""What stands beside the tensors of a section: recorded where it is plain data, and named where it is lost."""

from __future__ import annotations

from ..model import pointer as pointers
from ..model.checkpoint import Checkpoint
from ..model.lost import Lost
from ..model.section import Section, Value
from . import objects, recorded
from .recorded import NotPlain, Recorded

_JSON = ("str", "int", "float", "bool", "NoneType", "list", "dict")
HALF = "half a character in its name"
ATTRIBUTE = "an attribute of a module, which state_dict() does not give"


def record(checkpoint: Checkpoint, section: Section, kept: Recorded, refused: set[str]) -> list[Lost]:
    """Note in ``kept`` what is beside the tensors of the one section of a checkpoint; what cannot be noted.

    Args:
        checkpoint: all of it, or the part that is meant.
        section: its section.
        kept: gets keys that are no text, the order of all keys, ``_metadata``, entries, and values around the section.
        refused: keys of tensors that are not written.
    """
    lost: list[Lost] = []
    if section.kind not in ("module", "tensor") and objects.is_mapping(section.node):
        lost += _entries(section, kept, refused)
    inside = {pointers.join(section.pointer, key) for key in kept.entries}
    listed = set()
    for value in checkpoint.values:
        listed.update(_ways(value.name))
        if not inside.isdisjoint(_ways(value.name)):
            continue
        why = _left(value, section)
        if why is None:
            kept.values[value.name] = recorded.plain(recorded.node_of(value.value))
        else:
            lost.append(Lost(value.name, why))
    return [Lost(name, why or "no plain data") for name, why in lost if why or name not in listed]


def is_text(name: str) -> bool:
    """Whether it is Unicode, as JSON wants it: pickles may hold half a pair of surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def attributes(checkpoint: Checkpoint) -> list[Lost]:
    """Attributes of modules, which are no part of a state_dict."""
    modules = {section.pointer for section in checkpoint.sections.values() if section.kind == "module"}
    return [
        Lost(value.name, ATTRIBUTE) for value in checkpoint.values
        if not modules.isdisjoint(_ways(value.name))
    ]  # fmt: skip


def _ways(name: str) -> list[str]:
    """The name, and those of all containers around it."""
    return [name, *(name[:at] or "/" for at, letter in enumerate(name) if letter == "/"), ""]


def _entries(section: Section, kept: Recorded, refused: set[str]) -> list[Lost]:
    """The entries of a state_dict, in order; those that are not recorded as a whole have no reason yet."""
    lost: list[Lost] = []
    kept.metadata = recorded.metadata_of(section.node)
    if section.metadata is not None and kept.metadata is None:
        lost.append(Lost("_metadata", "no plain data"))
    kept.order.clear()  # other entries stand between the tensors
    for name, key, node in objects.keyed(objects.children(section.node)[0]):
        if not is_text(name):
            lost += [] if name in section.tensors else [Lost(pointers.join(section.pointer, name), "")]
            continue
        if name not in section.tensors:
            try:
                kept.entries[name] = recorded.plain(node)
            except NotPlain:
                lost.append(Lost(pointers.join(section.pointer, name), ""))
                continue
        elif name in refused:
            continue
        kept.order.append(name)
        if not isinstance(key, str):
            try:
                kept.keys[name] = recorded.plain_key(key)
            except NotPlain:
                kept.renamed.append(name)
    return lost


def _left(value: Value, section: Section) -> str | None:
    """Why a value is not recorded; None: it is."""
    if section.kind == "module" and pointers.is_below(value.name, section.pointer):
        return ATTRIBUTE
    if not is_text(value.name):
        return HALF
    why = f"{value.type}, which JSON cannot give back"
    if value.type not in _JSON:
        return why
    try:
        recorded.plain(recorded.node_of(value.value))
    except NotPlain:
        return why
    return None
