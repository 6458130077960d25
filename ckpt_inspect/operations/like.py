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

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from ..formats.renames import entry_keys
from ..model.keymap import KeyMap
from ..model.section import Section
from ..model.wrappers import LEADING
from .leftovers import HARMLESS
from .like_content import same_bytes
from .like_sides import Node, Siblings, Side, in_order, joined, leaf, modules_left, names_below, numbers_in, splits
from .rules import Rules


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


class _Search:
    """Pairs of bare names, settled one kind of evidence after the other."""

    def __init__(self, section: Section, reference: Section) -> None:
        self.section = section
        self.a, self.b = Side(section), Side(reference)
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
            for name, other in list(same_bytes(self.a, self.b)):
                self._settle(name, other, "content")
            self._subtrees()
            self._names()
            self._mangled()
            self._partly_wrapped()
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
        for path, rest in splits(name):
            below = other == rest or other.endswith("." + rest)
            self.moved[path].add(other[: -len(rest) - 1] if below else None)
        ends = {after: (before, number) for before, number, after in numbers_in(other)}
        for before, number, after in numbers_in(name):
            if after in ends:
                self.shifts[before, ends[after][0]].add((int(number), int(ends[after][1])))

    def _fits(self, name: str, other: str) -> bool:
        return other in self.b.left and self.a.kind(name) == self.b.kind(other)

    # names

    def _all_names(self) -> bool:
        """Whether every name agrees; then they are settled."""
        names, others = ({name for name in side.infos if leaf(name) not in HARMLESS} for side in (self.a, self.b))
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
        name, other = joined(path, rest), joined(its, rest)
        kind = self.a.kind(name)
        others = {after: before for before, _, after in numbers_in(other)}
        return all(
            len(after) >= len(rest) or self.a.numbers[before, after, kind] == self.b.numbers[others[after], after, kind]
            for before, _, after in numbers_in(name)
        )

    def _subtrees(self) -> None:
        """What all that is settled in the same subtree says of the rest of it."""
        for name in list(self.a.left):
            for path, rest in splits(name):
                went = self.moved.get(path)
                if went is None:
                    continue
                its = next(iter(went)) if len(went) == 1 else None
                if its is not None and self._fits(name, joined(its, rest)) and self._same_numbers(path, its, rest):
                    self._settle(name, joined(its, rest), "subtree")
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

    def _partly_wrapped(self) -> None:
        """``module.`` before some keys only, where the reference has none that begins so."""
        lead = LEADING + "."
        if any(name.startswith(lead) for name in self.b.infos):
            return
        for name in [name for name in self.a.left if name.startswith(lead)]:
            bare = name.removeprefix(lead)
            if bare not in self.a.infos and self._fits(name, bare):
                self._settle(name, bare, "names")

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
            if name in self.b.left and self.a.infos[name].shape != self.b.infos[name].shape and not any(numbers_in(name))
        }  # fmt: skip

    def _pairs(self, nodes: list[Node], others: list[Node]) -> Iterator[tuple[Node, Node, str]]:
        nodes = [node for node in nodes if all(name in self.a.left for name in names_below(node))]
        others = [node for node in others if all(name in self.b.left for name in names_below(node))]
        if len(nodes) != len(others) or not nodes:
            return
        how = "shape"
        if len(nodes) > 1:
            how = "order"
            here, there = in_order(nodes), in_order(others)
            if here is None or there is None or not self._keeps_order(here, there):
                return
            nodes, others = here.nodes, there.nodes
        pairs = list(zip(nodes, others, strict=True))
        if all(self._one_module(node, other) for node, other in pairs):
            yield from ((node, other, how) for node, other in pairs)

    def _keeps_order(self, here: Siblings, there: Siblings) -> bool:
        """Whether what is settled already below the two parents goes with these, in order."""
        pairs = self.shifts.get((here.before, there.before), set()) if not here.stem and not there.stem else set()
        both = sorted({*pairs, *zip(here.numbers, there.numbers, strict=True)})
        return all(one[0] < two[0] and one[1] < two[1] for one, two in pairwise(both))

    def _one_module(self, node: Node, other: Node) -> bool:
        """Whether no module would be torn apart: tensors of it that are settled went the same way."""
        for name in names_below(node):
            rest = name[len(node.path) + 1 :] if node.path else name
            module, its = (text.rpartition(".")[0] for text in (name, joined(other.path, rest)))
            if self.modules.get(module, its) != its or self.origins.get(its, module) != module:
                return False
        return True

    def _settle_all(self, node: Node, other: Node, how: str) -> None:
        for name in list(names_below(node)):
            self._settle(name, joined(other.path, name[len(node.path) + 1 :] if node.path else name), how)

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
            module, _, last = key.rpartition(".")
            if module and key not in self.section.tensors and module in modules:  # goes with its module
                pairs[key] = joined(modules[module], last)
        return KeyMap(pairs)

    def _ambiguous(self) -> list[tuple[list[str], list[str]]]:
        """Modules left on both sides that look alike, and their leftovers with them."""
        blocked = self._mismatched_names()
        sides = [modules_left(side, blocked) for side in (self.a, self.b)]
        return [
            ([name for module in ours for name in module], [name for module in sides[1][form] for name in module])
            for form, ours in sides[0].items()
            if form in sides[1]
        ]


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
