"""The fewest rules ``P.** -> Q.**`` and single renames that give a map: what each subtree of keys does.

This is how routers shorten their tables (Draves et al., Optimal Routing Table Constructor, 1999): the more specific
rule comes first, and a subtree needs a rule of its own only where it does not follow the one above it.
"""

from __future__ import annotations

from collections.abc import Sequence

from .pattern import escape, write

_MAX_SEGMENTS = 64  # deeper keys keep their rest as one segment


class Move:
    """One rule in the making: ``old`` becomes ``new``, with all that is ``below`` or alone.

    Attributes:
        old, new: a key; or, with ``below``, what keys begin with: ``""``, or ending in a dot.
        keys: those that take this rule.
    """

    __slots__ = ("below", "keys", "new", "old")

    def __init__(self, old: str, new: str, below: bool) -> None:
        self.old = old
        self.new = new
        self.below = below
        self.keys: list[str] = []

    @property
    def text(self) -> str:
        tail = "**" if self.below else ""
        return write(escape(self.old) + tail, escape(self.new) + tail)


class _Node:
    """The keys that begin with ``path``.

    Attributes:
        votes: a beginning that may take the place of ``path``: how many children would need no rule.
        rules: how many rules it takes if none comes from above.
        most: the most votes that any has; 0 where it does not matter which comes from above.
    """

    __slots__ = ("children", "leaves", "most", "path", "rules", "votes")

    def __init__(self, path: str) -> None:
        self.path = path
        self.leaves: list[tuple[str, str]] = []  # (last segment, new key)
        self.children: dict[str, _Node] = {}  # by segment, with its dot
        self.votes: dict[str, int] = {}
        self.rules = 0
        self.most = 0

    def wants(self, beginning: str) -> bool:
        return self.votes.get(beginning, 0) == self.most


def find_moves(pairs: Sequence[tuple[str, str]]) -> list[Move]:
    """Rules for exactly these keys; the first that matches a key gives its new name, and no key lacks one.

    Keys that stay take no rule unless one for the keys around them would catch them.
    """
    one = _one_for_all(pairs)
    if one is not None:
        return [one]
    root = _tree(pairs)
    _count(root)
    found: list[Move] = []
    _place(root, None, found)
    return [move for move in found if move.keys]


def _one_for_all(pairs: Sequence[tuple[str, str]]) -> Move | None:
    """The one rule there is where a prefix is put on all keys, or taken off: what the tree would say, sooner."""
    if not pairs:
        return None
    old, new = pairs[0]
    longer, shorter = (old, new) if len(old) > len(new) else (new, old)
    prefix = longer[: len(longer) - len(shorter)]
    if prefix[-1:] != ".":
        return None
    before, after = (prefix, "") if longer is old else ("", prefix)
    if not all(old.startswith(before) and new == after + old[len(before) :] for old, new in pairs):
        return None
    move = Move(before, after, True)
    move.keys = [old for old, _ in pairs]
    return move


def _tree(pairs: Sequence[tuple[str, str]]) -> _Node:
    root = _Node("")
    for old, new in pairs:
        node = root
        *path, last = old.split(".", _MAX_SEGMENTS)
        for segment in path:
            name = segment + "."
            child = node.children.get(name)
            if child is None:
                child = node.children[name] = _Node(node.path + name)
            node = child
        node.leaves.append((last, new))
    return root


def _count(node: _Node) -> None:
    """Fill in votes and rules, from the leaves up."""
    votes = node.votes
    for last, new in node.leaves:
        node.rules += 1
        _vote(votes, new, last)
    for name, child in node.children.items():
        _count(child)
        node.rules += child.rules
        for beginning in child.votes if child.most else ():
            if child.wants(beginning):
                _vote(votes, beginning, name)
    node.most = max(votes.values(), default=0)
    node.rules += 1 - node.most if node.most else 0


def _vote(votes: dict[str, int], new: str, name: str) -> None:
    """If ``new`` is something with ``name`` below it, one vote for that something."""
    if new.endswith(name):
        beginning = new[: len(new) - len(name)]
        if not beginning or beginning[-1] == ".":
            votes[beginning] = votes.get(beginning, 0) + 1


def _place(node: _Node, above: Move | None, found: list[Move]) -> None:
    """Choose the rules from the root down; those further down are put first."""
    begins = above.new + node.path[len(above.old) :] if above is not None else node.path
    move = above
    votes = node.votes.get(begins, 0)
    # With one vote more a rule of its own saves nothing: then only where all the children follow it.
    if node.most - votes > 1 or (node.most - votes == 1 and node.most == len(node.leaves) + len(node.children)):
        begins = next(filter(node.wants, node.votes))
        move = Move(node.path, begins, True)
    for last, new in node.leaves:
        taken = move
        if begins + last != new:
            taken = Move(node.path + last, new, False)
            found.append(taken)
        if taken is not None:
            taken.keys.append(node.path + last)
    for child in node.children.values():
        _place(child, move, found)
    if move is not None and move is not above:
        found.append(move)
