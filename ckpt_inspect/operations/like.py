"""Which key of a file is which key of a reference (design 4, Matching): found with certainty, or left out.

Four kinds of evidence, the strongest first; what one has settled is evidence for the next:

* *names*: all names agree once wrapper segments are taken off. Then nothing is read.
* *content*: the same bytes, one-to-one. Constants, single numbers and known leftovers are no evidence.
* *names* again, for what content left; and *subtree*: all that is settled below ``a`` went to ``b``, so ``a.x`` is
  ``b.x``. The number of a sibling counts as a name only where both sides have the same numbers left.
* *shape*: modules, or whole subtrees, alike in names below them, shapes and dtypes, where both sides have one of that
  form left; *order*: several, if they are numbered siblings of one parent, as many on both sides.

Nothing is said of a tensor alone that could be said of its module: a weight never goes to one module and its bias to
another. The core knows sections only: those of a live model do as well.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

from ..dtypes import BY_NAME
from ..formats.renames import entry_keys
from ..model.keymap import KeyMap
from ..model.section import Section
from ..model.tensor import TensorInfo
from ..model.wrappers import ANYWHERE, COUNTER, LEADING
from .rules import Rules

HARMLESS = {
    "num_batches_tracked": "a counter that BatchNorm uses only with momentum=None; files from before 2018 lack it",
    "position_ids": "0, 1, 2, …: the model makes it anew",
    "inv_freq": "frequencies of rotary embeddings: the model makes them anew",
    "total_ops": "counted by thop, no part of the model",
    "total_params": "counted by thop, no part of the model",
    "n_averaged": "how many models AveragedModel has averaged; the weights do not need it",
    "global_step": "a counter of training, no part of the model",
}

_LARGEST_READ = 256 << 20
_SAMPLE = 4096
_CHUNK = 1 << 20
_DEEPEST = 64  # segments; deeper keys, which only attackers write, are matched by nothing but their names
_NUMBERED = re.compile(r"([^0-9]*)([0-9]{1,18})", re.ASCII)


class Match(NamedTuple):
    """A rule, and what speaks for it.

    Attributes:
        rule: ``conv1.* -> model1.0.*``.
        how: the kinds of evidence, the most frequent first: ``content``, ``names``, ``subtree``, ``shape``, ``order``.
        tensors, parameters: what it covers.
    """

    rule: str
    how: str
    tensors: int
    parameters: int


class Matching(NamedTuple):
    """What was found.

    Attributes:
        keys: what is certain; all other keys stay as they are. If one of those has a name that is given to another,
            both are in ``collisions``, and ``keys.check()`` refuses, until it is dropped.
        matches: the rules that give ``keys``.
        how: file key -> the evidence, for every tensor that was matched, those that keep their names too.
        ambiguous: file keys and reference keys that fit each other in several ways; left out.
        missing: reference keys that nothing was found for.
        extra: file keys with no place in the reference.
        mismatched: file key and reference key of the same name, but of another shape.
        recast: file key and reference key that were matched although their dtypes differ.
        collisions: file key, and the one that would get its name.
    """

    keys: KeyMap
    matches: list[Match]
    how: dict[str, str]
    ambiguous: list[tuple[list[str], list[str]]]
    missing: list[str]
    extra: list[str]
    mismatched: list[tuple[str, str]]
    recast: list[tuple[str, str]]
    collisions: list[tuple[str, str]]


def like(section: Section, reference: Section) -> Matching:
    """Match the tensors of a section with those of a reference. Reads values only where names do not settle it."""
    return _Search(section, reference).run()


def bare_names(keys: Iterable[str]) -> dict[str, str]:
    """Key -> the key without wrapper segments (design 4, nested ones too); as they are, if two would meet."""
    names = {}
    for key in keys:
        *path, last = key.split(".")
        names[key] = [*(segment for segment in path if segment not in ANYWHERE), last]
    lead = [name for key, name in names.items() if key != COUNTER]
    while lead and all(len(name) > 1 and name[0] == LEADING for name in lead):
        for name in lead:
            del name[0]
    children: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for name in names.values():
        if LEADING in name:  # its parent is looked up below, and it alone
            children[tuple(name[: name.index(LEADING)])].add(LEADING)
    for name in names.values():
        for end in range(len(name)):
            if (parent := tuple(name[:end])) in children:
                children[parent].add(name[end])
    found = {}
    for key, name in names.items():
        at = name.index(LEADING) if LEADING in name else 0
        alone = 0 < at < len(name) - 1 and children[tuple(name[:at])] == {LEADING}
        found[key] = ".".join(name[:at] + name[at + 1 :] if alone else name)
    return found if len(set(found.values())) == len(found) else {key: key for key in names}


# -- one side ------------------------------------------------------------------------------------------


class _Node:
    """A module of the tree of what is left: a form, equal for equal subtrees, and the names below it."""

    __slots__ = ("children", "form", "leaves", "path", "size")

    def __init__(self, path: str) -> None:
        self.path = path
        self.leaves: list[str] = []
        self.children: dict[str, _Node] = {}
        self.form = self.size = 0


class _Side:
    """The tensors of one side by bare name, and which are not settled yet."""

    def __init__(self, section: Section) -> None:
        real = [key for key, info in section.tensors.items() if info.persistent and key.count(".") < _DEEPEST]
        self.deep = {key for key, info in section.tensors.items() if info.persistent and key.count(".") >= _DEEPEST}
        self.names = bare_names(real)
        self.keys = {name: key for key, name in self.names.items()}
        self.infos: dict[str, TensorInfo] = {name: section.tensors[key] for name, key in self.keys.items()}
        self.left = dict.fromkeys(self.infos)
        self.loose = False
        self.numbers: dict[tuple[str, str, Any], int] = {}

    def ready(self, loose: bool) -> None:
        """Note the numbers of siblings that are left: below one parent, alike but for the number.

        As one hash for each set of them: sets of thousands would be compared thousands of times.
        """
        self.loose = loose
        self.numbers = defaultdict(int)
        for name in self.left:
            for before, number, after in _numbers(name):
                self.numbers[before, after, self.kind(name)] ^= hash(number)

    def kind(self, name: str) -> tuple[object, ...]:
        """What tensors must share to be taken for each other."""
        info = self.infos[name]
        dtype = BY_NAME[info.dtype].kind if self.loose and info.dtype in BY_NAME else info.dtype
        return dtype, info.shape, info.layout

    def settle(self, name: str) -> None:
        del self.left[name]
        for before, number, after in _numbers(name):
            self.numbers[before, after, self.kind(name)] ^= hash(number)

    def forms(self, ids: dict[object, int], blocked: set[str]) -> dict[int, list[_Node]]:
        """Nodes of the tree of what is left, by their form, in saved order. Known leftovers are no part of a form."""
        root = _Node("")
        nodes = {"": root}
        for name in self.left:
            if name in blocked or _leaf(name) in HARMLESS:
                continue
            _node(nodes, name.rpartition(".")[0] if "." in name else "").leaves.append(name)
        found: dict[int, list[_Node]] = defaultdict(list)
        for node in reversed(list(nodes.values())):  # children were made after their parents
            leaves = sorted((_leaf(name), self.kind(name)) for name in node.leaves)
            below = sorted((name, child.form) for name, child in node.children.items())
            node.form = ids.setdefault((tuple(leaves), tuple(below)), len(ids))
            node.size = len(leaves) + sum(child.size for child in node.children.values())
        for node in nodes.values():
            if node.size:
                found[node.form].append(node)
        return found


def _node(nodes: dict[str, _Node], path: str) -> _Node:
    missing = []
    while path not in nodes:
        missing.append(path)
        path = path.rpartition(".")[0]
    node = nodes[path]
    for path in reversed(missing):
        parent, node = node, _Node(path)
        nodes[path] = parent.children[_leaf(path)] = node
    return node


def _below(node: _Node) -> Iterator[str]:
    stack = [node]
    while stack:
        node = stack.pop()
        yield from node.leaves
        stack.extend(node.children.values())


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _numbers(name: str) -> Iterator[tuple[str, str, str]]:
    """Each number among the segments: what stands before it, the number, what stands after."""
    start = 0
    for segment in name.split("."):
        if segment.isdecimal():
            yield name[:start], segment, name[start + len(segment) :]
        start += len(segment) + 1


def _joined(path: str, rest: str) -> str:
    return f"{path}.{rest}" if path else rest


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Every module that holds the tensor, the innermost first, and the name below it; ``""`` is the root."""
    at = name.rfind(".")
    while at >= 0:
        yield name[:at], name[at + 1 :]
        at = name.rfind(".", 0, at)
    yield "", name


# -- content -------------------------------------------------------------------------------------------


def _readable(info: TensorInfo) -> bool:
    """Whether its bytes are in the file, in order, and say something."""
    if info.storage is None or info.layout != "strided" or info.conj or info.neg or info.stride is None:
        return False
    expected = 1
    for size, stride in zip(reversed(info.shape), reversed(info.stride), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return prod(info.shape) > 1 and 0 < info.nbytes <= _LARGEST_READ


def _digest(info: TensorInfo, most: int) -> tuple[str, str] | None:
    """Hash of its first bytes, None if all elements are equal (or, of a sample, if the bytes are not there)."""
    data = info.storage.data if info.storage is not None else None
    if info.storage is None or data is None:
        return None
    size = info.nbytes // prod(info.shape)
    start = info.storage_offset * size
    end = start + info.nbytes
    if not size or end > data.size:
        return None
    stop = min(end, start + most)
    value = hashlib.blake2b(digest_size=20)
    first, constant = data.read_at(start, size), True
    for at in range(start, stop, _CHUNK):
        chunk = data.read_at(at, min(_CHUNK, stop - at))
        constant = constant and chunk == (first * (len(chunk) // size + 1))[: len(chunk)]
        value.update(chunk)
    if constant and stop == end:
        return None
    return ("" if info.storage.word == 1 else info.storage.byteorder), value.hexdigest()


def _same_bytes(a: _Side, b: _Side) -> Iterator[tuple[str, str]]:
    """Names with the same bytes that no other has, on either side."""
    groups = [_grouped(_candidates(side)) for side in (a, b)]
    for most in (_SAMPLE, _LARGEST_READ):
        both = groups[0].keys() & groups[1].keys()
        if most == _SAMPLE:  # one of its kind, and its name agrees: nothing to find out
            both = {kind for kind in both if len(groups[0][kind]) > 1 or groups[0][kind] != groups[1][kind]}
        groups = [_grouped(_digests(side, group, both, most)) for side, group in zip((a, b), groups, strict=True)]
    for kind, names in groups[0].items():
        others = groups[1].get(kind, [])
        if len(names) == len(others) == 1:
            yield names[0], others[0]


def _candidates(side: _Side) -> Iterator[tuple[str, object]]:
    for name in side.left:
        info = side.infos[name]
        if _leaf(name) not in HARMLESS and _readable(info):
            yield name, (info.dtype, info.shape)


def _digests(side: _Side, group: dict[object, list[str]], both: set[object], most: int) -> Iterator[tuple[str, object]]:
    for kind, names in group.items():
        for name in names if kind in both else ():
            digest = _digest(side.infos[name], most)
            if digest is not None:
                yield name, (kind, digest)


def _grouped(named: Iterable[tuple[str, object]]) -> dict[object, list[str]]:
    found: dict[object, list[str]] = defaultdict(list)
    for name, kind in named:
        found[kind].append(name)
    return found


# -- the search ----------------------------------------------------------------------------------------


class _Search:
    """Pairs of bare names, settled one kind of evidence after the other."""

    def __init__(self, section: Section, reference: Section) -> None:
        self.section = section
        self.a, self.b = _Side(section), _Side(reference)
        self.found: dict[str, tuple[str, str]] = {}
        self.modules: dict[str, str] = {}  # module -> where its tensors went
        self.origins: dict[str, str] = {}
        self.moved: dict[str, set[str | None]] = defaultdict(set)  # subtree -> where it went; None: not as a whole
        self.shifts: dict[tuple[str, str], set[tuple[int, int]]] = defaultdict(set)  # numbers below two parents
        used = [{info.dtype for info in side.infos.values()} for side in (self.a, self.b)]
        self.cast = used[0] != used[1]

    def run(self) -> Matching:
        self._ready(self.cast)
        if not self._all_names():
            for name, other in list(_same_bytes(self.a, self.b)):
                self._settle(name, other, "content")
            self._subtrees()
            self._names()
            self._mangled()
            self._shapes()
        self._ready(True)
        self._names()
        self._subtrees()
        return self._result()

    def _ready(self, loose: bool) -> None:
        for side in (self.a, self.b):
            side.ready(loose)

    def _settle(self, name: str, other: str, how: str) -> None:
        self.a.settle(name)
        self.b.settle(other)
        self.found[name] = other, how
        module, its = (text.rpartition(".")[0] for text in (name, other))
        self.modules.setdefault(module, its)
        self.origins.setdefault(its, module)
        for path, rest in _splits(name):
            below = other == rest or other.endswith("." + rest)
            self.moved[path].add(other[: -len(rest) - 1] if below else None)
        ends = {after: (before, number) for before, number, after in _numbers(other)}
        for before, number, after in _numbers(name):
            if after in ends:
                self.shifts[before, ends[after][0]].add((int(number), int(ends[after][1])))

    def _fits(self, name: str, other: str) -> bool:
        return other in self.b.left and self.a.kind(name) == self.b.kind(other)

    # names

    def _all_names(self) -> bool:
        """Whether every name agrees; then they are settled."""
        names, others = ({name for name in side.infos if _leaf(name) not in HARMLESS} for side in (self.a, self.b))
        if names != others or not all(self._fits(name, name) for name in names):
            return False
        for name in [name for name in self.a.left if self._fits(name, name)]:
            self._settle(name, name, "names")
        return True

    def _names(self) -> None:
        for name in list(self.a.left):
            if self._fits(name, name) and self._same_numbers("", "", name):
                self._settle(name, name, "names")

    def _same_numbers(self, path: str, its: str, rest: str) -> bool:
        """Whether below two modules the numbers left are the same, so that a number says which is which."""
        name, other = _joined(path, rest), _joined(its, rest)
        kind = self.a.kind(name)
        others = {after: before for before, _, after in _numbers(other)}
        return all(
            len(after) >= len(rest) or self.a.numbers[before, after, kind] == self.b.numbers[others[after], after, kind]
            for before, _, after in _numbers(name)
        )

    def _subtrees(self) -> None:
        """What all that is settled in the same subtree says of the rest of it."""
        for name in list(self.a.left):
            for path, rest in _splits(name):
                went = self.moved.get(path)
                if went is None:
                    continue
                its = next(iter(went)) if len(went) == 1 else None
                if its is not None and self._fits(name, _joined(its, rest)) and self._same_numbers(path, its, rest):
                    self._settle(name, _joined(its, rest), "subtree")
                break

    def _mangled(self) -> None:
        """``ema_backbone_conv1_weight``: dots turned to underscores."""
        others = Counter(name.replace(".", "_") for name in self.b.infos)
        plain = {mangled: name for name in self.b.left if others[mangled := name.replace(".", "_")] == 1}
        for name in [name for name in self.a.left if "." not in name]:
            for spelled in (name, name.removeprefix("ema_")):
                other = plain.get(spelled)
                if other is not None and name in self.a.left and self._fits(name, other):
                    self._settle(name, other, "names")

    # shapes

    def _shapes(self) -> None:
        """Modules and subtrees alike, and what follows from them, until nothing more does."""
        settled = -1
        while settled < len(self.found):
            settled = len(self.found)
            ids: dict[object, int] = {}
            blocked = self._mismatched_names()
            ours, theirs = self.a.forms(ids, blocked), self.b.forms(ids, blocked)
            both = [form for form in ours if form in theirs]
            for form in sorted(both, key=lambda form: -ours[form][0].size):
                for node, other, how in self._pairs(ours[form], theirs[form]):
                    self._settle_all(node, other, how)
            self._subtrees()
            self._names()

    def _mismatched_names(self) -> set[str]:
        """Names that both sides have, in other shapes: renamed they were hardly, unless numbers are in them."""
        return {
            name for name in self.a.left
            if name in self.b.left and self.a.infos[name].shape != self.b.infos[name].shape and not any(_numbers(name))
        }  # fmt: skip

    def _pairs(self, nodes: list[_Node], others: list[_Node]) -> Iterator[tuple[_Node, _Node, str]]:
        nodes = [node for node in nodes if all(name in self.a.left for name in _below(node))]
        others = [node for node in others if all(name in self.b.left for name in _below(node))]
        if len(nodes) != len(others) or not nodes:
            return
        how = "shape"
        if len(nodes) > 1:
            how = "order"
            here, there = _in_order(nodes), _in_order(others)
            if here is None or there is None or not self._keeps_order(here, there):
                return
            nodes, others = here.nodes, there.nodes
        pairs = list(zip(nodes, others, strict=True))
        if all(self._one_module(node, other) for node, other in pairs):
            yield from ((node, other, how) for node, other in pairs)

    def _keeps_order(self, here: _Siblings, there: _Siblings) -> bool:
        """Whether what is settled already below the two parents goes with these, in order."""
        pairs = self.shifts.get((here.before, there.before), set()) if not here.stem and not there.stem else set()
        both = sorted({*pairs, *zip(here.numbers, there.numbers, strict=True)})
        return all(one[0] < two[0] and one[1] < two[1] for one, two in pairwise(both))

    def _one_module(self, node: _Node, other: _Node) -> bool:
        """Whether no module would be torn apart: tensors of it that are settled went the same way."""
        for name in _below(node):
            rest = name[len(node.path) + 1 :] if node.path else name
            module, its = (text.rpartition(".")[0] for text in (name, _joined(other.path, rest)))
            if self.modules.get(module, its) != its or self.origins.get(its, module) != module:
                return False
        return True

    def _settle_all(self, node: _Node, other: _Node, how: str) -> None:
        for name in list(_below(node)):
            self._settle(name, _joined(other.path, name[len(node.path) + 1 :] if node.path else name), how)

    # the result

    def _result(self) -> Matching:
        ambiguous = self._ambiguous()
        unclear = {name for names, _ in ambiguous for name in names}
        unclear_others = {name for _, names in ambiguous for name in names}
        wrong = [
            name for name in self.a.left
            if name in self.b.left and name not in unclear and name not in unclear_others
            and self.a.infos[name].shape != self.b.infos[name].shape
        ]  # fmt: skip
        unclear.update(wrong)
        unclear_others.update(wrong)
        ours, theirs = self.a.keys, self.b.keys
        pairs = [(name, other) for name, (other, _) in self.found.items()]
        keys = self._keymap()
        how = {ours[name]: how for name, (_, how) in self.found.items()}
        return Matching(
            keys=keys,
            matches=_matches(keys, how, self.section),
            how=how,
            ambiguous=[([ours[one] for one in left], [theirs[one] for one in right]) for left, right in ambiguous],
            missing=[theirs[name] for name in self.b.left if name not in unclear_others]
            + sorted(self.b.deep - self.a.deep),
            extra=[ours[name] for name in self.a.left if name not in unclear] + sorted(self.a.deep - self.b.deep),
            mismatched=[(ours[name], theirs[name]) for name in wrong],
            recast=[(ours[x], theirs[y]) for x, y in pairs if self.a.infos[x].dtype != self.b.infos[y].dtype],
            collisions=_collisions(keys),
        )

    def _keymap(self) -> KeyMap:
        new: dict[str, str | None] = {}
        modules: dict[str, str] = {}
        for name, (other, _) in self.found.items():
            key, its = self.a.keys[name], self.b.keys[other]
            new[key] = its
            modules.setdefault(key.rpartition(".")[0], its.rpartition(".")[0])
        pairs: dict[str, str | None] = {}
        for key in entry_keys(self.section):
            pairs[key] = new.get(key, key)
            module, _, leaf = key.rpartition(".")
            if module and key not in self.section.tensors and module in modules:  # goes with its module
                pairs[key] = _joined(modules[module], leaf)
        return KeyMap(pairs)

    def _ambiguous(self) -> list[tuple[list[str], list[str]]]:
        """Modules left on both sides that look alike, and their leftovers with them."""
        blocked = self._mismatched_names()
        sides = [_modules(side, blocked) for side in (self.a, self.b)]
        return [
            ([name for module in ours for name in module], [name for module in sides[1][form] for name in module])
            for form, ours in sides[0].items()
            if form in sides[1]
        ]


def _modules(side: _Side, blocked: set[str]) -> dict[object, list[list[str]]]:
    modules: dict[str, list[str]] = defaultdict(list)
    for name in side.left:
        if name not in blocked:
            modules[name.rpartition(".")[0]].append(name)
    found: dict[object, list[list[str]]] = defaultdict(list)
    for names in modules.values():
        form = tuple(sorted((_leaf(name), side.kind(name)) for name in names if _leaf(name) not in HARMLESS))
        if form:
            found[form].append(names)
    return found


class _Siblings(NamedTuple):
    """Nodes that differ in one number, in its order."""

    nodes: list[_Node]
    numbers: list[int]
    before: str
    stem: str


def _in_order(nodes: list[_Node]) -> _Siblings | None:
    """Nodes whose paths differ in one number: ``layers.3.fc``, ``conv2``. None: there is no order between them."""
    paths = [node.path.split(".") for node in nodes]
    if len({len(path) for path in paths}) != 1:
        return None
    at = [index for index, segments in enumerate(zip(*paths, strict=True)) if len(set(segments)) > 1]
    if len(at) != 1:
        return None
    found = [_NUMBERED.fullmatch(path[at[0]]) for path in paths]
    parts = [(match[1], int(match[2])) for match in found if match]
    stems = {stem for stem, _ in parts}
    numbers = [number for _, number in parts]
    if len(parts) < len(paths) or len(stems) != 1 or len(set(numbers)) < len(numbers):
        return None
    stem = stems.pop()
    order = sorted(range(len(nodes)), key=numbers.__getitem__)
    if stem and order != list(range(len(nodes))):  # in a name, a number counts only where it goes with what was saved
        return None
    before = "".join(segment + "." for segment in paths[0][: at[0]])
    return _Siblings([nodes[index] for index in order], [numbers[index] for index in order], before, stem)


def _matches(keys: KeyMap, how: dict[str, str], section: Section) -> list[Match]:
    """The rules that give the map, and for each what it covers and why."""
    from .rules import _First

    first = _First(Rules.parse(keys.rules()).rules)
    covered: dict[int, list[str]] = defaultdict(list)
    for key, _ in keys.renamed:
        covered[first.match(key)[0]].append(key)
    found = []
    for index, rule in enumerate(keys.rules()):
        tensors = [key for key in covered[index] if key in section.tensors]
        kinds = Counter(how[key] for key in tensors if key in how)
        parameters = sum(section.tensors[key].numel for key in tensors)
        found.append(Match(rule, ", ".join(kind for kind, _ in kinds.most_common()), len(tensors), parameters))
    return found


def _collisions(keys: KeyMap) -> list[tuple[str, str]]:
    """A key that stays or moves, and the one that would get its name."""
    given: dict[str, list[str]] = defaultdict(list)
    for old, new in keys.pairs.items():
        if new is not None:
            given[new].append(old)
    return [(stays, moves) for olds in given.values() for stays, moves in pairwise(olds)]
