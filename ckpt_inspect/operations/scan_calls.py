"""What the calls of a pickle would do: judged by what is called and by what it is called with.

A harmless name is harmless only as honest pickles use it. What calls its argument sooner or later (``map``,
``defaultdict``, ``_rebuild_from_type_v2``) is judged by that argument, and what cannot be told has no business there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from ..formats.known_names import (
    HARMLESS,
    NO_BUSINESS,
    UNKNOWN,
    WAYS_OUT,
    acts,
    classify,
    classify_call,
    computes,
    is_attribute,
    python3,
    torch_function,
)
from ..formats.torch_classes import kind_of
from ..model.graph import Dict, Global, Opaque, Persistent, Set

_GETATTR = frozenset(["builtins.getattr", "__builtin__.getattr"])
_IMPORT = frozenset(["importlib.import_module", "builtins.__import__", "__builtin__.__import__"])
_MAKING = frozenset(
    ["copyreg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__"]
)  # of their first argument
_ALIASES = frozenset(["_operator.getitem", "operator.getitem", "_operator.or_", "operator.or_", "types.GenericAlias"])
_SINGLETONS = frozenset(["builtins.Ellipsis", "builtins.NotImplemented"])
_ONE_FOR_ALL = frozenset(["builtins.type", "logging.getLogger"])  # what these give, others hold too
_BASES = frozenset(["torch._C.TensorBase", "torch._C._TensorBase"])
_DEEPEST = 6

Judged = tuple[str, str]  # the name that a call is about, and its kind


def path_of(node: Any, depth: int = 0) -> tuple[str, str] | None:
    """Module and attribute path that a node stands for, None if it is no name.

    Follows ``getattr(x, 'name')`` and ``import_module('name')``, through which names are hidden.
    """
    if type(node) is Global:
        return node.module, node.name
    if type(node) is Persistent and type(node.pid) is tuple and len(node.pid) > 1 and node.pid[0] == "module":
        return path_of(node.pid[1], depth + 1) if depth < 8 else None
    if type(node) is not Opaque or type(node.args) is not tuple or not node.args or depth > 8:
        return None
    args = node.args
    if node.qualname in _GETATTR and len(args) >= 2 and isinstance(args[1], str):
        owner = path_of(args[0], depth + 1)
        return (owner[0], f"{owner[1]}.{args[1]}" if owner[1] else str(args[1])) if owner is not None else None
    if node.qualname in _IMPORT and isinstance(args[0], str):
        return str(args[0]), ""
    return None


def full_name(node: Any) -> str:
    """A name as Python 3 finds it, ``""`` if the node is none."""
    path = path_of(node)
    return _full(*path) if path is not None else ""


# A pickle calls a few names a million times.
@lru_cache(256)
def _full(module: str, name: str) -> str:
    return ".".join(filter(None, python3(module, name)))


@lru_cache(256)
def _kind(module: str, name: str) -> str:
    return classify(module, name)


@lru_cache(256)
def _kind_of_call(module: str, name: str, how: str = "REDUCE") -> str:
    return classify_call(module, name, how)


class Calls:
    """Judges calls."""

    def __init__(self) -> None:
        self._depth = 0

    def judge(self, call: Opaque) -> tuple[str, str, bool]:
        """Name and kind of a call, and whether all calls of this callee by this opcode are alike."""
        path = path_of(call.callee)
        if path is None:
            return call.qualname or "what a call gives", NO_BUSINESS, False
        name = ".".join(filter(None, path))
        rule = _RULES.get(full_name(call.callee))
        if rule is None:
            kind = _kind_of_call(*path, call.how)
            if kind == UNKNOWN and _makes_by_call(call, name):
                return name, kind if type(call.args) is tuple and len(call.args) < 2 else NO_BUSINESS, False
            return name, kind, True
        if type(call.args) is not tuple or self._depth > _DEEPEST:
            return name, NO_BUSINESS, False
        self._depth += 1
        about, kind = rule(self, call)
        self._depth -= 1
        return (about or name) if kind == UNKNOWN else name, kind, False

    def called(self, node: Any, *, exact: bool = False) -> Judged:
        """What it would be to call a value; ``exact``: without arguments, so that what it is bound to is all."""
        if self._depth > _DEEPEST:
            return "", NO_BUSINESS
        path = path_of(node)
        if path is not None and full_name(node) not in _RULES and not (type(node) is Opaque and node.ops):
            name, kind = ".".join(filter(None, path)), _kind_of_call(*path)
            return name, NO_BUSINESS if kind == UNKNOWN and not exact and _is_bundled(*path) else kind
        if path is not None:
            return self.judge(Opaque("REDUCE", node, ()))[:2] if exact else ("", NO_BUSINESS)
        if type(node) is not Opaque or type(node.args) is not tuple or not node.args:
            return "", NO_BUSINESS
        what = full_name(node.callee)
        self._depth += 1
        try:
            if what == "functools.partial":
                return self._partial_called(node, exact)
            if what == "types.GenericAlias":
                return self.called(node.args[0], exact=exact)
        finally:
            self._depth -= 1
        owner = owner_of(node.args[0]) if node.qualname in _GETATTR else None
        if owner is not None and _kind(*owner) == UNKNOWN and not _is_bundled(*owner):
            return ".".join(owner), UNKNOWN
        return "", NO_BUSINESS

    def _partial_called(self, node: Opaque, exact: bool) -> Judged:
        """A ``partial`` is called: its function is, which BUILD may have replaced."""
        bound = [(node.args[0], node.args[1:])]
        for state in node.states:
            if type(state) is not tuple or len(state) < 2 or type(state[1]) is not tuple or len(bound) > 1:
                return "", NO_BUSINESS
            bound.append((state[0], state[1]))
        about = ""
        for function, args in bound:
            path = path_of(function)
            if exact and path is not None and torch_function(*path) is not None:
                name, kind = torch_function(*path) or "", UNKNOWN  # partial(torch.zeros, 3)
            elif exact and path is not None:
                name, kind, _ = self.judge(Opaque("REDUCE", function, args))
            else:
                name, kind = self.called(function)
            if kind == NO_BUSINESS:
                return name, kind
            about = name if kind == UNKNOWN else about
        return about, UNKNOWN if about else HARMLESS

    # -- rules: one for each name whose call is what its arguments are -----------------------------------------------

    def getattr(self, call: Opaque) -> Judged:
        """``getattr(x, 'name')`` is how Python 2 pickled methods and nested classes: it is what it gives."""
        args = call.args
        if len(args) != 2 or not isinstance(args[1], str) or args[1] in WAYS_OUT:
            return "", NO_BUSINESS
        path = path_of(call)
        if path is not None:  # no call of it yet; but nothing else is made with what hangs on torch's modules
            given = torch_function(*path) is not None or is_attribute(*path)
            return call.qualname, UNKNOWN if given else _kind_of_call(*path)
        target = args[0]
        if args[1].startswith("__"):
            return "", NO_BUSINESS
        if isinstance(target, (str, bytes, bytearray, int, float, list, tuple, Dict, Set)):
            return "", HARMLESS  # a method of a plain value
        owner = owner_of(target)
        if owner is None:
            return "", NO_BUSINESS
        kind = _kind(*owner)
        if kind == HARMLESS and not computes(*owner):
            kind = UNKNOWN if owner[0].startswith(("torch.", "numpy.")) and not acts(args[1]) else NO_BUSINESS
        return call.qualname, kind

    def type(self, call: Opaque) -> Judged:
        """``type(None)`` is pickled so, and of those that are alone of their kind; of others it gives classes to patch."""
        plain = len(call.args) == 1 and (call.args[0] is None or full_name(call.args[0]) in _SINGLETONS)
        return "", HARMLESS if plain else NO_BUSINESS

    def first(self, call: Opaque) -> Judged:
        """``map(f, …)`` calls f sooner or later; ``filter(None, …)`` calls nothing.

        ``reduce(or_, (int, NoneType))`` is how ``int | None`` is pickled.
        """
        if not call.args:
            return "", NO_BUSINESS
        if full_name(call.args[0]) in ("_operator.or_", "operator.or_"):
            unions = len(call.args) == 2 and type(call.args[1]) is tuple and all(map(_is_type, call.args[1]))
            return "", HARMLESS if unions else NO_BUSINESS
        return self.called(call.args[0]) if call.args[0] is not None else ("", HARMLESS)

    def second(self, call: Opaque) -> Judged:
        """``accumulate(…, f)``."""
        return self.called(call.args[1]) if len(call.args) > 1 and call.args[1] is not None else ("", HARMLESS)

    def iter(self, call: Opaque) -> Judged:
        """``iter(f, sentinel)`` calls f."""
        return self.called(call.args[0], exact=True) if len(call.args) != 1 and call.args else ("", HARMLESS)

    def partial(self, call: Opaque) -> Judged:
        """It only binds, and what calls it is judged by what is bound; but what calls its argument is bound by nobody
        else than who hides that: any object may call it then, as ``dict`` calls ``keys`` and torch its hooks.
        """
        if not call.args:
            return "", NO_BUSINESS
        functions = [call.args[0], *(state[0] for state in call.states if type(state) is tuple and state)]
        names = {full_name(function) for function in functions}
        return "", HARMLESS if names & _RULES.keys() <= _FACTORIES else NO_BUSINESS

    def defaultdict(self, call: Opaque) -> Judged:
        """It calls its factory when a key is missing; BUILD could replace the factory."""
        if call.states:
            return "", NO_BUSINESS
        path = path_of(call.args[0]) if call.args else None
        if path is not None and _kind(*path) == UNKNOWN:  # a function of torch's too: GradScaler has such a one
            return ".".join(path), UNKNOWN
        if path is not None and kind_of(*python3(*path)) == "made":
            return "", HARMLESS  # a module without arguments
        return self.called(call.args[0], exact=True) if call.args and call.args[0] is not None else ("", HARMLESS)

    def alias(self, call: Opaque) -> Judged:
        """``List[int]``, ``int | None``: of types. Of an object ``getitem`` is a call of its methods."""
        types = call.args[:1] if full_name(call.callee).endswith("getitem") else call.args
        if len(call.args) != 2 or not all(_is_type(node) for node in types):
            return "", NO_BUSINESS
        return "", HARMLESS

    def reconstructor(self, call: Opaque) -> Judged:
        """``_reconstructor(cls, base, state)`` makes an object of a class; the base's ``__init__`` is called."""
        if len(call.args) != 3 or not path_of(call.args[0]) or not path_of(call.args[1]):
            return "", NO_BUSINESS
        base = full_name(call.args[1])
        if base in _GATHERING:
            if self.gathers(Opaque("REDUCE", call.args[1], call.args[2:]))[1] == NO_BUSINESS:
                return "", NO_BUSINESS
        elif base in _RULES or (base not in _BASES and self.called(call.args[1])[1] == NO_BUSINESS):
            return "", NO_BUSINESS
        return self.judge(Opaque("NEWOBJ", call.args[0], ()))[:2]

    def newobj(self, call: Opaque) -> Judged:
        """``__newobj__(cls, …)`` is what the opcode of that name does."""
        args = call.args
        if not args:
            return "", NO_BUSINESS
        if full_name(call.callee).endswith("_ex__"):
            args = (args[0], *args[1]) if len(args) == 3 and type(args[1]) is tuple else ()
        return self.judge(Opaque("NEWOBJ", args[0], args[1:]))[:2] if args else ("", NO_BUSINESS)

    def from_type(self, call: Opaque) -> Judged:
        """``_rebuild_from_type_v2(f, class, args, state)`` calls f, which is a rebuild of torch's or somebody's."""
        args = call.args
        if len(args) != 4 or type(args[2]) is not tuple or path_of(args[1]) is None:
            return "", NO_BUSINESS
        name, kind, _ = self.judge(Opaque("REDUCE", args[0], args[2]))
        owner = _kind(*(path_of(args[1]) or ("", "")))
        rebuild = kind == UNKNOWN or full_name(args[0]).rpartition(".")[2].startswith("_rebuild")
        return name, kind if rebuild and owner != NO_BUSINESS else NO_BUSINESS

    def plain(self, call: Opaque) -> Judged:
        """What is harmless with plain values."""
        return "", HARMLESS if all(isinstance(a, (str, int, float)) for a in call.args) else NO_BUSINESS

    def gathers(self, call: Opaque) -> Judged:
        """``dict(x)`` and ``str(x)`` call methods of x: of plain values, which honest pickles give them, their own."""
        made = [node for node in call.args if type(node) is Opaque and (node.ops or full_name(node.callee) in _GETATTR)]
        owners = [owner_of(node) for node in made]
        if any(owner is None or _is_bundled(*owner) or _kind(*owner) != UNKNOWN for owner in owners):
            return "", NO_BUSINESS
        return (".".join(owners[0]), UNKNOWN) if owners and owners[0] else ("", HARMLESS)

    def bare(self, call: Opaque) -> Judged:
        """What honest pickles make empty; its attributes come by BUILD."""
        return "", HARMLESS if not call.args else NO_BUSINESS

    def generator(self, call: Opaque) -> Judged:
        """numpy's random states are made from the class of the bits, its name, or (last) with the function that makes it."""
        for node in call.args:
            name = full_name(node) or full_name(owner_of(node) and node.callee)
            if not isinstance(node, str) and not name.startswith("numpy.random."):
                return "", NO_BUSINESS
            if name and _kind(*name.rsplit(".", 1)) != HARMLESS:
                return "", NO_BUSINESS
        return "", HARMLESS

    # -- what is done to what was made ------------------------------------------------------------------------------

    def tampers(self, call: Opaque) -> bool:
        """Whether the opcodes behind a call do to the object what no honest pickle does.

        BUILD on a class or a logger patches what others use. What BUILD set on an object (``append``, ``add``, ``__setstate__``) is called by the
        opcodes that follow; and what adds to an object that is no list or set calls something else.
        """
        ops = call.ops
        if ops is None or (len(ops) == 1 and ops[0][0] == "SETITEMS"):
            return False
        kinds = [kind for kind, _ in ops]
        what = full_name(call.callee)
        if "BUILD" in kinds:
            shared = what in _ALIASES or what in _GETATTR or what in _IMPORT or what in _ONE_FOR_ALL
            if shared or what.startswith(("torch._utils._rebuild_", "torch._tensor._rebuild_from_type")):
                return True
            behind = kinds[kinds.index("BUILD") + 1 :]
            if any(kind != "SETITEMS" for kind in behind) or (behind and what not in _MAPPINGS):
                return True
            if any(_stands_in(key, value) for state in call.states for key, value in _attributes(state)):
                return True
        if "APPENDS" in kinds or "ADDITEMS" in kinds:
            owner = owner_of(call)
            return owner is None or (_kind(*owner) == HARMLESS and _full(*owner) not in _GROWING)
        return False


def _attributes(state: Any) -> Iterator[tuple[Any, Any]]:
    """What BUILD would set."""
    for part in state if type(state) is tuple else (state,):
        if type(part) is Dict:
            yield from part.items()


def _stands_in(key: Any, value: Any) -> bool:
    """Whether an attribute stands in for a method that others call, as ``keys`` is by ``dict``; of one's own classes' who knows."""
    if not isinstance(key, str) or not (key in _METHODS or key.startswith("__")):
        return False
    if type(value) is Opaque and full_name(value.callee) == "functools.partial" and type(value.args) is tuple:
        value = value.args[0] if value.args else value
    path = path_of(value)
    return path is not None and (_is_bundled(*path) or _kind(*path) != UNKNOWN)


def _is_bundled(module: str, name: str) -> bool:
    """Whether a name is torch's or numpy's: what is not known of those is at hand wherever the file is loaded."""
    return python3(module, name)[0].partition(".")[0] in ("torch", "numpy")


def _makes_by_call(call: Opaque, name: str) -> bool:
    """Whether a class of torch's that is not known is called, which honest pickles do to enums and exceptions, of one value.

    ``torch.compile``'s objects are made so too, of several.
    """
    is_class = name.rpartition(".")[2].lstrip("_")[:1].isupper()
    return is_class and name.startswith("torch.") and not name.startswith("torch._dynamo.") and call.how[:6] != "NEWOBJ"


def owner_of(node: Any) -> tuple[str, str] | None:
    """The class of an object, by name."""
    if type(node) is not Opaque:
        return None
    if full_name(node.callee) in _MAKING and type(node.args) is tuple and node.args:
        return path_of(node.args[0])
    return path_of(node.callee)


def _is_type(node: Any) -> bool:
    """Whether a node is a type that may stand in an annotation."""
    path = path_of(node)
    if path is not None:
        return _kind(*path) != NO_BUSINESS
    return node is None or (type(node) is Opaque and full_name(node.callee) in _ALIASES | {"builtins.type"})


_GATHERING = frozenset(f"builtins.{name}" for name in ("dict", "frozenset", "list", "set", "str", "tuple"))
_FACTORIES = frozenset(["collections.defaultdict"])
_MAPPINGS = frozenset(["collections.OrderedDict", "collections.defaultdict", "collections.Counter"])
_METHODS = frozenset(
    ["append", "clear", "copy", "extend", "get", "insert", "items", "keys", "pop", "popitem", "remove", "setdefault",
     "update", "values"]
)  # fmt: skip
_GROWING = frozenset(
    ["builtins.list", "builtins.set", "builtins.bytearray", "collections.deque", "collections.UserList", "array.array"]
)
_RULES: dict[str, Callable[[Calls, Opaque], Judged]] = {
    **dict.fromkeys(["builtins.getattr"], Calls.getattr),
    "builtins.type": Calls.type,
    **dict.fromkeys(
        ["builtins.map", "builtins.filter", "functools.reduce", "_functools.reduce", "itertools.starmap",
         "itertools.takewhile", "itertools.dropwhile", "itertools.filterfalse"], Calls.first),
    **dict.fromkeys(["itertools.accumulate", "itertools.groupby"], Calls.second),
    "builtins.iter": Calls.iter,
    "functools.partial": Calls.partial,
    "collections.defaultdict": Calls.defaultdict,
    **dict.fromkeys(_ALIASES - {"types.GenericAlias"}, Calls.alias),
    "copyreg._reconstructor": Calls.reconstructor,
    **dict.fromkeys(["copyreg.__newobj__", "copyreg.__newobj_ex__"], Calls.newobj),
    **dict.fromkeys(["torch._tensor._rebuild_from_type", "torch._tensor._rebuild_from_type_v2"], Calls.from_type),
    **dict.fromkeys(["logging.getLogger", "operator.itemgetter", "_operator.itemgetter"], Calls.plain),
    **dict.fromkeys(_GATHERING, Calls.gathers),
    "types.SimpleNamespace": Calls.bare,
    **dict.fromkeys(
        [f"numpy.random._pickle.{name}" for name in ("__generator_ctor", "__bit_generator_ctor", "__randomstate_ctor")],
        Calls.generator),
}  # fmt: skip
