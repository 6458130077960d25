"""A part of a checkpoint that holds tensors, and the plain values beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from . import pointer as pointers
from .metadata import map_paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .keymap import KeyMap
    from .tensor import TensorInfo


class Value(NamedTuple):
    """A leaf that is no tensor.

    Attributes:
        name: its pointer in the file.
        type: Python's name of its type, ``module.Class`` for other objects.
        value: plain data (None, bool, int, float, str, lists and dicts of them); None when it is not plain data.
        text: how a person would write it.
        node: the graph node it was read from, None outside pickles.
    """

    name: str
    type: str
    value: Any
    text: str
    node: Any = None


class ModuleInfo(NamedTuple):
    """One recorded ``nn.Module``: a node of a whole-module pickle or of a TorchScript archive.

    Attributes:
        cls: ``module.Class`` as recorded.
        args: constructor facts as torch would print them, ``""`` if none are known.
        training: as recorded, None if it is not.
        hooks: names of the hook registries that hold something.
        source: the Python source of the class, where the file carries it (legacy files do).
    """

    cls: str
    args: str = ""
    training: bool | None = None
    hooks: tuple[str, ...] = ()
    source: str | None = None


class Section:
    """A container that holds tensors directly: a mapping ``key -> TensorInfo``.

    Attributes:
        pointer: JSON Pointer without its leading slash; ``""`` is the root.
        kind: ``module``, ``optimizer``, ``state_dict``, ``tensor`` or ``other``.
        cls: recorded class of the container, None for plain dict, list and tuple.
        tensors: in saved order.
        modules: recorded modules by dotted path (``""`` the root), for kind ``module``.
        metadata: ``_metadata`` of a state_dict: module path -> plain data; None without one.
        params: in an optimizer: key -> (name of the parameter it belongs to, ``recorded`` or ``derived``).
        owner: in an optimizer: pointer of the section whose parameters it moves; None: not certain.
        node: the graph node it was read from.
        entries: all its keys, of tensors and others; None: not asked for yet.
        renamed: where its keys went, as the file spells them; None: nowhere.
        instead: the graph node that is written in the place of ``node``, None for itself.
    """

    __slots__ = (
        "cls",
        "entries",
        "instead",
        "kind",
        "metadata",
        "modules",
        "node",
        "owner",
        "params",
        "pointer",
        "renamed",
        "tensors",
    )

    def __init__(self, pointer: str, kind: str, cls: str | None = None, node: Any = None) -> None:
        self.pointer = pointer
        self.kind = kind
        self.cls = cls
        self.node = node
        self.tensors: dict[str, TensorInfo] = {}
        self.modules: dict[str, ModuleInfo] = {}
        self.metadata: dict[str, Any] | None = None
        self.params: dict[str, tuple[str, str]] = {}
        self.owner: str | None = None
        self.entries: list[str] | None = None
        self.renamed: KeyMap | None = None
        self.instead: Any = None

    def name_of(self, key: str) -> str:
        """The name of one of its tensors, unique in the file."""
        if self.kind == "tensor":
            return self.pointer
        if self.kind == "optimizer":  # its keys are pointers already
            return pointers.concat(self.pointer, key)
        return pointers.join(self.pointer, key) if key or self.pointer else ""

    def with_keys(self, keys: KeyMap) -> Section:
        """This section under other names, as a view: what the file says is left as it is.

        Raises:
            KeyCollisionError: two keys would meet; both are named.
        """
        keys.check(self.pointer)
        view = Section(self.pointer, self.kind, self.cls, self.node)
        for key, info in self.tensors.items():
            new = keys.pairs.get(key, key)
            if new is not None:
                view.tensors[new] = info if new == key else info._replace(key=new)
        view.modules, view.params, view.owner = self.modules, self.params, self.owner
        view.renamed = keys if self.renamed is None else self.renamed.then(keys)
        if self.entries is not None:
            view.entries = [new for key in self.entries if (new := keys.pairs.get(key, key)) is not None]
        if self.metadata is not None:
            paths = map_paths(list(self.metadata), keys.pairs)
            view.metadata = {new: {"version": 1} if old is None else self.metadata[old] for old, new in paths.moved}
        return view

    def __getitem__(self, key: str) -> TensorInfo:
        return self.tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def keys(self) -> list[str]:
        return list(self.tensors)

    def values(self) -> list[TensorInfo]:
        return list(self.tensors.values())

    def items(self) -> list[tuple[str, TensorInfo]]:
        return list(self.tensors.items())

    def __contains__(self, key: object) -> bool:
        return key in self.tensors

    def __repr__(self) -> str:
        return f"Section({self.pointer!r}, {self.kind}, {len(self.tensors)} tensors)"
