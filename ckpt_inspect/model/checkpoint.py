"""A checkpoint, opened: its sections, values, and what can be asked of them without reading tensor bytes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from difflib import get_close_matches
from glob import escape as glob_escape
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import LimitError, MissingKeyError, SelectionError
from . import pointer as pointers
from .spelling import as_path, quoted, shell_join, unescape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .section import Section, Value
    from .storage import Container
    from .tensor import TensorInfo

# Containers whose state_dicts are not the weights one looks for (design 3, weights candidate).
_NOT_WEIGHTS = frozenset(
    [
        "callbacks",
        "loops",
        "lr_schedulers",
        "lr_scheduler",
        "scheduler",
        "schedulers",
        "optimizer",
        "optimizers",
        "optimizer_states",
        "optimizer_state_dict",
        "optimizer_state",
        "optim",
        "optims",
        "opt",
        "scaler",
        "scalers",
        "grad_scaler",
        "grad_scaler_state",
        "native_amp_scaling_state",
        "amp",
        "amp_scaler",
        "rng",
        "rng_state",
        "rng_states",
        "random_state",
        "random_states",
        "cuda_rng_state",
        "torch_rng_state",
        "numpy_rng_state",
    ]
)

_MOST_CHARACTERS = 50_000_000


class Checkpoint:
    """What :func:`ckpt_inspect.open` gives.

    Attributes:
        path: the file or directory.
        format: one of the names of the contract: ``torch-zip``, ``torchscript``, ``safetensors``, …
        size: bytes of all its files.
        containers: one for each file.
        sections: by pointer, in saved order.
        values: leaves that are no tensors.
        problems: what is wrong with the file, in words; empty for a sound one.
        facts: what the containers say of themselves: writer, version, byte order, ….
        order: by pointer, the place of containers and values among their like, as saved.
        parts: the shards of a sharded checkpoint, each opened by itself.
        siblings: other files of the same directory, where a directory was opened.
        whole: of a selected part, the checkpoint it is a part of.
        selected: the pointer of the part that was asked for, None for the whole file.
        origin: of a conversion that is not written yet, the checkpoint it is made of.
    """

    # How notebooks show it: set by the package, for drawing is above the model.
    html: ClassVar[Callable[[Checkpoint], str] | None] = None

    def __init__(self, path: str, format: str, size: int) -> None:
        self.path = path
        self.format = format
        self.size = size
        self.containers: list[Container] = []
        self.sections: dict[str, Section] = {}
        self.values: list[Value] = []
        self.problems: list[str] = []
        self.facts: dict[str, str] = {}
        self.order: dict[str, int] = {}
        self.parts: list[Checkpoint] = []
        self.siblings: list[str] = []
        self.whole: Checkpoint | None = None
        self.selected: str | None = None
        self.origin: Checkpoint | None = None

    # -- tensors --------------------------------------------------------------------------------------

    def tensors(self) -> Iterator[tuple[str, Section, TensorInfo]]:
        """Every tensor as (name, section, info), section by section in saved order."""
        for section in self.sections.values():
            name_of = section.name_of
            for key, info in section.tensors.items():
                yield name_of(key), section, info

    def __len__(self) -> int:
        return sum(len(section) for section in self.sections.values())

    def __iter__(self) -> Iterator[str]:
        return (name for name, _, _ in self.tensors())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and len(self._find(name)) == 1

    def __getitem__(self, name: str) -> TensorInfo:
        """The tensor of this name, or of this key where the key is unique in the file.

        Raises:
            MissingKeyError: there is none; close matches are named.
            SelectionError: several sections have the key.
        """
        found = self._find(name)
        if len(found) == 1:
            return found[0][2]
        if found:
            names = ", ".join(candidate for candidate, _, _ in found[:5])
            raise SelectionError(
                f"{name!r} is in several sections: {names}", path=self.path, hint=f"Name one: {quoted(found[0][0])}"
            )
        raise MissingKeyError(f"no tensor is called {name!r}", path=self.path, hint=self._close_matches(name))

    def _find(self, name: str) -> list[tuple[str, Section, TensorInfo]]:
        by_key = []
        for row in self.tensors():
            if row[0] == name:
                return [row]
            if row[2].key == name:
                by_key.append(row)
        return by_key

    def module(self, name: str) -> int:
        """How many tensors the module of this name has, by its path in a section or in the file; 0: there is none."""
        below = name + "."
        return sum(info.key.startswith(below) or full.startswith(below) for full, _, info in self.tensors())

    def look_at_module(self, name: str) -> str:
        """The command that shows the module of this name."""
        return f"Look at it: {shell_join(['ckpt', 'tree', as_path(self.path), '--filter', glob_escape(name) + '.*'])}"

    def _close_matches(self, name: str) -> str | None:
        from itertools import islice

        known = dict.fromkeys(
            spelled for full, _, info in islice(self.tensors(), 20_000) for spelled in (full, info.key)
        )
        close = get_close_matches(name, known, n=3, cutoff=0.5) or [key for key in known if name in key][:3]
        return f"Did you mean {' or '.join(map(quoted, close))}?" if close else None

    # -- sections -------------------------------------------------------------------------------------

    def candidates(self) -> list[str]:
        """Pointers of the weights candidates (design 3).

        The root if it is a state_dict or module itself; else each highest container below the root
        whose sections are all state_dicts or modules, and that is not named as state of something else.
        """
        root = self.sections.get("")
        if root is not None and root.kind in ("state_dict", "module"):
            return [""]
        join = pointers.join
        good: dict[str, bool] = {}  # container below the root -> whether all its sections are weights
        above: dict[str, str] = {}
        for pointer, section in self.sections.items():
            weights = section.kind in ("state_dict", "module") and may_be_weights(pointer)
            ancestor = ""
            for segment in pointers.split(pointer):
                above[join(ancestor, segment)] = ancestor
                ancestor = join(ancestor, segment)
                good[ancestor] = good.get(ancestor, True) and weights
        return [pointer for pointer, fits in good.items() if fits and not good.get(above[pointer], False)]

    def select(self, pointer: str) -> Checkpoint:
        """The part below a container: all sections at or below ``pointer``.

        Raises:
            MissingKeyError: there is no such container; close matches are named.
        """
        if pointer not in ("", "/"):
            pointer = pointer.strip("/")
        inside = {name: s for name, s in self.sections.items() if pointers.is_below(name, pointer)}
        values = [v for v in self.values if pointers.is_below(v.name, pointer) and v.name != pointer]
        if not inside and not values:
            meant = unescape(pointer)  # as it is printed
            if meant is not None:
                with suppress(MissingKeyError):
                    return self.select(meant)
            if count := self.module(pointer):
                raise MissingKeyError(
                    f"{pointer!r} is no section but a module of {count:,} tensor{'s' if count > 1 else ''}",
                    path=self.path, hint=self.look_at_module(pointer),
                )  # fmt: skip
            known = list(dict.fromkeys([*self.candidates(), *self.sections, *self.containers_of_values()]))
            close = get_close_matches(pointer, known, n=3, cutoff=0.5)
            listed = close or [name for name in known if name][:6]
            raise MissingKeyError(
                f"there is no section {pointer!r}",
                path=self.path,
                hint=f"There is: {', '.join(listed)}" if listed else "The whole file is one section.",
            )
        part = self._part(inside, values)
        part.selected = pointer
        return part

    def of_sections(self, wanted: Sequence[str]) -> Checkpoint:
        """The part that is some of its sections, and the values in them."""
        inside = {pointer: self.sections[pointer] for pointer in wanted}
        part = self._part(inside, [value for value in self.values if is_inside(value.name, inside)])
        part.selected = self.selected
        return part

    def _part(self, sections: dict[str, Section], values: list[Value]) -> Checkpoint:
        part = Checkpoint(self.path, self.format, self.size)
        part.containers, part.problems, part.facts = self.containers, self.problems, self.facts
        part.siblings, part.order, part.parts, part.origin = self.siblings, self.order, self.parts, self.origin
        part.sections, part.values, part.whole = sections, values, self
        return part

    def containers_of_values(self) -> list[str]:
        """Pointers of the containers that hold the plain values."""
        return list(dict.fromkeys(value.name.rpartition("/")[0] for value in self.values))

    def key_in_selection(self, section: Section, key: str) -> str:
        """The key as seen from the selected container: relative to it, if that is above the section."""
        if self.selected is None or self.selected == section.pointer:
            return key
        return pointers.relative(section.name_of(key), self.selected)

    # -- facts about several tensors ------------------------------------------------------------------

    def tied(self) -> list[list[str]]:
        """Names of tensors that are the same view of the same storage, in groups of two and more.

        Raises:
            LimitError: the first name of a group, which is said with each of the others, is that long.
        """
        groups: dict[Any, list[str]] = {}
        for name, _, info in self.tensors():
            view = info.view_of
            if view is not None:
                groups.setdefault(view, []).append(name)
        found = [names for names in groups.values() if len(names) > 1]
        if sum(len(names[0]) * len(names) for names in found) > _MOST_CHARACTERS:
            raise LimitError("names of tied tensors that are too long for so many of them: refused", path=self.path)
        return found

    def close(self) -> None:
        """Close the files. Reading tensor bytes is then an error; everything known stays."""
        for container in self.containers:
            whole = container.source.file_range()
            if whole is not None:
                whole[0].close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        part = f"#{self.selected}" if self.selected is not None else ""
        lines = [f"<Checkpoint {self.path}{part} · {self.format} · {len(self):,} tensors>"]
        sections = list(self.sections.values())
        lines += [f"  {s.pointer or '(root)'}: {s.kind}, {len(s):,} tensors" for s in sections[:12]]
        if len(sections) > 12:
            lines.append(f"  … and {len(sections) - 12:,} more sections")
        return "\n".join(lines)

    def _repr_html_(self) -> str | None:
        return Checkpoint.html(self) if Checkpoint.html is not None else None


def is_inside(name: str, sections: Collection[str]) -> bool:
    """Whether a value is at or below one of the sections; each of its containers is asked for once."""
    while name not in sections:
        if not name:
            return False
        name = name.rpartition("/")[0]
    return True


def may_be_weights(pointer: str) -> bool:
    """Whether no name on the way to a section says that it is the state of something else."""
    return not any(_plain(segment) in _NOT_WEIGHTS for segment in pointer.split("/"))


def _plain(segment: str) -> str:
    """The name that decides: ``optimizer`` for ``optimizer_G``, ``g_optim``, …, but not for ``optimized``."""
    name = segment.lower()
    if {"optimizer", "optimizers", "optim", "optims"} & set(name.replace("-", "_").split("_")):
        return "optimizer"
    if name.endswith(("_scheduler", "_scaler", "_rng_state")):
        return "scaler"
    return name
