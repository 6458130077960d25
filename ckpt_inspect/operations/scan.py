"""``ckpt scan``: what the pickles of a file would import and call, found by executing them inertly."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..containers.copying import CHANGED
from ..containers.zip import LOCAL_MAGIC
from ..errors import CheckpointError, FileError, FormatError, LimitError
from ..formats import open_checkpoint, open_source, sharded, split_section
from ..formats.dcp import Item, items_of
from ..formats.known_names import HARMLESS, NO_BUSINESS, UNKNOWN, classify, torch_function
from ..formats.streams import Found, Streams
from ..formats.weights_only import TORCH, Verdict, verdict
from ..model.graph import Blob, Dict, Global, Opaque, Persistent, Pickle, Set
from ..model.source import stamp
from ..pickles.limits import DEFAULT, Limits
from .info import verdict_of
from .plain import safe
from .scan_calls import Calls, path_of

SCHEMA = "ckpt-inspect/scan/1"

_GETATTR = frozenset(["builtins.getattr", "__builtin__.getattr"])
_TYPE = frozenset(["builtins.type", "__builtin__.type"])
_MOST_FILES = 10_000  # of a directory
_MOST_FINDINGS = 1000
_LONGEST = 200


class Finding(NamedTuple):
    """One fact.

    Attributes:
        kind: ``call``, ``import``, ``patch``, ``archive`` or ``unknown``.
        level: ``no-business`` or ``unknown``.
        text: what would happen: ``would call os.system('id')``.
        name: the global it is about, ``""`` for an archive.
        where: the record; ``""`` is the file itself.
        offset: of the pickle in the record.
        times: how often.
    """

    kind: str
    level: str
    text: str
    name: str
    where: str
    offset: int
    times: int


class Stream(NamedTuple):
    """One pickle that was found."""

    where: str
    offset: int
    nbytes: int
    protocol: int
    globals: int
    calls: int
    breaks: str | None
    note: str


class Scan:
    """What ``scan`` found.

    Attributes:
        path: the file or directory.
        files: path by name of what was looked at or passed over: ``""`` is ``path``, others begin a ``where``.
        format: as which it opens, None if it does not open as a checkpoint.
        streams: every pickle, wherever it was.
        names: by global: its kind, how often it is named or called.
        findings: what is not harmless, the worst first.
        unread: what could not be looked into, and why: something may hide there.
        notes: oddities.
        weights_only: what ``torch.load(weights_only=True)`` would say.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.files: dict[str, str] = {}
        self.format: str | None = None
        self.streams: list[Stream] = []
        self.names: dict[str, tuple[str, int]] = {}
        self.findings: list[Finding] = []
        self.unread: list[str] = []
        self.notes: list[str] = []
        self.weights_only: Verdict | None = None

    @property
    def no_business(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == NO_BUSINESS]

    @property
    def ok(self) -> bool:
        """Whether nothing was found that has no business in a checkpoint. No promise that the file is safe."""
        return not self.no_business

    @property
    def status(self) -> int:
        """Exit status: 1 for what has no business there, 2 if it may be where nobody could look, else 0."""
        return 1 if self.no_business else 2 if self.unread else 0

    def place(self, where: str) -> tuple[str, str]:
        """The path of the file that ``where`` of a finding (or a text of ``unread``) begins with, and what is left."""
        end = min(len(where), max(map(len, self.files), default=0))
        while end > 0:
            if where[end : end + 1] in ("", ":") and where[:end] in self.files:
                return self.files[where[:end]], where[end + 1 :]
            end = where.rfind(":", 0, end)
        return self.path, where

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "path": self.path,
            "format": self.format,
            "ok": self.ok,
            "findings": [finding._asdict() for finding in self.findings],
            "globals": [{"name": name, "kind": kind, "count": n} for name, (kind, n) in self.names.items()],
            "pickles": [{**s._asdict(), "offset": safe(s.offset), "nbytes": safe(s.nbytes)} for s in self.streams],
            "weights_only": self.weights_only.to_dict() if self.weights_only is not None else None,
            "unread": self.unread,
            "notes": self.notes,
        }

    def __repr__(self) -> str:
        return f"<scan of {self.path}: {len(self.streams)} pickles, {len(self.no_business)} findings>"


def scan(path: str, limits: Limits = DEFAULT) -> Scan:
    """Look at every pickle in a file, its shards if it is an index, or the files of a directory; nothing of it is run.

    Raises:
        FormatError: it is no checkpoint, and there is no pickle in it.
        FileError: it cannot be read.
    """
    if not os.path.exists(path):
        path, _ = split_section(path)  # the whole file is scanned: a pickle is run as a whole
    found = Scan(path)
    opened: CheckpointError | None = None
    first: list[Pickle] = []
    files = [(name, file, _stamp(file)) for name, file in _files(path, limits, found)]
    found.files.update((name, file) for name, file, _ in files)
    try:
        with open_checkpoint(path, None, limits) as checkpoint:
            found.format = checkpoint.format
            found.weights_only = verdict_of(checkpoint)
        del checkpoint  # its graphs: they are made once more
    except CheckpointError as error:
        if isinstance(error, OSError):
            raise
        opened = error
    judge = _Judge(found)
    items: list[Item] = []
    for name, file, before in files:
        streams = Streams(limits)
        try:
            open_file, source, _ = open_source(file)
            for pickle in streams.of(source):
                judge.pickle(pickle, name)
                first = first or [pickle.pickle]
                if file.endswith("metadata"):
                    items += items_of(pickle.pickle, name or os.path.basename(file))
            if open_file.changed() or open_file.stamp != before:
                found.unread.append(f"{name or file}: {CHANGED}")
        except CheckpointError as error:
            if file == path and (not found.streams or isinstance(error, FileError)):
                raise
            found.unread.append(f"{name or file}: {error.message}")
        for where, text in streams.tricks:
            judge.trick(_joined(name, where), text)
        for where, text in streams.acts:
            judge.note(
                "call", NO_BUSINESS, f"would call {text} of a file that its code names", text, _joined(name, where), 0
            )
        found.unread += [_told(name, text) for text in streams.unread]
        found.notes += [_told(name, note) for note in streams.notes]
    _scan_items(found, judge, items, path, limits)
    judge.finish()
    if opened is not None:
        _explain_unopened(found, opened, first)
    return found


def _scan_items(found: Scan, judge: _Judge, items: list[Item], path: str, limits: Limits) -> None:
    """What the metadata of a distributed checkpoint places in other files: torch loads it from there, whatever they are."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    by_file: dict[str, list[Item]] = {}
    for item in items:
        by_file.setdefault(os.path.normpath(os.path.join(os.path.dirname(item.owner), item.file)), []).append(item)
    for name, placed in by_file.items():
        if os.path.isabs(name) or name.startswith(".."):
            found.unread.append(f"{placed[0].owner}: it places {placed[0].file} outside the directory")
            continue
        streams = Streams(limits)
        try:
            open_file, source, _ = open_source(os.path.join(folder, name))
            with contextlib.closing(open_file):
                for item in placed:
                    if not name.endswith(".distcp") or source.read_at(item.offset, 4) != LOCAL_MAGIC:  # known by now
                        for pickle in streams.of(source.slice(item.offset, item.nbytes)):
                            judge.pickle(pickle, f"{name}, byte {item.offset:,}")
        except CheckpointError as error:
            found.unread.append(f"{name}: {error.message}")
        found.unread += [_told(name, text) for text in streams.unread]


def _explain_unopened(found: Scan, error: CheckpointError, first: list[Pickle]) -> None:
    if not found.streams and (isinstance(error, (FormatError, LimitError)) or not found.findings):
        raise error
    found.notes.insert(0, f"it does not open as a checkpoint: {error.message}")
    found.weights_only = verdict(first, "torch.load does not open it")


def _joined(name: str, where: str) -> str:
    return f"{name}:{where}" if name and where else name or where


def _told(name: str, text: str) -> str:
    """What is said of a place in a file, of one of several."""
    return text.replace("the file", name, 1) if name and text.startswith("the file") else _joined(name, text)


def _stamp(file: str) -> object:
    """Its state before anything was read of it; None where there is none to tell, which opening it will say."""
    try:
        return stamp(os.stat(file))
    except (OSError, ValueError):
        return None


def _files(path: str, limits: Limits, found: Scan) -> Iterator[tuple[str, str]]:
    """The file and its shards, or all files of a directory, as (relative name, path).

    What is passed over, though a program might load it, goes to ``unread``.
    """
    if not os.path.isdir(path):
        yield "", path
        yield from ((name, os.path.join(os.path.dirname(path), name)) for name in _shards(path, limits))
        return
    count = 0

    def passed(file: str, why: str) -> None:
        name = _relative(file, path)
        found.files[name] = file
        found.unread.append(f"{name}: {why}")

    def failed(error: OSError) -> None:
        passed(str(error.filename), (error.strerror or "cannot be listed").lower())

    inside = os.path.join(os.path.realpath(path), "")
    for folder, folders, names in os.walk(path, onerror=failed):
        folders.sort()
        for name in folders:
            link = os.path.join(folder, name)
            if os.path.islink(link) and not os.path.join(os.path.realpath(link), "").startswith(inside):
                passed(link, "a link to another directory, which is not followed")
        for name in sorted(names):
            file = os.path.join(folder, name)
            count += 1
            if count > _MOST_FILES:
                raise LimitError(f"a directory of more than {_MOST_FILES:,} files: refused", path=path)
            if os.path.isfile(file):
                yield _relative(file, path), file
            elif os.path.exists(file):
                passed(file, "neither a file nor a directory")


def _relative(file: str, path: str) -> str:
    return os.path.relpath(file, path)


def _shards(path: str, limits: Limits) -> list[str]:
    """What an index names; what is wrong with one is said by opening it."""
    if not path.endswith(".json"):
        return []
    try:
        names = sharded.shards(path, limits, open_source)
    except CheckpointError:
        return []
    if len(names) > _MOST_FILES:
        raise LimitError(f"an index of more than {_MOST_FILES:,} files: refused", path=path)
    return names


class _Judge:
    """Sorts what pickles say into facts; several calls of the same text in one pickle are one fact."""

    def __init__(self, found: Scan) -> None:
        self.found = found
        self.calls = Calls()
        self.facts: dict[tuple[str, str, str, str, str, int], int] = {}
        self.kinds: dict[str, str] = {}
        self.counts: Counter[str] = Counter()  # how often a name stands in a pickle
        self.called: Counter[str] = Counter()
        self.left = 0
        self._described = 0  # calls: to write each of a million out takes a minute

    def note(self, kind: str, level: str, text: str, name: str, where: str, offset: int) -> None:
        key = (kind, level, text, name, where, offset)
        most = 10 * _MOST_FINDINGS if level == NO_BUSINESS else _MOST_FINDINGS
        if key in self.facts or len(self.facts) < most:
            self.facts[key] = self.facts.get(key, 0) + 1
        else:
            self.left += 1

    def trick(self, where: str, text: str) -> None:
        self.note("archive", NO_BUSINESS, f"programs may see different contents: {text}", "", where, 0)

    def pickle(self, found: Found, file: str) -> None:
        pickle, where = found.pickle, _joined(file, found.where)
        breaks = found.breaks.message if found.breaks is not None else None
        end = pickle.end if found.breaks is None else (found.breaks.offset or pickle.start)
        self.found.streams.append(
            Stream(where, found.offset, max(0, end - pickle.start), pickle.protocol, len(pickle.globals), len(pickle.calls),
                   breaks, found.note)
        )  # fmt: skip
        if found.note and (pickle.globals or pickle.calls):
            self.found.notes.append(f"{where or 'the file'}, byte {found.offset:,}: a pickle {found.note}")
        if breaks is not None:
            self.found.unread.append(f"{where or 'the file'}: what follows where the pickle breaks: {breaks}")
        called = self._calls(pickle, where, found.offset)
        self._names(pickle, called, where, found.offset)

    def _names(self, pickle: Pickle, called: set[str], where: str, offset: int) -> None:
        for node in pickle.globals:
            name = node.qualname
            self.counts[name] += 1
            kind = self._kind(node.module, node.name)
            self._patched(node, name, where, offset)
            if kind != HARMLESS and name not in called:
                self.note(
                    "import" if kind == NO_BUSINESS else "unknown", kind, f"would import {name}", name, where, offset
                )

        for persistent in pickle.persistent:  # a class of the user's, in files of old; a storage
            if persistent.state is not None:
                path = path_of(persistent)
                self._patched(persistent, ".".join(path) if path is not None else "a storage", where, offset)

    def _patched(self, node: Global | Persistent, name: str, where: str, offset: int) -> None:
        if node.state is not None:
            text = f"would change {name}: {describe(node.state[0])}"
            self.note("patch", NO_BUSINESS, text, name, where, offset)

    def _kind(self, module: str, name: str) -> str:
        full = f"{module}.{name}"
        if full not in self.kinds:
            self.kinds[full] = HARMLESS if full in _GETATTR or full in _TYPE else classify(module, name)
        return self.kinds[full]

    def _calls(self, pickle: Pickle, where: str, offset: int) -> set[str]:
        """Judge every call; the names that were called."""
        called: set[str] = set()
        plain: dict[tuple[int, str], tuple[str, str]] = {}  # by callee and opcode: those that need no look
        for call in pickle.calls:
            known = plain.get((id(call.callee), call.how))
            if known is None:
                name, kind, once = self.calls.judge(call)
                if once and kind != NO_BUSINESS:
                    plain[id(call.callee), call.how] = (name, kind)
            else:
                name, kind = known
            if call.ops is not None and kind != NO_BUSINESS and self.calls.tampers(call):
                self._tampered(call, name, where, offset)
            called.add(name)
            self.called[name] += 1
            if kind == NO_BUSINESS and (self._described < 3 * _MOST_FINDINGS or self.called[name] == 1):
                self._described += 1
                self.note("call", kind, f"would call {describe(call)}", name, where, offset)
            elif kind == NO_BUSINESS:
                self.left += 1
            elif kind == UNKNOWN and name in _GETATTR:
                self._got(call, where, offset)
            elif kind == UNKNOWN:
                what = "make one" if call.how != "REDUCE" or name.rpartition(".")[2][:1].isupper() else "call it"
                self.note("unknown", kind, f"would import {name} and {what}", name, where, offset)
        return called

    def _tampered(self, call: Opaque, name: str, where: str, offset: int) -> None:
        if self._described < 3 * _MOST_FINDINGS:
            self._described += 1
            done = ", ".join(describe(payload) for _, payload in (call.ops or ())[:3])
            self.note("patch", NO_BUSINESS, f"would change {describe(call)}: {done}", name, where, offset)
        else:
            self.left += 1

    def _got(self, call: Opaque, where: str, offset: int) -> None:
        """What a ``getattr`` gives is named like a global."""
        path = path_of(call)
        name = ".".join(path) if path is not None else describe(call)
        if path is not None and (function := torch_function(*path)) is not None:
            name = function
            self.kinds[name] = UNKNOWN
            self.counts[name] += 1
        self.note("unknown", UNKNOWN, f"would import {name}", name if path is not None else "", where, offset)

    def finish(self) -> None:
        found = self.found
        found.names = {name: (self.kinds.get(name, UNKNOWN), self.called[name] or n) for name, n in self.counts.items()}
        findings = [Finding(*key, n) for key, n in self.facts.items()]
        for name in {finding.name for finding in findings if finding.level == NO_BUSINESS} & found.names.keys():
            found.names[name] = (NO_BUSINESS, found.names[name][1])  # a function that is a value, called
        found.findings = sorted(findings, key=lambda finding: finding.level != NO_BUSINESS)
        if self.left:
            found.notes.append(f"{self.left:,} more findings of the same kinds are not listed")


def describe(node: Any) -> str:
    """A value as Python would write it, cut where it gets long; nothing of it is run."""
    text = _Description().of(node)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


class _Description:
    """The text of one value, for which only so many nodes are looked at."""

    def __init__(self) -> None:
        self.left = 40

    def of(self, node: Any, depth: int = 0) -> str:
        self.left -= 1
        if isinstance(node, str):
            return repr(str(node[:80])) + ("…" if len(node) > 80 else "")
        if isinstance(node, (bytes, bytearray)):
            return repr(bytes(node[:40])) + ("…" if len(node) > 40 else "")
        if isinstance(node, int) and node.bit_length() >= 200:
            return f"an integer of {node.bit_length()} bits"
        if node is None or isinstance(node, (bool, int, float)):
            return repr(node)
        if type(node) is Blob:
            return f"{node.nbytes:,} bytes"
        if depth > 6 or self.left < 0:
            return "…"
        return self._compound(node, depth + 1)

    def _compound(self, node: Any, depth: int) -> str:
        if type(node) is Global:
            return node.qualname[:_LONGEST]
        if type(node) is Opaque:
            args = node.args if type(node.args) is tuple else (node.args,)
            return f"{self.of(node.callee, depth)}({self._listed(args, depth)})"
        if type(node) is tuple:
            return f"({self._listed(node, depth)}{',' if len(node) == 1 else ''})"
        if type(node) is list:
            return f"[{self._listed(node, depth)}]"
        if type(node) is Set:
            return f"{{{self._listed(node.members, depth)}}}"
        if type(node) is Dict:
            pairs = node.pairs[:8]
            shown = [f"{self.of(k, depth)}: {self.of(v, depth)}" for k, v in zip(pairs[::2], pairs[1::2], strict=True)]
            return f"{{{', '.join(shown)}{', …' if len(node.pairs) > 8 else ''}}}"
        return "a persistent object" if type(node) is Persistent else type(node).__name__

    def _listed(self, items: Any, depth: int) -> str:
        return ", ".join(self.of(item, depth)[:_LONGEST] for item in items[:4]) + (", …" if len(items) > 4 else "")


__all__ = ["SCHEMA", "TORCH", "Finding", "Scan", "Stream", "describe", "path_of", "scan"]
