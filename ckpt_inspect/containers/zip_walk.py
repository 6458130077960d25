"""An archive without a directory that can be used: which bytes are which record, by all that is left of it.

:func:`.zip_chain.follow` goes from header to header and trusts lengths, which is enough to look. ``walk`` collects whatever
may be a record, each with its checksum taken, and then decides. What speaks for "these bytes are record X": the name in
the header before them, the length in the pickle, the checksum behind them, the one in the directory, and their place
between others. What one of these contradicts is not given back as whole, unless that one itself is shown to be damaged.
Archives inside tensors and other archives in the same file are told apart: no two of different checkpoints are mixed.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

from ..model.source import COPY_CHUNK, Source
from .zip import ENTRY_MAGIC, LOCAL
from .zip_chain import ALIGNMENT, BROKEN, CHANGED, TWICE, Item, Reader, Walked, rank_of
from .zip_places import BEFORE_DATA, OF_NUMERIC_WRITERS, Gap, Places, Stretches, orders_of, ranks_of, runs_of
from .zip_traces import (
    END_MAGIC,
    Entry,
    Sums,
    described_anywhere,
    descriptors,
    differs_by_damage,
    end_at,
    entries,
    header_at,
    header_of,
)

_MOST_TRIES = 1 << 17  # headers that prove to be none; honest tensors hold a handful by chance
_MOST_ARCHIVES = 1000  # other archives that are told apart
_MOST_FOLLOWED = 64  # of those, how many are looked into
_SLACK = 8192  # bytes by which an archive in a tensor may have been moved
_FAR = 1 << 16  # bytes by which what lost its header may have moved
_MOST_MOVES = 4  # distances by which bytes may have moved
_SIGNATURES = re.compile(rb"PK(?:\x03\x04|\x05\x06)")

OTHER = "the directory has another checksum for it than stands behind it: bytes of two files may be mixed"
MISPLACED = "its name stands before bytes whose place is another record's"
NEWER_LOST = "a newer state follows the archive, whose pickle is not whole: names are those of the older one"


class Found(NamedTuple):
    """What ``walk`` found.

    Attributes:
        records: by their name without the root.
        notes: what is to be known about how they were told apart.
        copies: where another archive of the same kind begins that is no tensor's content, and how many whole
            storages lie behind that place.
    """

    records: dict[str, Walked]
    notes: list[str]
    copies: list[tuple[int, int]]


def walk(source: Source, root: str, sizes: Mapping[str, int], pickle: tuple[int, int]) -> Found:
    """Records by all that is left of the archive; the whole file is read.

    Args:
        source: the file.
        root: the folder of the archive, with its slash.
        sizes: lengths of the records that are known.
        pickle: where the header is of the pickle that says so, and its checksum.
    """
    return _Walk(source, root, sizes, *pickle).run()


class _Walk(Reader):
    """Collects what may be records of one archive, and decides which are."""

    def __init__(self, source: Source, root: str, sizes: Mapping[str, int], pickle_at: int, pickle_crc: int) -> None:
        super().__init__(source, root, sizes)
        self.pickle_at = pickle_at
        self.pickles = {pickle_crc, *_checksum_of_first(source, root, pickle_at)}
        self.sums = Sums(source)
        self.notes: list[str] = []
        self.items: list[Item] = []
        self.broken: list[tuple[int, int]] = []  # where contents should lie in which other things were looked for
        self.against: set[tuple[str, int | None]] = set()  # what another pickle's directory lists
        self.closed: list[tuple[int, int]] = []  # contents whose length is certain: what is in them is theirs
        self.others: list[tuple[int, int]] = []  # stretches that are other archives
        self.longest = max([0, *sizes.values()])  # what is longer than that is no tensor's content
        self.end = 0  # of this archive, as an older state of it had it
        self.inside: list[tuple[int, int]] = []  # stretches in tensors in which others lie whose end is not known
        self.starts: list[Item] = []  # pickles of other archives
        self.loose: list[int] = []  # those of them that lie in no content that is known of
        self.first: dict[int, int] = {}  # where the records begin that follow them
        self.entries = [entry for entry in entries(source) if entry.name.startswith(root)]
        self.listed = self._listed()
        self.numbered = orders_of(sizes)[0]
        self.ranks = ranks_of(self.numbered)
        self._tries = 0
        self._window = (0, b"")

    def run(self) -> Found:
        self._collect()
        copies = self._tell_archives_apart()
        whole = [item.at for item in self.items if rank_of(item) > 1 and item.name.startswith("data/")]
        mine = self._of_this_archive(copies)
        self.listed = self._listed()
        records = {item.name: self.walked(item) for item in self._decide(mine)}
        return Found(records, self.notes, [(at, sum(place > at for place in whole)) for at in sorted(copies)])

    def _listed(self) -> dict[str, set[int]]:
        """Checksums that the newest directory says, by name."""
        found: dict[str, set[int]] = {}
        for entry in self.entries:
            if entry.crc and entry.at > self.pickle_at:
                found.setdefault(entry.name[len(self.root) :], set()).add(entry.crc)
        return found

    # -- what may be records ------------------------------------------------------------------------------------

    def compared(self, item: Item, crc: int) -> Item:
        """Its bytes summed: proved, or changed."""
        if item.inflated is None:
            found: int | None = self.sums.of(item.start, item.nbytes)
        else:
            found = self.sums.inflated(self.source.slice(item.start, item.nbytes), item.inflated, item.name)
        if found == crc or found in self.listed.get(item.name, ()):
            return item._replace(crc=found, proof="checksum")
        return item._replace(crc=found, why=CHANGED)

    def stored(self, name: str, at: int, start: int, nbytes: int) -> Item:
        item = super().stored(name, at, start, nbytes)
        if item.why == BROKEN and name in self.listed:
            found = self.sums.of(start, nbytes)
            if found in self.listed[name]:
                return item._replace(there=nbytes, crc=found, proof="checksum", why="")
        return item

    def _collect(self) -> None:
        """All headers that lead to one another from the beginning; and, where one does not, those that are proved."""
        position = 0
        while position < self.source.size:
            item = self.item(position)
            in_chain = item is not None and not (item.name == "data.pkl" and position > self.pickle_at)
            if item is None or not in_chain:
                self._expect(position)
                item = self._search(position)
                if item is None:
                    return
            self.items.append(item)
            if (item.proof and not item.why) or (in_chain and self._is_closed(item)):
                position = item.end
                self.closed.append((item.start, item.start + item.nbytes))
            else:
                self.broken.append((item.at, item.start + item.nbytes))
                position = item.start

    def _expect(self, position: int) -> None:
        """Note where the content should be whose header is lost: what lies there may be an archive in a tensor."""
        rank = self.ranks.get(self.items[-1].name, -1) + 1 if self.items else 0
        if rank < len(self.numbered):
            expected = self.numbered[rank]
            self.broken.append((position, self._aligned(position, expected) + self.sizes[expected]))

    def _search(self, position: int) -> Item | None:
        """The next header, from here on, of a record that is proved or at least as long as its descriptor says."""
        for at, magic in self._signatures(position):
            self._tries += 1
            if self._tries > _MOST_TRIES:
                self.notes.append("more stretches look like records than are looked at: some may not have been found")
                return None
            if magic == END_MAGIC:
                self._add_end(at)
                continue
            header = header_at(self.source, at)
            if header is None:
                continue
            item = self.measured(header)
            if header.name == self.root + "data.pkl" and at not in (0, self.pickle_at):
                if item is not None and len(self.starts) < _MOST_ARCHIVES:
                    self.starts.append(item)
            elif item is not None and self._is_proved(item):
                return item
        return None

    def _is_proved(self, item: Item) -> bool:
        if item.why or item.proof == "checksum":
            return item.why in ("", CHANGED)
        return item.proof == "length" and all(other.crc is None for other in self.items)

    def _signatures(self, position: int) -> Iterator[tuple[int, bytes]]:
        while position < self.source.size:
            begin, window = self._window
            if not begin <= position < begin + len(window) - 3:
                begin, window = self._window = position, self.source.read_at(position, COPY_CHUNK)
            for match in _SIGNATURES.finditer(window, position - begin):
                yield begin + match.start(), match[0]
            stop = begin + len(window)
            position = stop - 3 if stop < self.source.size else stop

    def _is_closed(self, item: Item) -> bool:
        """Whether a record that is not whole is as long as it was, so that nothing within it is looked at."""
        if item.why == CHANGED:  # its descriptor, or its header, says how long it is
            return item.aligned or header_at(self.source, item.end) is not None
        if item.why == BROKEN:
            for end in (item.end, item.end + 8):
                header = header_at(self.source, end)
                if header is not None and header.name.startswith(self.root) and header.name != self.root + "data.pkl":
                    return True
            return self.source.read_at(item.end, 4) == ENTRY_MAGIC
        return False

    # -- other archives -----------------------------------------------------------------------------------------

    def _add_end(self, at: int) -> None:
        """The end of an archive: of this one, or of one that begins within the file.

        The pickle says all lengths, so that an archive inside one of the tensors has another pickle.
        """
        end = end_at(self.source, at)
        if end is not None and not end.base:
            self.end = self.end or end.stop
        if end is None or end.base <= 0 or len(self.others) >= _MOST_ARCHIVES:
            return
        first = entries(self.source.slice(end.directory, min(1 << 14, end.stop - end.directory)))
        crc = next((entry.crc for entry in first if entry.name.endswith("/data.pkl")), None)
        header = header_at(self.source, end.base)
        begins = header is not None and header.name.endswith("/data.pkl")
        if crc in self.pickles:
            if begins:
                self.others.append((end.base, self.source.size))
        elif crc is not None or begins:
            self.others.append((end.base, end.stop))

    def _tell_archives_apart(self) -> set[int]:
        """Note where other archives lie, and return where those begin that are no tensor's content."""
        starts = sorted(self.broken)
        ends = list(accumulate((end for _, end in starts), max))

        def around(position: int) -> int:
            """Where the content ends at the latest that another archive lies in, 0 if it lies in none."""
            index = bisect_left(starts, (position, 0))
            return ends[index - 1] if index and ends[index - 1] > position else 0

        copies = {begin for begin, end in self.others if end == self.source.size or end - begin > self.longest}
        complete = Stretches(self.others)
        for item in self.starts:
            if item.at in complete:
                continue
            if not item.why and item.crc in self.pickles:
                self.others.append((item.at, self.source.size))
                copies.add(item.at)
                continue
            end = around(item.at)
            self.inside.append((item.at, end or item.at + self.longest))
            if not end:
                self.loose.append(item.at)
            found = described_anywhere(self.source, item.start) if len(self.first) < _MOST_FOLLOWED else None
            if found is not None:
                self.first[item.start + found[1] + 16] = item.at
        return copies

    def _of_this_archive(self, copies: set[int]) -> list[Item]:
        """Items that lie in no other archive; where one may lie around them, those that this directory knows."""
        others = Stretches(self.others)
        inside = Stretches((begin, end + _SLACK) for begin, end in self.inside)
        found: list[Item] = []
        doubtful: list[Item] = []
        heads: set[str] = set()
        for begin, end in runs_of(self.items):
            run = self.items[begin:end]
            at, stop = run[0].at, inside.end_of(run[0].at)
            last = max((item.end for item in run if rank_of(item) > 1), default=at)
            start = self.first.get(at)
            if start is not None and last - start > self.longest:  # it fits into no tensor
                copies.add(start)
            elif at in others or start is not None:
                continue
            elif (stop and last <= stop) or any(
                item.name in heads for item in run
            ):  # once in an archive, before all tensors
                doubtful += run
            else:
                found += run
                heads |= {item.name for item in run} & OF_NUMERIC_WRITERS
        last = max((item.at for item in found if rank_of(item) > 1), default=0)
        own = list(self._entries_of_this())
        known = {entry.at for entry in own}
        self.against = {(e.name[len(self.root) :], e.crc) for e in self.entries if e.at not in known}
        self.entries = own
        elsewhere = (others, Stretches(self.inside), Stretches(self.closed))
        self.entries = [
            e for e in self.entries if e.at > last and not any(e.at in stretches for stretches in elsewhere)
        ]
        self.foreign = Stretches([*self.others, *self.inside, *self.closed])
        listed = self._listed()
        found += [item for item in doubtful if rank_of(item) == 3 and item.crc in listed.get(item.name, ())]
        found.sort(key=lambda item: item.at)
        if any(at > last and at not in copies for at in self.loose) or any(
            entry.at > self.end > self.pickle_at for entry in self.entries
        ):
            self.notes.append(NEWER_LOST)
        return found

    def _entries_of_this(self) -> Iterator[Entry]:
        """Entries of directories that list this pickle: they stand behind its entry."""
        own = True
        for entry in self.entries:
            if entry.name == self.root + "data.pkl":
                own = any(entry.crc == crc or differs_by_damage(entry.crc, crc) for crc in self.pickles)
            if own:
                yield entry

    # -- which are which ----------------------------------------------------------------------------------------

    def _decide(self, items: list[Item]) -> list[Item]:
        last = max((item.at for item in items if item.proof and not item.why), default=0)
        items = [  # what is cut off is the last thing in the file
            item._replace(there=0, why=BROKEN) if not item.proof and not item.why and item.at < last else item
            for item in items
        ]
        items = [item._replace(name="data.pkl") if item.at == self.pickle_at else item for item in items]
        places = Places(items, self.sizes)
        settled: list[Item] = []
        for index, item in enumerate(items):
            due = places.due(index)
            if due and due != item.name and not rank_of(item):  # the name is damaged, and with it the length
                item = self._reread(item, due)
            settled.append(self._settled(item, due))
        by_name: dict[str, list[Item]] = {}
        for item in self._of_one_checkpoint(settled, places):
            by_name.setdefault(item.name, []).append(item)
        chosen = {name: _best(same) for name, same in by_name.items()}
        self._fill_by_directory(chosen, items)
        self._fill_by_place(chosen, places)
        if "byteorder" not in chosen:
            ends = [item.end for item in items if item.name in BEFORE_DATA and rank_of(item)]
            found = (self.order_record(end, self._aligned(end, "byteorder")) for end in ends)
            chosen.update({item.name: item for item in found if item is not None})
        for name, nbytes in self.sizes.items():
            if not nbytes and rank_of(chosen.get(name)) < 2:  # nothing of it can be lost
                chosen[name] = Item(name, 0, 0, 0, 0, 0, None, "checksum", "")
        return list(chosen.values())

    def _of_one_checkpoint(self, items: list[Item], places: Places) -> Iterator[Item]:
        """Of runs that have different content under one name, the one that begins with the pickle; else none of them."""
        contents: dict[str, dict[int | None, set[int]]] = {}
        for index, item in enumerate(items):
            if rank_of(item) == 3 and item.name in self.sizes and item.nbytes:
                contents.setdefault(item.name, {}).setdefault(item.crc, set()).add(places.run_of[index])
        mixed = {run for same in contents.values() if len(same) > 1 for runs in same.values() for run in runs}
        first = {places.run_of[index] for index, item in enumerate(items) if item.at == self.pickle_at}
        mixed -= first
        for index, item in enumerate(items):
            proved = not item.nbytes or item.crc in self.listed.get(item.name, ())
            if places.run_of[index] in mixed and rank_of(item) and item.name in self.sizes and not proved:
                item = item._replace(why=TWICE, there=0)
            elif places.run_of[index] not in first and (item.name, item.crc) in self.against and not proved:
                item = item._replace(why=OTHER, there=0)
            yield item

    def _settled(self, item: Item, due: str | None) -> Item:
        """One that is proved by its checksum, under the name that the rest of the evidence gives it."""
        if not rank_of(item) or not item.nbytes:
            return item
        if item.name not in self.sizes:
            if not due or rank_of(item) < 3 or self.sizes.get(due) != item.nbytes:
                return item
            return self._renamed(item, due)
        if rank_of(item) < 3:
            return item if due is None or due == item.name else self._moved(item, due)
        listed = self.listed.get(item.name, set())
        if item.crc in listed:
            return item
        if listed and not any(differs_by_damage(item.crc or 0, crc) for crc in listed):
            named = next(self._names_of(item), None)
            return self._renamed(item, named) if named else item._replace(why=OTHER, there=0)
        if due == item.name:
            return item
        for name in self._names_of(item):
            return self._renamed(item, name)
        if due is None:
            return item
        return self._moved(item, due)

    def _moved(self, item: Item, due: str) -> Item:
        """One whose place is another record's."""
        if self.sizes.get(due) == item.nbytes:
            return self._renamed(item, due)
        return item._replace(why=MISPLACED, there=0)

    def _reread(self, item: Item, name: str) -> Item:
        """An item that is not whole, under another name, if that one's length and checksum are right."""
        other = self.stored(name, item.at, item.start, self.sizes[name])
        return self._renamed(other, name) if rank_of(other) == 3 else item

    def _names_of(self, item: Item) -> Iterator[str]:
        """What the directory calls this content."""
        for entry in self.by_content.get((item.crc, item.nbytes), ()):
            name = entry.name[len(self.root) :]
            if self.sizes.get(name) == item.nbytes:
                yield name

    @cached_property
    def by_content(self) -> dict[tuple[int | None, int], list[Entry]]:
        found: dict[tuple[int | None, int], list[Entry]] = {}
        for entry in self.entries:
            if entry.crc and entry.at > self.pickle_at:
                found.setdefault((entry.crc, entry.nbytes), []).append(entry)
        return found

    def _renamed(self, item: Item, name: str) -> Item:
        self.notes.append(f"the name {item.name!r} in a local header is damaged: by its place it is {name!r}")
        return item._replace(name=name)

    # -- what lost its header -----------------------------------------------------------------------------------

    def _fill_by_directory(self, chosen: dict[str, Item], items: list[Item]) -> None:
        """Where the directory says, or as far from there as others are: its checksum must be right."""
        offsets = {entry.name[len(self.root) :]: entry.offset for entry in self.entries if entry.at > self.pickle_at}
        moved = Counter(item.at - offsets[item.name] for item in items if item.name in offsets)
        moves = [0, *(move for move, _ in moved.most_common(_MOST_MOVES) if move)]
        for entry in self.entries:
            name = entry.name[len(self.root) :]
            nbytes = self.sizes.get(name)
            if nbytes and nbytes == entry.nbytes and entry.at > self.pickle_at and rank_of(chosen.get(name)) < 2:
                for start in self._starts(entry.offset, name, moves):
                    if 0 <= start <= self.source.size - nbytes and self.sums.of(start, nbytes) == entry.crc != 0:
                        chosen[name] = Item(name, entry.offset, start, nbytes, nbytes, start + nbytes + 16, entry.crc,
                                             "checksum", "", None, True)  # fmt: skip
                        break

    def _starts(self, offset: int, name: str, moves: list[int]) -> Iterator[int]:
        """Where the content may begin whose header should be here: as torch aligns it, or as what is left of it says."""
        for move in moves:
            yield self._aligned(offset, name) + move
            if offset + move >= 0:
                header = header_of(self.source, offset + move, self.source.read_at(offset + move, LOCAL.size))
                if header is not None:
                    yield header.start

    def _fill_by_place(self, chosen: dict[str, Item], places: Places) -> None:
        """Between what is known: where torch aligns the bytes, or before descriptors that say the lengths that are due."""
        used = {item.start for item in chosen.values() if rank_of(item) > 1 and item.nbytes}
        for gap in places.gaps(self.source.size):
            position, rank = gap.position, gap.rank
            due: dict[str, int] = {}  # name, and where it should begin
            while rank < gap.next_rank and (name := places.at_rank(rank)):
                nbytes = self.sizes[name]
                start = self._aligned(position - gap.shift, name) + gap.shift
                if rank_of(chosen.get(name)) < 2 and nbytes:
                    item = self.stored(name, position, start, nbytes) if start <= self.source.size else None
                    if item is not None and rank_of(item) == 3 and start not in used:
                        chosen[name] = self._settled(item, name)
                        used.add(start)
                    else:
                        due[name] = start
                position, rank = start + (nbytes + 16 if nbytes else 0), rank + 1
                if position > gap.stop + _FAR:
                    break
            if due:
                self._fill_by_descriptors(chosen, gap, due, used)

    def _fill_by_descriptors(self, chosen: dict[str, Item], gap: Gap, due: dict[str, int], used: set[int]) -> None:
        """Contents of a gap that are proved; as many of a length as are due are taken, in their order."""
        lengths = {self.sizes[name] for name in due}
        found: dict[int, list[tuple[int, int]]] = {}
        for at, crc, nbytes in descriptors(self.source, gap.position, gap.stop):
            start = at - nbytes
            if nbytes in lengths and crc and start >= gap.position and start not in self.foreign and start not in used:
                self._tries += 1
                if self._tries < _MOST_TRIES and self.sums.of(start, nbytes) == crc:
                    found.setdefault(nbytes, []).append((start, crc))
        for nbytes, contents in found.items():
            for start, crc in list(contents):
                named = next((e.name[len(self.root) :] for e in self.by_content.get((crc, nbytes), ())), "")
                if named in due and rank_of(chosen.get(named)) < 2:
                    chosen[named] = Item(named, start, start, nbytes, nbytes, start + nbytes + 16, crc, "checksum", "")
                    used.add(start)
                    contents.remove((start, crc))
                    del due[named]
            names = [name for name in due if self.sizes[name] == nbytes]
            if len(names) == len(contents) and not (self.others or self.inside):  # it may be another archive's
                for name, (start, crc) in zip(names, contents, strict=True):
                    if abs(start - due[name]) <= _FAR:
                        item = Item(
                            name, start, start, nbytes, nbytes, start + nbytes + 16, crc, "checksum", "", None, True
                        )
                        chosen[name] = self._settled(item, name)
                        used.add(start)

    def _aligned(self, at: int, name: str) -> int:
        """Where torch's writer begins the content of a record whose header is here."""
        start = at + LOCAL.size + len((self.root + name).encode("utf-8", "surrogateescape")) + 4
        return start + -start % ALIGNMENT


def _best(items: list[Item]) -> Item:
    """Of several under one name the one that is proved; where two are, with different content, none."""
    best = max(items, key=rank_of)
    if rank_of(best) == 3 and len({item.crc for item in items if rank_of(item) == 3}) > 1:
        return best._replace(why=TWICE, there=0)
    return best


def _checksum_of_first(source: Source, root: str, pickle_at: int) -> Iterator[int]:
    """What the descriptor says of the pickle with which the file begins, where a newer one counts."""
    header = header_at(source, 0) if pickle_at else None
    found = (
        described_anywhere(source, header.start) if header is not None and header.name == root + "data.pkl" else None
    )
    if found is not None:
        yield found[0]
