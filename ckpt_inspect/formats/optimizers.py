"""Which parameter a piece of optimizer state belongs to, said only when it is certain (design 5.3).

An optimizer's state_dict numbers its parameters in the order of its groups. Within one group they come in
the order of registration; between groups nothing is known. So an alignment is a way to deal the parameters
of the model, in order, onto the groups, such that every shape of the state fits. It is certain where there
is exactly one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ..model import pointer as pointers
from ..model.section import Section, Value
from ..model.wrappers import without_wrappers

_MAX_STATES = 20_000  # of the search; beyond, nothing is certain

# State that has the shape of its parameter, by the names torch.optim gives it.
_MOMENTS = frozenset(
    [
        "exp_avg",
        "exp_avg_sq",
        "max_exp_avg_sq",
        "momentum_buffer",
        "square_avg",
        "grad_avg",
        "sum",
        "acc_delta",
        "exp_inf",
        "ax",
        "prev",
        "step_size",
    ]
)

Shape = tuple[int, ...]
_MOST_CHARACTERS = 50_000_000  # of names of parameters, said with each tensor of their state


class Group(NamedTuple):
    """One parameter group: indices of its parameters, their names where they were recorded, its settings."""

    indices: list[Any]
    names: list[str] | None
    settings: dict[str, Any]


def all_groups(sections: Iterable[Section], values: list[Value]) -> dict[str, list[Group]]:
    """The parameter groups of each optimizer section, by its pointer; the values are gone through once."""
    optimizers = {section.pointer: section for section in sections if section.kind == "optimizer"}
    below: dict[str, list[Value]] = {pointer: [] for pointer in optimizers}
    for value in values if below else ():
        for pointer in pointers.ancestors(value.name):
            if pointer in below:
                below[pointer].append(value)
    return {pointer: groups_of(section, below[pointer]) for pointer, section in optimizers.items()}


def groups_of(optimizer: Section, values: list[Value]) -> list[Group]:
    """The parameter groups of an optimizer section, from the plain values below it."""
    base = pointers.concat(optimizer.pointer, "param_groups")
    groups: dict[str, dict[str, Any]] = {}
    for value in values:
        if value.name.startswith(base + "/"):
            index, _, name = value.name[len(base) + 1 :].partition("/")
            if name:
                groups.setdefault(index, {})[name] = value.value
    found = []
    for settings in groups.values():
        indices = settings.pop("params", None)
        names = settings.pop("param_names", None)
        if isinstance(indices, list):
            named = names if isinstance(names, list) and len(names) == len(indices) else None
            found.append(Group(indices, named, settings))
    return found


def link(optimizer: Section, groups: list[Group], candidates: list[Section]) -> Section | None:
    """Fill ``optimizer.params``; the section whose parameters they are, None if that is not certain."""
    states = _states(optimizer)
    told = {} if class_of(optimizer, groups)[0] == "LBFGS" else states  # its one state is of all its parameters
    recorded = _recorded(groups)
    if recorded:
        named = [(s, keys) for s in candidates if (keys := _by_names(recorded, s)) is not None]
        return _fill(optimizer, told, named, "recorded")
    shapes = {index: _shape(optimizer, keys) for index, keys in states.items()}
    fitting = [(s, found) for s in candidates if (found := _align(groups, shapes, _parameters(s))) is not None]
    return _fill(optimizer, told, fitting, "derived")


def misfit(optimizer: Section, groups: list[Group], parameters: list[tuple[str, Shape, bool]]) -> str | None:
    """Why this state will not fit an optimizer of a model's parameters; None: nothing speaks against it.

    Args:
        parameters: of the model, in order of registration: key, shape, ``requires_grad``.
    """
    total = sum(len(group.indices) for group in groups)
    trained = [(key, shape) for key, shape, grad in parameters if grad]
    everything = [(key, shape) for key, shape, _ in parameters]
    fitting = next((some for some in (everything, trained) if len(some) == total), None)
    if fitting is None:
        and_trained = f", {len(trained):,} of them trained" if len(trained) < len(everything) else ""
        return f"it has the state of {total:,} parameters, the model has {len(everything):,}{and_trained}"
    if len(groups) > 1:  # which order the groups were made in is not known
        return None
    states = _states(optimizer)
    for index, (key, shape) in zip(groups[0].indices, fitting, strict=True):
        found = _shape(optimizer, states.get(pointers.escape(str(index)), []))
        if found not in (None, shape):
            return f"its parameter {index} has the shape {found}, the model's {key} has {shape}"
    return None


def _fill(
    optimizer: Section, told: dict[str, list[str]], fitting: list[tuple[Section, dict[str, str]]], how: str
) -> Section | None:
    """Say whose state it is, if one section is the owner; its parameters are then known to be parameters."""
    owner = _owner([(section, list(found.values())) for section, found in fitting])
    if owner is None:
        return None
    optimizer.owner = owner.pointer
    found = next(found for section, found in fitting if section is owner)
    if sum(len(found.get(index, "")) * len(keys) for index, keys in told.items()) > _MOST_CHARACTERS:
        return None
    for index, keys in told.items():
        name = found.get(index)
        if name is not None:
            for key in keys:
                optimizer.params[key] = (owner.name_of(name), how)
    _mark(owner, set(found.values()))
    return owner


def _recorded(groups: list[Group]) -> dict[str, str]:
    """Number (or name) in the optimizer -> name of the parameter, where the file says it.

    torch writes ``param_names`` beside the numbers when it was given names; FSDP writes names for numbers.
    """
    found: dict[str, str] = {}
    for group in groups:
        for index, name in zip(group.indices, group.names or group.indices, strict=True):
            if isinstance(name, str):
                found[pointers.escape(str(index))] = str(name)
    return found


def _by_names(recorded: dict[str, str], section: Section) -> dict[str, str] | None:
    """Keys of ``section`` for recorded names: equal, or equal but for wrapper segments; None if one is missing."""
    if all(name in section.tensors for name in recorded.values()):
        return recorded
    bare: dict[str, str] = {}
    for key in section.tensors:
        if bare.setdefault(without_wrappers(key), key) != key:
            return None
    found = {index: bare.get(without_wrappers(name)) for index, name in recorded.items()}
    return {index: key for index, key in found.items() if key is not None} if all(found.values()) else None


def _owner(fitting: list[tuple[Section, list[str]]]) -> Section | None:
    """The section, of those that fit, whose tensors the optimizer moves: no copy, and no other model of one shape."""
    trained = [item for item in fitting if not looks_averaged(item[0].pointer)] or fitting
    views = [[section.tensors[name].view_of for name in names] for section, names in trained]
    return trained[0][0] if trained and all(view == views[0] and None not in view for view in views[1:]) else None


def _mark(owner: Section, names: set[str]) -> None:
    """What an optimizer moves is a parameter, and so is every other name of the same tensor."""
    views = {owner.tensors[name].view_of for name in names} - {None}
    for name, info in owner.tensors.items():
        if info.role_from != "recorded" and (name in names or info.view_of in views):
            owner.tensors[name] = info.with_role("parameter", "optimizer")


def looks_averaged(pointer: str) -> bool:
    """A copy beside the trained weights: it has the same keys, but the optimizer did not move it."""
    return any(word in pointer.lower() for word in ("ema", "avg", "average", "teacher", "swa", "best", "target"))


def _states(optimizer: Section) -> dict[str, list[str]]:
    """Keys of the state tensors by the number of their parameter."""
    found: dict[str, list[str]] = {}
    for key in optimizer.tensors:
        parts = key.split("/")
        if len(parts) >= 3 and parts[0] == "state":
            found.setdefault(parts[1], []).append(key)
    return found


def _shape(optimizer: Section, keys: list[str]) -> Shape | None:
    for key in keys:
        if key.rpartition("/")[2] in _MOMENTS and optimizer.tensors[key].shape:
            return optimizer.tensors[key].shape
    return None


def _parameters(section: Section) -> list[tuple[str, Shape]]:
    """What ``model.parameters()`` would give: tied ones once, in order of registration."""
    seen: set[Any] = set()
    found = []
    for key, info in section.tensors.items():
        if info.role == "buffer" or not info.persistent or (info.role is None and "float" not in info.dtype):
            continue
        view = info.view_of
        if view is not None and view in seen:
            continue
        seen.add(view)
        found.append((key, info.shape))
    return found


def _align(
    groups: list[Group], shapes: dict[str, Shape | None], parameters: list[tuple[str, Shape]]
) -> dict[str, str] | None:
    """Index of the optimizer -> key of the parameter, if there is exactly one way; else None."""
    total = sum(len(group.indices) for group in groups)
    if not total or total > len(parameters):
        return None
    wanted = [[shapes.get(str(index)) for index in group.indices] for group in groups]
    if len(groups) == 1 and total == len(parameters):  # the usual case, without a search
        if all(shape in (None, have) for shape, (_, have) in zip(wanted[0], parameters, strict=True)):
            return {str(index): key for index, (key, _) in zip(groups[0].indices, parameters, strict=True)}
        return None
    path = _only_way(wanted, parameters, len(parameters) - total)
    if path is None:
        return None
    taken = [0] * len(groups)
    found: dict[str, str] = {}
    for group, (key, _) in zip(path, parameters, strict=True):
        if group >= 0:
            found[str(groups[group].indices[taken[group]])] = key
            taken[group] += 1
    return found


def _only_way(wanted: list[list[Shape | None]], parameters: list[tuple[str, Shape]], skips: int) -> list[int] | None:
    """For each parameter the group it falls to (-1: none), if the shapes leave exactly one way."""
    start = (*(0 for _ in wanted), skips)
    # position of each group -> (number of ways, capped at 2; the last of them as a linked list)
    ways: dict[tuple[int, ...], tuple[int, Any]] = {start: (1, None)}
    for _, shape in parameters:
        reached: dict[tuple[int, ...], tuple[int, Any]] = {}
        for state, (count, path) in ways.items():
            for group in (*range(len(wanted)), -1):
                position = state[group]
                if group >= 0:
                    if position >= len(wanted[group]) or wanted[group][position] not in (None, shape):
                        continue
                    following = (*state[:group], position + 1, *state[group + 1 :])
                elif position == 0:
                    continue
                else:
                    following = (*state[:-1], position - 1)
                before = reached.get(following)
                reached[following] = (count + before[0] if before else count, (group, path))
        if not reached or len(reached) > _MAX_STATES:
            return None
        ways = {state: (min(count, 2), path) for state, (count, path) in reached.items()}
    final = ways.get((*(len(group) for group in wanted), 0))
    if final is None or final[0] != 1:
        return None
    path, node = [], final[1]
    while node is not None:
        path.append(node[0])
        node = node[1]
    return path[::-1]


# Settings that only some optimizers of torch.optim have, the most telling first.
_SIGNATURES = (
    ({"nesterov", "dampening"}, "SGD"), ({"momentum_decay"}, "NAdam"), ({"beta2_decay"}, "Adafactor"),
    ({"ns_steps"}, "Muon"), ({"lambd", "t0"}, "ASGD"), ({"etas", "step_sizes"}, "Rprop"), ({"rho"}, "Adadelta"),
    ({"initial_accumulator_value"}, "Adagrad"), ({"alpha", "centered"}, "RMSprop"),
    ({"tolerance_grad", "history_size"}, "LBFGS"),
)  # fmt: skip


def class_of(optimizer: Section, groups: list[Group]) -> tuple[str | None, bool]:
    """Class name(s) of the optimizer, and whether it is recorded."""
    if optimizer.cls and optimizer.cls.startswith("torch.optim."):
        return optimizer.cls.rpartition(".")[2], True
    settings = groups[0].settings if groups else {}
    for signature, name in _SIGNATURES:
        if signature <= settings.keys():
            return name, False
    if "betas" in settings:
        if "weight_decay" not in settings:
            return "SparseAdam", False
        # since torch 2.7 AdamW is an Adam with this switch
        decoupled = settings.get("decoupled_weight_decay")
        if "amsgrad" in settings:
            return ("AdamW" if decoupled is True else "Adam" if decoupled is False else "Adam|AdamW"), False
        return "Adamax|RAdam" if decoupled is None else "RAdam", False
    return None, False
