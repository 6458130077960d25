"""Missing and unexpected keys that do no harm, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator

from ..model.section import Section

HARMLESS = {
    "num_batches_tracked": "a counter that BatchNorm uses only with momentum=None; files from before 2018 lack it",
    "position_ids": "0, 1, 2, …: the model makes it anew",
    "inv_freq": "frequencies of rotary embeddings: the model makes them anew",
    "total_ops": "counted by thop, no part of the model",
    "total_params": "counted by thop, no part of the model",
    "n_averaged": "how many models AveragedModel has averaged; the weights do not need it",
    "global_step": "a counter of training, no part of the model",
}
_OLD_NORM, _NEW_NORM = ("weight_g", "weight_v"), ("original0", "original1")


def harmless(missing: list[str], unexpected: list[str], file: Section, model: Section) -> dict[str, str]:
    """Key -> why the model is right without it."""
    found = {}
    for keys in (missing, unexpected):
        # where the whole module is missing its counter is no leftover
        gone = {key.rpartition(".")[0] for key in keys if key.rpartition(".")[2] not in HARMLESS}
        for key in keys:
            path, _, name = key.rpartition(".")
            if name in HARMLESS and (path not in gone or not path):
                found[key] = HARMLESS[name]
    there = set(model.tensors) - set(missing)
    for key, other in _tied(model, missing, there):
        found[key] = f"tied to {other} in the model, and that is there"
    for key, other in _tied(file, unexpected, set(file.tensors) & there):
        found[key] = f"the same tensor as {other} in the file"
    old = {key for key in missing if key.endswith(_OLD_NORM)}
    new = {key for key in unexpected if key.endswith(_NEW_NORM) and ".parametrizations." in f".{key}"}
    if old and new:
        found.update((key, "weight norm of before torch 2.0; the file has its newer names") for key in sorted(old))
        found.update((key, "weight norm of torch 2.0 and later; the model has its older names") for key in sorted(new))
    return found


def is_renamed(key: str) -> bool:
    """Of weight norm: it is there under its other name, and without that the model lacks it."""
    return key.endswith((*_OLD_NORM, *_NEW_NORM))


def _tied(section: Section, keys: list[str], others: set[str]) -> Iterator[tuple[str, str]]:
    """Keys that are another name of one of ``others``."""
    names = {
        info.view_of: key for key, info in section.items() if key in others and info.view_of is not None and info.numel
    }
    for key in keys:
        info = section.tensors.get(key)
        if info is not None and info.view_of in names:
            yield key, names[info.view_of]
