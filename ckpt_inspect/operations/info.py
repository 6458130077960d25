"""``ckpt info``: the identity card of a checkpoint."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

from ..commands import COMMANDS
from ..formats import objects, recorded
from ..formats.optimizers import Group, all_groups, class_of
from ..formats.quantized import packed_modules
from ..formats.weights_only import ALLOWED, Verdict, modern, verdict
from ..model import pointer as pointers
from ..model.averages import averages
from ..model.checkpoint import Checkpoint
from ..model.graph import Global, Opaque, Persistent, Pickle
from ..model.keymap import KeyMap
from ..model.lost import listed
from ..model.section import Section
from ..model.spelling import as_path, shell_join, shell_path, shell_word
from ..model.tensor import TensorInfo
from ..model.wrappers import COUNTER, LEADING, dotted, find_prefixes, nested_prefixes, strip_wrappers, wrapper_name
from .naming import remap_words, selected
from .plain import safe, safe_dict
from .rename import section_keys
from .strip_prefix import WRAPPER_CLASSES
from .summary import Counts, count

SCHEMA = "ckpt-inspect/info/1"


class SectionFacts(NamedTuple):
    """One section: its counts, and bytes by dtype and by device (tied tensors once)."""

    section: Section
    cls: str | None
    cls_recorded: bool
    counts: Counts
    dtypes: dict[str, int]
    devices: dict[str, int]


class PrefixFacts(NamedTuple):
    """A wrapper prefix of a section."""

    section: str
    prefix: str
    found: int
    of: int
    wrapper: str


class Oversized(NamedTuple):
    """A storage of which the tensors use a part only."""

    names: list[str]
    stored: int
    used: int


class Hint(NamedTuple):
    """What to do next: a message, and the command that does it."""

    code: str
    message: str
    command: str | None


class Info:
    """What ``info`` found; attributes are the keys of its JSON document, and what only people are shown."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        groups = all_groups(checkpoint.sections.values(), checkpoint.values)
        self.sections = [
            _section_facts(section, groups.get(pointer, [])) for pointer, section in checkpoint.sections.items()
        ]
        self.candidates = checkpoint.candidates()
        self.prefixes, self.nested_prefixes = _prefixes(checkpoint)
        self.shared = checkpoint.tied()
        self.recorded_ties = recorded.of(checkpoint).ties if checkpoint.format in ("safetensors", "sharded") else {}
        self.oversized = _oversized(checkpoint)
        self.globals = _globals(checkpoint)
        self.weights_only = verdict_of(checkpoint)
        self.pickled = bool(_pickles(checkpoint))
        self.packed = {pointer for pointer, section in checkpoint.sections.items() if packed_modules(section)}
        self.load = _load_line(self)
        self.hints = _hints(self)

    def __repr__(self) -> str:
        checkpoint = self.checkpoint
        return f"<info of {checkpoint.path}: {checkpoint.format}, {len(self.sections)} sections, {len(checkpoint)} tensors>"

    def can_be_made(self, pointer: str) -> bool:
        """Whether a section's tensors can be had without classes of the file's own, and are not packed."""
        section = self.checkpoint.sections.get(pointer)
        return (
            section is not None
            and pointer not in self.packed
            and not any(info.cls for info in section.tensors.values())
        )

    @property
    def foreign(self) -> dict[str, int]:
        """Globals that are neither torch's nor of the plain kind that weights_only allows."""
        return {
            name: n
            for name, n in self.globals.items()
            if modern(name) not in ALLOWED and not name.startswith(("torch.", "__torch__."))
        }

    def to_dict(self) -> dict[str, Any]:
        checkpoint = self.checkpoint
        return {
            "schema": SCHEMA,
            "path": checkpoint.path,
            "format": checkpoint.format,
            "size": checkpoint.size,
            "facts": checkpoint.facts,
            "sections": [_section_dict(facts) for facts in self.sections],
            "candidates": self.candidates,
            "prefixes": [_prefix_dict(prefix) for prefix in self.prefixes],
            "nested_prefixes": [_prefix_dict(prefix) for prefix in self.nested_prefixes],
            "shared": self.shared,
            "oversized": [{"names": o.names, "stored": safe(o.stored), "used": safe(o.used)} for o in self.oversized],
            "globals": [{"name": name, "count": n} for name, n in self.globals.items()],
            "weights_only": self.weights_only.to_dict(),
            "load": self.load,
            "hints": [{"code": h.code, "message": h.message, "command": h.command} for h in self.hints],
            "siblings": checkpoint.siblings,
            "recorded_ties": [[kept, name] for name, kept in self.recorded_ties.items()],
            "problems": checkpoint.problems,
        }


def info(checkpoint: Checkpoint) -> Info:
    """Gather what can be said of a checkpoint without reading tensor bytes."""
    return Info(checkpoint)


def _prefix_dict(found: PrefixFacts) -> dict[str, Any]:
    return {"section": found.section, "prefix": found.prefix, "count": found.found, "of": found.of}


def _section_dict(facts: SectionFacts) -> dict[str, Any]:
    counts = facts.counts
    return {
        "section": facts.section.pointer, "kind": facts.section.kind, "class": facts.cls,
        "class_from": None if facts.cls is None else "recorded" if facts.cls_recorded else "inferred",
        "tensors": counts.tensors, "numel": safe(counts.numel), "nbytes": safe(counts.nbytes),
        "parameters": safe(counts.parameters), "buffers": safe(counts.buffers),
        "dtypes": safe_dict(facts.dtypes), "devices": safe_dict(facts.devices),
    }  # fmt: skip


def _section_facts(section: Section, groups: list[Group]) -> SectionFacts:
    dtypes: Counter[str] = Counter()
    devices: Counter[str] = Counter()
    seen: set[Any] = set()
    for tensor in section.tensors.values():
        view = tensor.view_of
        if view is None or view not in seen:
            seen.add(view)
            dtypes[tensor.dtype] += tensor.nbytes
            if tensor.device is not None:
                devices[tensor.device] += tensor.nbytes
    cls, recorded = section.cls, True
    if section.kind == "optimizer":
        cls, recorded = class_of(section, groups)
    return SectionFacts(section, cls, recorded, count(section.tensors.values()), dict(dtypes), dict(devices))


def _prefixes(checkpoint: Checkpoint) -> tuple[list[PrefixFacts], list[PrefixFacts]]:
    """Wrapper prefixes; and ``module`` as an only child inside a model, which is likely a wrapper too."""
    found: list[PrefixFacts] = []
    nested: list[PrefixFacts] = []
    for section in checkpoint.sections.values():
        if section.kind in ("state_dict", "module"):
            keys = [key for key, tensor in section.tensors.items() if tensor.persistent]
            for prefix in find_prefixes(keys):
                name = wrapper_name(prefix.prefix.rstrip(".")) or ""
                found.append(PrefixFacts(section.pointer, *prefix, name))
            likely = f"{wrapper_name(LEADING)}~"
            nested += [PrefixFacts(section.pointer, *prefix, likely) for prefix in nested_prefixes(keys)]
    return found, nested


def _oversized(checkpoint: Checkpoint) -> list[Oversized]:
    """Storages with bytes that no tensor reaches."""
    views: dict[str, list[tuple[str, TensorInfo]]] = {}
    stored: dict[str, int] = {}
    for name, _, tensor in checkpoint.tensors():
        for part in tensor.components():
            if part.storage is not None:
                views.setdefault(part.storage.id, []).append((name, part))
                stored[part.storage.id] = part.storage.nbytes
    found = []
    for storage_id, users in views.items():
        total = stored[storage_id]
        if len(users) == 1 and users[0][1].nbytes == total:
            continue
        used = min(total, _reach([part for _, part in users]))
        if used < total:
            found.append(Oversized(list(dict.fromkeys(name for name, _ in users)), total, used))
    return found


def _reach(parts: list[TensorInfo]) -> int:
    """Bytes that views of one storage cover together; exact for dense views, an upper bound for others."""
    spans: list[tuple[int, int]] = []
    scattered = 0
    for part in parts:
        if 0 in part.shape:
            continue
        steps = sorted(
            (step, size) for size, step in zip(part.shape, part.stride or (), strict=False) if size > 1 and step
        )
        itemsize = part.nbytes // part.numel if part.numel else 1
        start = part.storage_offset * max(itemsize, 1)
        covered, dense = 1, True
        for step, size in steps:
            dense = dense and step <= covered
            covered = covered + (size - 1) * step if step <= covered else covered * size
        if dense:
            spans.append((start, start + covered * max(itemsize, 1)))
        else:
            scattered += covered * max(itemsize, 1)
    end = total = 0
    for start, stop in sorted(spans):
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total + scattered


def _pickles(checkpoint: Checkpoint) -> list[Pickle]:
    return [graph for c in checkpoint.containers for graph in c.graphs.values() if isinstance(graph, Pickle)]


def _globals(checkpoint: Checkpoint) -> dict[str, int]:
    """Every name that unpickling would import: how many calls it gets, or how often it is named if none."""
    called: Counter[str] = Counter()
    named: Counter[str] = Counter()
    for pickle in _pickles(checkpoint):
        named.update(node.qualname for node in pickle.globals)
        callees = [call.callee for call in pickle.calls]
        by_id = {id(callee): callee for callee in callees}
        for key, n in Counter(map(id, callees)).items():
            callee = by_id[key]
            if type(callee) is Global:
                called[callee.qualname] += n
            elif type(callee) is Persistent:
                called[Opaque("OBJ", callee, ()).qualname] += n
    return {name: called[name] or n for name, n in named.items()}


def verdict_of(checkpoint: Checkpoint) -> Verdict:
    """What ``torch.load(weights_only=True)`` would say of a checkpoint."""
    reasons = {"torch-tar": "the tar container", "pickle": "not a file of torch.save"}
    if checkpoint.problems:
        return Verdict(False, [checkpoint.problems[0]])
    if checkpoint.format.startswith("torchscript"):
        return Verdict(False, ["a TorchScript archive"])
    pickles = _pickles(checkpoint)
    if checkpoint.format == "torch-legacy" and any(
        node.name == "UntypedStorage" for p in pickles for node in p.globals
    ):
        reasons["torch-legacy"] = "untyped storages in the legacy format, which torch writes and cannot read"
    lengths = {6 if container.format == "torch-legacy" else 5 for container in checkpoint.containers}
    return verdict(pickles, reasons.get(checkpoint.format), lengths)


def _load_line(found: Info) -> str | None:
    """The line of Python that loads this very file; None where no single line does.

    Of several sets of weights that torch would not load with the file, it loads the first.
    """
    checkpoint = found.checkpoint
    format = checkpoint.format
    path = checkpoint.path if format == "sharded" else checkpoint.containers[0].path
    if checkpoint.problems:
        return None
    if format == "torchscript":
        return f"model = torch.jit.load({path!r}, map_location='cpu')"
    if format == "safetensors":
        return f"state_dict = safetensors.torch.load_file({path!r})"
    one = found.candidates[0] if len(found.candidates) == 1 and found.candidates[0] in checkpoint.sections else None
    if format not in ("torch-zip", "torch-legacy") or not found.weights_only.ok:
        one = next(filter(found.can_be_made, found.candidates), None)
        if one is None:
            return None
        section = f", section={one!r}" if one else ""
        return f"state_dict = ckpt_inspect.torch.state_dict({path!r}{section})"
    index = None if one is None else _subscripts(checkpoint, one)
    name = "checkpoint" if index is None else "state_dict"
    return f"{name} = torch.load({path!r}, map_location='cpu', weights_only=True){index or ''}"


def _subscripts(checkpoint: Checkpoint, pointer: str) -> str | None:
    """``['models'][0]`` for a pointer, with the keys as the file has them; None if one cannot be written so."""
    node = _pickles(checkpoint)[-1 if checkpoint.format == "torch-zip" else 3].root
    text = ""
    for segment in pointers.split(pointer):
        inside, form = objects.children(node)
        keys: list[Any] = [key for key, _ in inside if isinstance(key, str) and key == segment]
        keys = keys or [key for key, _ in inside if type(key) is int and str(key) == segment]
        if form not in ("mapping", "sequence") or len(keys) != 1:
            return None
        node = dict(objects.entries(inside)[0]).get(segment)
        text += f"[{str(keys[0])!r}]" if isinstance(keys[0], str) else f"[{keys[0]}]"
    return text


def _hints(found: Info) -> list[Hint]:
    """What a user is likely to want next; commands only where they exist."""
    checkpoint = found.checkpoint
    quoted = shell_path(checkpoint.path)
    hints = _wrapper_hints(found)
    hints += [*_average_hints(found), *_weights_hints(found)]
    for big in found.oversized[:3]:
        if big.stored - big.used > 4096:
            names = (
                f"{big.names[0]} and {len(big.names) - 1} more use"
                if len(big.names) > 1
                else f"{big.names[0] or 'it'} uses"
            )
            them = "them" if len(big.names) > 1 else "it"
            message = f"{names} {big.used:,} of the {big.stored:,} bytes stored for {them}"
            if checkpoint.format in _CONVERTED:
                arguments = f"{quoted} --slim -o {shell_path(_beside(checkpoint.path, 'slim'))}"
                hints.append(_hint("oversized", message, "convert", arguments))
            else:
                arguments = f"--long --filter {shell_word(_literal_glob(big.names[0]))} {quoted}"
                hints.append(_hint("oversized", message, "ls", arguments))
    return hints + _conversion_hints(found)


_RENAMED = ("torch-zip", "torch-legacy", "safetensors", "sharded")


def _wrapper_hints(found: Info) -> list[Hint]:
    """How to take wrapper prefixes out: one command for all sections that it can do it for."""
    checkpoint = found.checkpoint
    if checkpoint.format not in _RENAMED:
        return []
    whole: dict[str, list[PrefixFacts]] = {}
    inside = [prefix for prefix in found.nested_prefixes if checkpoint.sections[prefix.section].kind == "state_dict"]
    for prefix in found.prefixes:
        section = checkpoint.sections[prefix.section]
        everywhere = prefix.found == prefix.of or prefix.prefix != dotted(LEADING)  # others go wherever they stand
        if everywhere and (section.kind == "state_dict" or section.cls in WRAPPER_CLASSES):
            whole.setdefault(prefix.section, []).append(prefix)
    hints = []
    stripped = {pointer: these for pointer, these in whole.items() if COUNTER not in checkpoint.sections[pointer]}
    path = shell_path(selected(checkpoint))
    if stripped:
        hints.append(_hint(
            "wrapper-prefix", f"{_carried(stripped)}: the bare model will call them missing",
            "strip-prefix", f"{path} -o {shell_path(_beside(checkpoint.path))}",
        ))  # fmt: skip
    for pointer in [pointer for pointer in whole if pointer not in stripped]:
        section = checkpoint.sections[pointer]
        keys = section_keys(section)
        bare = KeyMap(dict(zip(keys, strip_wrappers(keys), strict=True)) | {COUNTER: None})
        words = remap_words(checkpoint, section, bare)
        carried = _carried({pointer: whole[pointer]}, f" but {COUNTER}")
        message = f"{carried}: the bare model will call them missing, and {COUNTER} unexpected"
        hints.append(Hint("wrapper-prefix", message, shell_join(words) if words else None))
    if inside and not whole:
        places = listed((prefix.prefix.removesuffix(f".{LEADING}.") for prefix in inside), 3)
        hints.append(_hint(
            "wrapper-prefix", f"'module' is the only child of {places}: likely DataParallel/DDP inside the model",
            "strip-prefix", f"{path} --nested -o {shell_path(_beside(checkpoint.path))}",
        ))  # fmt: skip
    return hints


def _carried(whole: dict[str, list[PrefixFacts]], but: str = "") -> str:
    """``every key of model and ema carries 'module.' (DataParallel/DDP)``"""
    by_share: dict[tuple[str, str], list[PrefixFacts]] = {}  # of a section, what is carried by as many keys
    for pointer, prefixes in whole.items():
        for one in prefixes:
            share = f"every key{but}" if one.found == one.of else f"{one.found:,} of {one.of:,} keys"
            by_share.setdefault((pointer, share), []).append(one)
    alike: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = {}
    for (pointer, share), these in by_share.items():
        alike.setdefault((share, tuple((p.prefix, p.wrapper) for p in these)), []).append(pointer)
    said = []
    for (share, carried), sections in alike.items():
        where = " of " + listed((section or "(root)" for section in sections), 4) if sections != [""] else ""
        names = " and ".join(repr(prefix) for prefix, _ in carried)
        verb = "carries" if share.startswith("every") else "carry"
        said.append(f"{share}{where} {verb} {names} ({', '.join(wrapper for _, wrapper in carried)})")
    return "; ".join(said)


def _average_hints(found: Info) -> list[Hint]:
    """Averages among the weights, which the model without its hook calls unexpected."""
    checkpoint = found.checkpoint
    for pointer in found.candidates if checkpoint.format in _RENAMED else ():
        section = checkpoint.sections.get(pointer)
        copies = averages(section.tensors) if section is not None and section.kind == "state_dict" else {}
        if section is not None and copies:
            key, twin = next(iter(copies.items()))
            words = remap_words(
                checkpoint, section, KeyMap({k: None if k in copies else k for k in section_keys(section)})
            )
            message = f"{len(copies):,} keys are moving averages of others ({key} of {twin}): the bare model will call them unexpected"
            return [Hint("averages", message, shell_join(words) if words else None)]
    return []


_CONVERTED = ("torch-zip", "torch-legacy", "torch-tar", "pickle")


def _conversion_hints(found: Info) -> list[Hint]:
    """What stands in the way of loading the file elsewhere: devices, classes."""
    checkpoint = found.checkpoint
    if checkpoint.problems:
        return []
    path, hints = checkpoint.path, []
    tags = {info.device for _, _, info in checkpoint.tensors()} | set(
        checkpoint.facts.get("devices in code", "").split(", ")
    )
    away = sorted(tag for tag in tags if tag and tag not in ("cpu", "meta"))
    if away:
        hints.append(_hint(
            "device", f"it names {', '.join(away[:4])}: where there is none, loading or running it fails",
            "convert", f"{shell_path(path)} --device cpu -o {shell_path(_beside(path, 'cpu'))}",
        ))  # fmt: skip
    kept = any(info.persistent for _, _, info in checkpoint.tensors())
    if not found.weights_only.ok and checkpoint.format in _CONVERTED and kept and not found.packed:
        hints.append(_hint(
            "weights-only", "weights_only=True refuses it; its tensors and plain data alone would pass",
            "convert", f"{shell_path(path)} --weights-only -o {shell_path(_beside(path, 'weights', '.pt'))}",
        ))  # fmt: skip
    return hints


def _weights_hints(found: Info) -> list[Hint]:
    """Where the weights are, if that is not plain to see."""
    path, candidates = found.checkpoint.path, found.candidates
    if found.checkpoint.selected is not None or not candidates or candidates == [""]:
        return []
    first = shell_path(f"{path}#{candidates[0]}")
    if len(candidates) == 1:
        return [_hint("weights-inside", f"the weights are in {candidates[0]!r}", "tree", first)]
    every = listed(candidates, 5)
    return [_hint("several-weights", f"several sets of weights: {every}; look at one", "tree", first)]


def _beside(path: str, word: str = "stripped", otherwise: str = "") -> str:
    """A name for the new file: ``run.stripped.ckpt``; one that has no suffix gets ``otherwise``."""
    path = as_path(path)
    stem, dot, suffix = path.rstrip("/").rpartition(".")
    return f"{stem}.{word}.{suffix}" if dot and "/" not in suffix else f"{path.rstrip('/')}.{word}{otherwise}"


def _literal_glob(text: str) -> str:
    """A pattern that matches just this text."""
    return re.sub(r"([*?[])", r"[\1]", text)


def _hint(code: str, message: str, command: str, arguments: str) -> Hint:
    return Hint(code, message, f"ckpt {command} {arguments}" if command in COMMANDS else None)
