"""``ckpt strip-prefix``: wrapper segments, or given prefixes, out of the keys (design 4, Wrappers)."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import KeyCollisionError, SelectionError
from ..formats.modules import child_module
from ..model.checkpoint import Checkpoint
from ..model.keymap import KeyMap
from ..model.section import Section
from ..model.spelling import as_path, shell_join
from ..model.wrappers import COUNTER, LEADING, dotted, nested_prefixes, strip_given, strip_wrappers
from .add_prefix import state_dict_first
from .naming import beside, remap_words, selected
from .rename import Plan, section_keys

WRAPPER_CLASSES = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
}


def strip_prefix(
    checkpoint: Checkpoint, prefixes: Sequence[str] = (), nested: bool = False, times: int | None = None
) -> Checkpoint:
    """The checkpoint without prefixes, as a view; write it with :func:`ckpt_inspect.save`. As :func:`plan`."""
    return plan(checkpoint, prefixes, nested, times).checkpoint


def plan(checkpoint: Checkpoint, prefixes: Sequence[str] = (), nested: bool = False, times: int | None = None) -> Plan:
    """Plan the removal of prefixes from every section that carries them.

    Args:
        checkpoint: the file, or a selected part.
        prefixes: those to remove, whole segments, with or without the last dot; without any: wrapper segments.
        nested: remove ``module`` also where it is its parent's only child.
        times: how often a leading ``module`` or prefix is removed at most; None: as often as it leads all keys.

    Raises:
        SelectionError: no section carries one wholly.
        KeyCollisionError: two keys would meet.
    """
    maps: dict[str, KeyMap] = {}
    notes: list[str] = []
    for pointer, section in checkpoint.sections.items():
        if section.kind == "module":
            _root_module(checkpoint.format, section, maps, notes, prefixes)
        elif section.kind == "state_dict":
            keys = section_keys(section)
            new = strip_given(keys, prefixes, times) if prefixes else strip_wrappers(keys, nested, times)
            found = KeyMap(dict(zip(keys, new, strict=True)))
            if not found.is_identity():
                maps[pointer] = found
            notes += _left_alone(section, keys, new, prefixes)
    if not maps:
        wanted = " or ".join(repr(dotted(p)) for p in prefixes) if prefixes else "a wrapper prefix"
        raise SelectionError(
            "; ".join([f"no section carries {wanted} on all its keys", *notes, *_inside(checkpoint)]),
            path=checkpoint.path,
            hint=_otherwise(checkpoint, prefixes),
        )
    for pointer, renamed in maps.items() if checkpoint.origin is None else ():  # a draft is not what can be typed
        _check(checkpoint, checkpoint.sections[pointer], renamed)
    made = Plan("strip-prefix", checkpoint, maps, notes)
    for pointer in maps:
        section = made.checkpoint.sections[pointer]
        if section.kind == "module":
            section.instead = child_module(section.node, WRAPPER_CLASSES[section.cls or ""])
    return made


def _check(checkpoint: Checkpoint, section: Section, keys: KeyMap) -> None:
    """Refuse names that would meet, with the command that leaves one of each two out."""
    try:
        keys.check(section.pointer)
    except KeyCollisionError as error:
        words = remap_words(checkpoint, section, _without_twins(keys))
        advice = (
            f"Leave one out: {shell_join(words)}"
            if words
            else f"See the keys: {shell_join(['ckpt', 'tree', as_path(checkpoint.path)])}"
        )
        raise KeyCollisionError(error.message, path=checkpoint.path, hint=advice) from None


def _without_twins(keys: KeyMap) -> KeyMap:
    """Of keys that would meet, those without the prefix dropped."""
    renamed = {new for _, new in keys.renamed}
    return KeyMap({old: None if new == old and new in renamed else new for old, new in keys.pairs.items()})


def _states(checkpoint: Checkpoint) -> list[tuple[Section, list[str]]]:
    return [(s, section_keys(s)) for s in checkpoint.sections.values() if s.kind == "state_dict"]


def _inside(checkpoint: Checkpoint) -> list[str]:
    """Say where ``module`` is an only child, which ``--nested`` takes out."""
    found = [prefix for _, keys in _states(checkpoint) for prefix in nested_prefixes(keys)]
    if not found:
        return []
    more = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
    return [f"{found[0].prefix!r} leads {found[0].found} of {found[0].of} keys{more}"]


def _otherwise(checkpoint: Checkpoint, prefixes: Sequence[str]) -> str:
    """The command that may have been meant: for wrappers inside, for a part of the keys, for another prefix."""
    words = ["ckpt", "strip-prefix", as_path(selected(checkpoint))]
    out = ["-o", beside(checkpoint.path, "stripped")]
    for section, keys in _states(checkpoint):
        if not prefixes and nested_prefixes(keys):
            return f"Where module is its parent's only child: {shell_join([*words, '--nested', *out])}"
        pairs = {key: _without_one(key, prefixes or [LEADING]) for key in keys}
        part = _without_twins(KeyMap(dict(pairs)))
        if any(key != new for key, new in pairs.items()) and (rules := remap_words(checkpoint, section, part)):
            return f"Off those that have it: {shell_join(rules)}"
    for _, keys in () if prefixes else _states(checkpoint):
        first = keys[0].partition(".")[0] if keys else ""
        if first and all(key.startswith(dotted(first)) for key in keys):
            return f"What leads all keys: {shell_join([*words, '--prefix', first, *out])}"
    if any(section.kind == "module" for section in checkpoint.sections.values()):
        return state_dict_first(checkpoint.path)
    return f"See the keys: {shell_join(['ckpt', 'tree', as_path(checkpoint.path)])}"


def _without_one(key: str, prefixes: Sequence[str]) -> str:
    for prefix in prefixes:
        if key.startswith(dotted(prefix)):
            return key.removeprefix(dotted(prefix))
    return key


def _left_alone(section: Section, keys: list[str], new: list[str], prefixes: Sequence[str]) -> list[str]:
    """Say where a prefix is on some keys only: that may be a module of the user's, and is not touched."""
    found = []
    where = section.pointer or "the root"
    for prefix in prefixes or [LEADING]:
        lead = dotted(prefix)
        still = [key for key in new if key.startswith(lead)]
        if still and len(still) < len([key for key in keys if key != COUNTER]):
            found.append(f"{where}: {lead!r} leads {len(still)} of {len(keys)} keys and was left alone")
    if new != keys and COUNTER in keys:
        found.append(f"{where}: {COUNTER} was kept: a plain model will call it unexpected")
    return found


def _root_module(
    format: str, section: Section, maps: dict[str, KeyMap], notes: list[str], prefixes: Sequence[str]
) -> None:  # fmt: skip
    """A pickled wrapper object is replaced by the module inside it; other modules have their names in code."""
    child = WRAPPER_CLASSES.get(section.cls or "")
    where = section.pointer or "the root"
    if prefixes or child is None or section.node is None:
        if section.node is not None:
            what = "a pickled" if format != "torchscript" else "TorchScript of a"
            notes.append(f"{where} is {what} {section.cls}: its names are those of its objects, not of a table")
        return
    prefix = child + "."
    keys = list(section.tensors)
    if not all(key.startswith(prefix) for key in keys if section.tensors[key].persistent):
        notes.append(f"{where}: not all keys of the {section.cls} are its child's")
        return
    maps[section.pointer] = KeyMap({key: key[len(prefix) :] if key.startswith(prefix) else None for key in keys})
