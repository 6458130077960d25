"""An object reduced to tensors and plain data: what ``torch.load(weights_only=True)`` accepts.

A module becomes its state_dict, a mapping of a foreign class a dict, a numpy number a number; what has no plain form
goes, and is named.
"""

from __future__ import annotations

from typing import Any

from ..errors import LimitError, UnsupportedError
from ..model import pointer as pointers
from ..model.checkpoint import Checkpoint
from ..model.graph import Blob, Dict, Global, Opaque, Persistent, Set
from ..model.lost import Lost
from . import modules, numpy_values, objects, weights_only
from .building import Build, reread
from .inline import bytes_of
from .logical import FROM_TYPE, REBUILT_PARAMETER
from .parts import build_of, remade
from .rebuild import is_rebuild, is_storage
from .values import is_scalar
from .weights_only import ALLOWED, modern

_GONE = object()  # what has no plain form
_DEEPEST = 120
_MAPPINGS = ("collections.OrderedDict", "collections.Counter")
_ATTRIBUTES = ("argparse.Namespace", "types.SimpleNamespace")
_PARAMETER = "torch.nn.parameter.Parameter"


def reduced(checkpoint: Checkpoint) -> tuple[Checkpoint, list[Lost], list[str]]:
    """A torch zip of tensors and plain data; what went (name: why), and what has another form now.

    Raises:
        UnsupportedError: nothing would be left, or torch would refuse what is left.
    """
    build, pickle = build_of(checkpoint)
    cleaner = _Cleaner(build)
    root = cleaner.clean(pickle.root, "", 0)
    if root is _GONE:
        raise UnsupportedError(
            f"there is no plain data in it: {'; '.join(f'{name} ({why})' for name, why in cleaner.gone[:3])}",
            path=checkpoint.path,
        )
    verdict = weights_only.verdict([reread(build.pickle(root)[0])])
    if not verdict.ok:
        raise UnsupportedError(
            f"torch would refuse what is left: {', '.join(verdict.blocked[:5])}", path=checkpoint.path
        )
    return remade(checkpoint, build, root), cleaner.gone, cleaner.changed


class _Cleaner:
    """Makes new nodes of allowed kinds; one for each old node, so that what was shared is shared."""

    def __init__(self, build: Build) -> None:
        self.build = build
        self.gone: list[Lost] = []
        self.changed: list[str] = []
        self._made: dict[int, Any] = {}
        self._open: set[int] = set()
        self._kept: list[Any] = []

    def clean(self, node: Any, name: str, depth: int) -> Any:
        if is_scalar(node) or type(node) is Blob:
            return node
        if id(node) in self._made:
            return self._made[id(node)]
        if id(node) in self._open:
            return self._lose(name, "it holds itself")
        if depth > _DEEPEST:
            raise LimitError(f"nested more than {_DEEPEST} deep at {name[:80]!r}: refused")
        self._open.add(id(node))
        made = self._clean(node, name, depth + 1)
        self._open.discard(id(node))
        self._made[id(node)] = made
        self._kept.append(node)
        return made

    def _lose(self, name: str, why: str) -> Any:
        self.gone.append(Lost(name or "the root", why))
        return _GONE

    def _change(self, name: str, what: str) -> None:
        self.changed.append(f"{name or 'the root'}: {what}")

    def _clean(self, node: Any, name: str, depth: int) -> Any:
        kind = type(node)
        if kind in (list, tuple):
            return self._sequence(node, name, depth)
        if kind is Dict:
            return Dict(self._pairs(list(node.items()), name, depth))
        if kind is Set:
            plain = [member for member in node.members if is_scalar(member)]
            return (
                Set(plain, node.frozen)
                if len(plain) == len(node.members) and not node.frozen
                else self._lose(name, "a set")
            )
        if kind is Global:
            return node if node.qualname in ALLOWED else self._lose(name, node.qualname)
        if kind is Persistent:
            return node if is_storage(node) else self._lose(name, "a persistent id")
        if kind is Opaque:
            return self._opaque(node, name, depth)
        return self._lose(name, kind.__name__)

    def _sequence(self, node: Any, name: str, depth: int) -> Any:
        made = [self.clean(item, pointers.join(name, str(i)), depth) for i, item in enumerate(node)]
        if all(new is old for new, old in zip(made, node, strict=True)):
            return node
        return type(node)(None if item is _GONE else item for item in made)

    def _pairs(self, inside: list[tuple[Any, Any]], name: str, depth: int) -> list[Any]:
        pairs: list[Any] = []
        for index, (key, value) in enumerate(inside):
            where = pointers.join(name, objects.key_text(key, index)[0])
            if not is_scalar(key) and not (type(key) is tuple and all(map(is_scalar, key))):
                self._lose(where, "its key is no plain value")
                continue
            new = self.clean(value, where, depth)
            if new is not _GONE:
                pairs += [key, new]
        return pairs

    def _opaque(self, node: Opaque, name: str, depth: int) -> Any:
        if modules.is_module(node):
            self._change(name, f"{objects.class_name(node)} became its state_dict()")
            return self._state_dict(node, depth)
        qualname = modern(node.qualname)
        if is_rebuild(node) or (qualname in ALLOWED and qualname.endswith("Tensor")) or qualname == _PARAMETER:
            return self._tensor(node, name, depth)
        plain = self._plain(node, name)
        if plain is not None:
            return plain
        if objects.is_mapping(node):
            pairs = self._pairs(objects.mapping_items(node), name, depth)
            if qualname in _MAPPINGS:
                return self._same_mapping(node, pairs, name, depth)
            if (node.ops and any(op == "SETITEMS" for op, _ in node.ops)) or qualname == "collections.defaultdict":
                self._change(name, f"{qualname} became a dict")
                return Dict(pairs)
        if qualname in _ATTRIBUTES:
            self._change(name, f"{qualname} became a dict")
            return Dict(self._pairs(list(objects.fields(node).items()), name, depth))
        if qualname in ALLOWED and not node.ops and qualname not in _MAPPINGS:
            args = self.clean(node.args, name, depth)
            return node if args is node.args else self._lose(name, qualname)
        if qualname in ALLOWED:
            return node if not node.ops and not node.args else self._lose(name, qualname)
        return self._lose(name, qualname or "an object")

    def _plain(self, node: Opaque, name: str) -> Any:
        """Values of foreign classes that are plain all the same; None: this is none."""
        if bytes_of(node) is not None:
            return node if modern(node.qualname) in ALLOWED else self._lose(name, node.qualname)
        number = numpy_values.scalar(node)
        if number is not None and isinstance(number[1], (bool, int, float)):
            self._change(name, f"{number[0]} became a number")
            return number[1]
        if numpy_values.array(node) is not None:
            return self._lose(name, "a numpy array: --from-numpy makes it a tensor")
        if (
            node.qualname.startswith("pathlib.")
            and type(node.args) is tuple
            and all(isinstance(a, str) for a in node.args)
        ):
            from pathlib import PurePosixPath, PureWindowsPath

            self._change(name, "a path became text")
            return str((PureWindowsPath if "Windows" in node.qualname else PurePosixPath)(*map(str, node.args)))
        return None

    def _same_mapping(self, node: Opaque, pairs: list[Any], name: str, depth: int) -> Opaque:
        """An OrderedDict with what is plain in it, its ``_metadata`` too."""
        copy = Opaque("REDUCE", node.callee, ())
        ops: list[tuple[str, Any]] = [("SETITEMS", pairs)] if pairs else []
        states = [Dict(self._pairs(list(s.items()), name, depth)) for s in node.states if type(s) is Dict]
        ops += [("BUILD", state) for state in states]
        copy.ops = ops or None
        return copy

    def _tensor(self, node: Opaque, name: str, depth: int) -> Any:
        """A tensor; hooks, attributes and classes that are not plain go."""
        qualname = modern(node.qualname)
        if qualname in FROM_TYPE:
            return self._from_type(node, name, depth)
        if qualname in REBUILT_PARAMETER:
            inner = self.clean(node.args[0], name, depth)
            if inner is _GONE:
                return _GONE
            if len(node.args) > 3:
                self._lose(name, "attributes of a parameter")
            return self.build.call("torch._utils", "_rebuild_parameter", inner, node.args[1], self.build.ordered())
        if qualname not in ALLOWED:
            return self._lose(name, qualname)
        args = self._arguments(node, name, depth)
        if args is None:
            return self._lose(name, qualname)
        copy = Opaque(node.how, node.callee, args)
        copy.ops = node.ops
        return copy

    def _arguments(self, node: Opaque, name: str, depth: int) -> tuple[Any, ...] | None:
        made = []
        for item in node.args:
            if type(item) is Opaque and item.qualname == "collections.OrderedDict" and objects.mapping_items(item):
                self._lose(name, "hooks")
                item = self.build.ordered()
            made.append(item if type(item) is Persistent else self.clean(item, name, depth))
        return None if any(item is _GONE for item in made) else tuple(made)

    def _from_type(self, node: Opaque, name: str, depth: int) -> Any:
        function, cls, args, _ = node.args
        inner = self.clean(Opaque("REDUCE", function, args), name, depth)
        if inner is _GONE:
            return _GONE
        kind = cls.qualname if type(cls) is Global else "a class"
        if kind == _PARAMETER:
            return self.build.call("torch._utils", "_rebuild_parameter", inner, True, self.build.ordered())
        if kind not in ("torch.Tensor", "torch._tensor.Tensor"):
            self._change(name, f"{kind} became a plain tensor")
        return inner

    def _state_dict(self, root: Opaque, depth: int) -> Any:
        """Keys and tensors by ``nn.Module``'s own rule: parameters, buffers, then children."""
        pairs: list[Any] = []
        waiting: list[tuple[str, Opaque, int]] = [("", root, 0)]
        while waiting:
            prefix, node, level = waiting.pop()
            if level > _DEEPEST:
                raise LimitError("modules that hold themselves: refused")
            fields = modules.module_fields(node)
            transient = modules.names_of(fields.get("_non_persistent_buffers_set"))
            for registry in ("_parameters", "_buffers"):
                for key, value in objects.entries(objects.mapping_items(fields[registry]))[0]:
                    if value is None or (registry == "_buffers" and key in transient):
                        continue
                    made = self.clean(_detached(value), prefix + key, depth)
                    if made is not _GONE:
                        pairs += [self.build.text(prefix + key), made]
            children = objects.entries(objects.mapping_items(fields["_modules"]))[0]
            below = [(f"{prefix}{key}.", child, level + 1) for key, child in children if modules.is_module(child)]
            waiting.extend(reversed(below))
        return self.build.ordered(pairs)


def _detached(node: Any) -> Any:
    """The tensor of a parameter: ``state_dict()`` gives it without its class and without a gradient."""
    for _ in range(4):
        name = node.qualname if type(node) is Opaque else ""
        if name in REBUILT_PARAMETER:
            node = node.args[0]
        elif name == _PARAMETER:
            state = next((part for part in node.states if type(part) is tuple), ())
            node = node.args[0] if node.args else state[0]
        elif name in FROM_TYPE and getattr(node.args[1], "qualname", "") == _PARAMETER:
            node = Opaque("REDUCE", node.args[0], node.args[2])
        else:
            break
    return node
