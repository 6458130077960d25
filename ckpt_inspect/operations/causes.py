"""Why a tensor of a file has another shape than the model's of the same name, where shapes and names tell it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import permutations

from ..model.section import Section

Shape = tuple[int, ...]

_POSITION = re.compile(r"(^|[._])(pos|wpe|position|positional|relative_position)([._]|embed|$)", re.IGNORECASE)
_HEADS = frozenset(
    [
        "head",
        "heads",
        "fc",
        "classifier",
        "logits",
        "lm_head",
        "output",
        "out",
        "last_linear",
        "score",
        "predictor",
        "cls_head",
        "embed_out",
    ]
)
_MOST_AXES = 6  # a permutation of more is not looked for


def causes(mismatched: Iterable[tuple[str, Shape, Shape]], model: Section) -> dict[str, str | None]:
    """For each mismatched key, in words, what differs; None where nothing known fits.

    Args:
        mismatched: key, shape in the file, shape in the model.
        model: the model's own section, with its recorded classes.
    """
    rows = list(mismatched)
    found = {key: _cause(key, file, mine, model) for key, file, mine in rows}
    vocabularies = {(file[0], mine[0]) for key, file, mine in rows if (found[key] or "").startswith("vocabulary")}
    for key, file, mine in rows:  # the layer that gives words again, and its bias
        if file and mine and (file[0], mine[0]) in vocabularies and (found[key] or "another").startswith("another"):
            found[key] = f"vocabulary size: {file[0]:,} in the file, {mine[0]:,} in the model"
    return found


def _cause(key: str, file: Shape, model: Shape, section: Section) -> str | None:
    path = key.rpartition(".")[0]
    recorded = section.modules.get(path)
    cls = recorded.cls.rpartition(".")[2] if recorded is not None else ""
    changed = [axis for axis, (a, b) in enumerate(zip(file, model, strict=False)) if a != b]
    if len(file) == len(model):
        if sorted(file) == sorted(model):
            return _permuted(file, model, cls)
        if len(changed) == 1:
            cause = _one_axis(key, path, cls, changed[0], file, model, section)
            if cause is not None:
                return cause
    elif _squeezed(file) == _squeezed(model):
        return _ones(file, model, cls)
    if _count(file) == _count(model):
        return f"the same {_count(file):,} numbers in another arrangement"
    return None


def _one_axis(key: str, path: str, cls: str, axis: int, file: Shape, model: Shape, section: Section) -> str | None:
    sizes = f"{file[axis]:,} in the file, {model[axis]:,} in the model"
    if _POSITION.search(key) and axis < len(file) - 1:  # the last is the width
        return f"position embedding: {sizes}"
    if axis == 0 and ("Embedding" in cls or _is_tied_to_embedding(key, section)):
        return f"vocabulary size: {sizes}"
    if axis == 0 and "Norm" not in cls and _is_head(path, section):
        return f"another head: {sizes}"
    first, second = (1, 0) if "Transpose" in cls else (0, 1)
    if "Conv" in cls or len(file) >= 3:
        what = {first: "output channels", second: "input channels"}.get(axis, "kernel size")
        return f"{what}: {sizes}"
    if "Norm" in cls:
        return f"another number of channels: {sizes}"
    if len(file) == 2 and axis == 1:
        return f"another number of inputs: {sizes}"
    return f"another number of outputs: {sizes}" if axis == 0 else None


def _is_tied_to_embedding(key: str, section: Section) -> bool:
    view = section[key].view_of if key in section.tensors else None
    twins = [other for other, info in section.items() if view is not None and info.view_of == view]
    return any("Embedding" in module.cls for twin in twins if (module := section.modules.get(twin.rpartition(".")[0])))


def _is_head(path: str, section: Section) -> bool:
    """The layer that is registered last, or one of a name that heads have."""
    last = next((key for key, info in reversed(section.items()) if info.persistent), "").rpartition(".")[0]
    return path == last or path.rpartition(".")[2].lower() in _HEADS


def _permuted(file: Shape, model: Shape, cls: str) -> str:
    if len(file) == 2:
        known = " (as Conv1D of GPT-2 keeps it)" if cls == "Linear" else ""
        return f"transposed{known}"
    if len(file) > _MOST_AXES:
        return "the same dimensions in another order"
    ways = [way for way in permutations(range(len(file))) if tuple(file[axis] for axis in way) == model]
    if len(ways) > 1:
        return f"permuted, by one of {len(ways)} permutations that fit: equal dimensions leave it open"
    return f"permuted: permute({', '.join(map(str, ways[0]))}) of the file's gives the model's"


def _count(shape: Shape) -> int:
    found = 1
    for size in shape:
        found *= size
    return found


def _squeezed(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _ones(file: Shape, model: Shape, cls: str) -> str:
    if sorted((len(file), len(model))) in ([2, 3], [2, 4]) and _count(file):
        kernels = {3: "Conv1d", 4: "Conv2d"}[max(len(file), len(model))]
        sides = (kernels, "Linear") if len(file) > len(model) else ("Linear", kernels)
        return f"{sides[0]} in the file, {cls or sides[1]} in the model: only dimensions of 1 differ"
    return "only dimensions of 1 differ"
