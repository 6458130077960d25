"""The order of the records in a file, and what is missing of it where some of them are lost."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from .zip_chain import ALIGNMENT, BROKEN, Item, rank_of

BEFORE_DATA = frozenset(["data.pkl", "byteorder", ".format_version", ".storage_alignment"])
OF_NUMERIC_WRITERS = frozenset([".format_version", ".storage_alignment"])  # torch 2.7 and later
_SMALL = BEFORE_DATA | {"version", ".data/serialization_id", ".data/version"}
_NUMBER = re.compile(r"data/(\d{1,9})")


class Stretches:
    """Parts of a file."""

    def __init__(self, stretches: Iterable[tuple[int, int]]) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        for begin, end in sorted(stretches):
            if self._ends and begin <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._begins.append(begin)
                self._ends.append(end)

    def end_of(self, at: int) -> int:
        """Where the part ends that a place is in, 0 if it is in none."""
        index = bisect_right(self._begins, at) - 1
        return self._ends[index] if index >= 0 and at < self._ends[index] else 0

    def __contains__(self, at: int) -> bool:
        return self.end_of(at) > 0


def runs_of(items: list[Item]) -> list[tuple[int, int]]:
    """Items that follow one another without a gap, by index."""
    found: list[tuple[int, int]] = []
    for index, item in enumerate(items):
        if index and items[index - 1].end == item.at:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return found


class Gap(NamedTuple):
    """Between two runs of records.

    Attributes:
        position: where the one before ends.
        stop: where the next proved one begins.
        shift: by how much contents before it are out of alignment.
        rank: of the record that is due there; ``next_rank``: of the next one.
    """

    position: int
    stop: int
    shift: int
    rank: int
    next_rank: int


class Places:
    """The order of the records in the file: torch's writers number them, in numeric or, older ones, in textual order."""

    def __init__(self, items: list[Item], sizes: Mapping[str, int]) -> None:
        self.items = items
        self.runs = runs_of(items)
        orders = orders_of(sizes)
        if any(item.name in OF_NUMERIC_WRITERS for item in items):
            del orders[1:]
        scored = [(self._score(order), order) for order in orders]
        best = min(score for score, _ in scored)
        self.orders = [order for score, order in scored if score == best]
        self.ranks = ranks_of(self.orders[0])
        self.votes = self._votes(self.ranks)
        self.run_of = [run for run, (begin, end) in enumerate(self.runs) for _ in range(begin, end)]

    def _score(self, order: list[str]) -> tuple[int, int]:
        """How well the items follow one another in an order; less is better."""
        ranks = ranks_of(order)
        known = [ranks[item.name] for item in self.items if item.name in ranks]
        descents = sum(one > other for one, other in pairwise(known))
        return -sum(agreeing for _, agreeing, _ in self._votes(ranks)), descents

    def _votes(self, ranks: Mapping[str, int]) -> list[tuple[int | None, int, int]]:
        """Of each run: how much more the rank of an item is than its index, by most of them; how many say so; of how many."""
        found: list[tuple[int | None, int, int]] = []
        for begin, end in self.runs:
            said: Counter[int] = Counter()
            count = 0
            for index in range(begin, end):
                item = self.items[index]
                if item.name in ranks and item.aligned:
                    said[ranks[item.name] - index] += 1
                    count += 1
            first = next((i for i in range(begin + 1, end) if self.items[i].name in ranks), end)
            anchored = first > begin and self.items[first - 1].name in BEFORE_DATA
            if anchored:
                said[-first] += 1
            best = said.most_common(2)
            decided = bool(best) and (
                len(best) == 1 or best[0][1] > best[1][1] or (anchored and said[-first] == best[0][1])
            )
            rank = None
            if decided:
                rank = -first if anchored and said[-first] == best[0][1] else best[0][0]
            agreeing = said[rank] - (anchored and rank == -first) if rank is not None else 0
            found.append((rank, agreeing, count))
        return found

    def due(self, index: int) -> str | None:
        """The name that an item should have by its place; ``""`` if that cannot be told, None if it may have any."""
        item = self.items[index]
        rank, agreeing, count = self.votes[self.run_of[index]]
        if item.name not in self.ranks:
            unknown = item.name not in _SMALL and rank is not None and 2 * agreeing >= count
            return self.at_rank(rank + index) if unknown and rank is not None else None
        if not item.aligned:
            return None
        if rank is None:
            return "" if self._is_ordered else None
        if rank + index == self.ranks[item.name]:
            return item.name
        if 2 * agreeing >= count:
            return self.at_rank(rank + index)
        return "" if count == 1 or self._is_ordered else None

    @cached_property
    def _is_ordered(self) -> bool:
        agreeing, count = sum(vote[1] for vote in self.votes), sum(vote[2] for vote in self.votes)
        return agreeing > 1 and 2 * agreeing >= count

    def at_rank(self, rank: int) -> str:
        names = {order[rank] if 0 <= rank < len(order) else "" for order in self.orders}
        return names.pop() if len(names) == 1 else ""

    def gaps(self, size: int) -> Iterator[Gap]:
        """Behind each run what is missing before the next one."""
        following = [len(self.items)]  # of each item, which the next proved one is
        for index in range(len(self.items) - 1, -1, -1):
            following.append(index if rank_of(self.items[index]) > 1 else following[-1])
        following.reverse()
        for run, (begin, end) in enumerate(self.runs):
            rank, agreeing, count = self.votes[run]
            while end > begin + 1 and self.items[end - 1].why == BROKEN:  # its content may lie elsewhere
                end -= 1
            last = self.items[end - 1]
            if rank is None or 2 * agreeing < count or not (last.name in self.ranks or last.name in BEFORE_DATA):
                continue
            known = [item for item in self.items[begin:end] if item.aligned]
            shift = known[-1].start % ALIGNMENT if known else 0
            behind = self.items[following[end]] if following[end] < len(self.items) else None
            next_rank = self.ranks.get(behind.name, len(self.ranks)) if behind is not None else len(self.ranks)
            yield Gap(last.end, behind.at if behind is not None else size, shift, rank + end, next_rank)


def orders_of(sizes: Mapping[str, int]) -> list[list[str]]:
    """The names of storages in the orders that torch's writers know."""
    numbers = {name: int(match[1]) for name in sizes if (match := _NUMBER.fullmatch(name))}
    return [sorted(numbers, key=numbers.__getitem__), sorted(numbers)]


def ranks_of(names: list[str]) -> dict[str, int]:
    return {name: rank for rank, name in enumerate(names)}
