"""The one command after which a file loads into a model: candidates are tried, the best is kept.

Wrapper prefixes, a prefix of the file's own, a prefix of the model's, one part of a larger model, the newer names of
weight norm, and what ``remap --like`` finds. Each gives a map of keys; names and shapes choose, torch has the last word.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ..commands import COMMANDS
from ..errors import CheckpointError
from ..model.checkpoint import Checkpoint
from ..model.keymap import KeyMap
from ..model.section import Section
from ..model.spec import is_spec
from ..model.spelling import as_path, shell_join
from ..model.wrappers import COUNTER
from .leftovers import HARMLESS
from .like import like
from .naming import FEW, argument, beside, options, selected
from .rename import Plan, section_keys
from .rules import Rules

_VERIFIED = 6  # candidates that torch is asked about
_PREFIXES = 100  # parts of a larger model that are tried

_WEIGHT_NORM = (
    "**.parametrizations.{name}.original0 -> **.{name}_g",
    "**.parametrizations.{name}.original1 -> **.{name}_v",
    "parametrizations.{name}.original0 -> {name}_g",
    "parametrizations.{name}.original1 -> {name}_v",
)


class Fix(NamedTuple):
    """A command and what it gives.

    Attributes:
        command: to be pasted.
        matched, of: tensors of the model that the new file will have, of how many.
        loads: whether ``load_state_dict(strict=True)`` then succeeds.
        keys: the map it applies.
        only_harmless: if it does not: nothing but harmless keys differs then.
        built: it builds the model with other arguments.
    """

    command: str
    matched: int
    of: int
    loads: bool
    keys: KeyMap
    only_harmless: bool = False
    built: bool = False

    @property
    def leaves_out(self) -> bool:
        """Tensors of the file that are no leftovers are dropped."""
        return any(key.rpartition(".")[2] not in HARMLESS for key in self.keys.dropped)

    @property
    def short(self) -> str:
        """``ckpt strip-prefix``: the last command without its arguments."""
        last = self.command.rpartition(" && ")[2]
        return " ".join(last.split(" ", 2)[:2]) if last.startswith("ckpt ") else "the fix"


class Renaming(NamedTuple):
    """Other names for a file that has to be of a model built otherwise: the command, what it writes, the map."""

    command: str
    out: str
    keys: KeyMap


class _Candidate(NamedTuple):
    words: list[str]  # of the command, without OUT
    suffix: str  # of the name of OUT
    keys: KeyMap
    matched: int
    left: int  # keys that the model would still call unexpected


def find_fix(
    checkpoint: Checkpoint,
    section: Section,
    model: Section,
    model_words: list[str],
    loads: Callable[[KeyMap], bool],
    matched: int,
) -> Fix | None:
    """The best command, None if none gives more than there is, and at least half of what the file or the model has.

    Args:
        checkpoint: the file, or a selected part.
        section: the weights in it.
        model: the section of the model.
        model_words: how the command line names the model: ``pkg.mod:Net --kwargs '{…}'``.
        loads: torch's verdict on the file's weights under other names.
        matched: how many tensors match as they are.
    """
    search = _Search(checkpoint, section, model, model_words)
    found = sorted(search.candidates(), key=lambda one: (-one.matched, one.left, len(one.words)))
    of = sum(info.persistent for info in model.values())
    for one in found[:_VERIFIED]:
        if one.matched == of and one.left == 0 and loads(one.keys):
            return search.fix(one, of, True)
    best = found[0] if found else None
    if best is None or best.matched <= matched or 2 * best.matched < min(of, len(search.shapes)):
        return None  # a few tensors that happen to agree make it no file of this model
    return search.fix(best, of, loads(best.keys))


def find_renaming(checkpoint: Checkpoint, section: Section, model: Section) -> Renaming | None:
    """The prefixes, or the other names of weight norm, with which most names are the model's, whatever the shapes.

    None if none has more of them than there are.
    """
    search = _Search(checkpoint, section, model, [])
    names = search.names(KeyMap({}))
    best = None
    for one in search.renamings():
        count = search.names(one.keys)
        if count > names:
            names, best = count, one
    return None if best is None else Renaming(*search.command(best), best.keys)


def dropping(
    checkpoint: Checkpoint, section: Section, model: Section, model_words: list[str], keys: Iterable[str], matched: int
) -> Fix | None:
    """The command that leaves out keys of another shape, which even ``strict=False`` refuses; as for ``find_fix``."""
    gone = set(keys)
    pairs = KeyMap({key: None if key in gone else key for key in section_keys(section)})
    if section.kind == "module" or not gone or len(gone) == len(pairs):
        return None
    drops = pairs.drops()
    how = options("--drop", drops)
    if len(drops) > FEW and is_spec(model_words[0]):
        found = like(section, model)
        if found.keys.is_identity() and {key for key, _ in found.mismatched} == gone:
            how = ["--like", *model_words, "--drop-mismatched"]
    words = ["remap", argument(checkpoint, section), *how]
    of = sum(info.persistent for info in model.values())
    return Fix(shell_join(["ckpt", *words, "-o", beside(checkpoint.path, "partial")]), matched, of, False, pairs)


def rescue(checkpoint: Checkpoint) -> str:
    """The command that makes of a damaged file one of what is whole."""
    return shell_join(["ckpt", "salvage", as_path(checkpoint.path), "-o", beside(checkpoint.path, "salvaged")])


def tied(checkpoint: Checkpoint, section: Section, twins: dict[str, str], of: int) -> Fix:
    """The command that writes a state_dict in which tied names are there: key that is missing -> its twin."""
    from ..torch.state_dicts import dropped_ties

    lines = [f"s[{_text(key)}] = s[{_text(twin)}]" for key, twin in twins.items()]
    out = beside(f"{os.path.splitext(checkpoint.path.rstrip('/'))[0]}.pt", "tied")
    command = _script(_read(checkpoint, section), out, lines)
    if "convert" in COMMANDS and twins.keys() <= dict(dropped_ties(checkpoint, section)).keys():
        command = shell_join(["ckpt", "convert", as_path(checkpoint.path), "-o", out])  # the file says what is tied
    return Fix(command, of, of, True, KeyMap({key: key for key in section_keys(section)}))


def _read(checkpoint: Checkpoint, section: Section) -> str:
    path = (checkpoint.whole or checkpoint).path
    return f"ct.state_dict({_text(path)}" + (f", section={_text(section.pointer)})" if section.pointer else ")")


def _text(value: str) -> str:
    """A literal in double quotes, so that the shell's single quotes hold all of it."""
    return json.dumps(value, ensure_ascii=False)


def _script(read: str, out: str, lines: Iterable[str] = ()) -> str:
    """Python on one line that writes a state_dict to a new file."""
    steps = ["import torch, ckpt_inspect.torch as ct", f"s = {read}", *lines, f"torch.save(s, {_text(out)})"]
    return shell_join(["python", "-c", "; ".join(steps)])


class _Search:
    def __init__(self, checkpoint: Checkpoint, section: Section, model: Section, model_words: list[str]) -> None:
        self.checkpoint = checkpoint
        self.section = section
        self.model_words = model_words
        self.keys = section_keys(section)
        self.shapes = {key: info.shape for key, info in section.items() if info.persistent}
        self.model = model
        self.wanted = {key: info.shape for key, info in model.items() if info.persistent}
        self.first = ""  # a command that has to go before

    def candidates(self) -> Iterator[_Candidate]:
        """Those that rename something, and that can be written."""
        yield from self._prefixes()
        file, lead = self._file(), self._lead()
        for keys in (*self._parts(lead), *self._norms()):
            yield from self._spelled(file, keys)
        yield from self._like(file)

    def renamings(self) -> Iterator[_Candidate]:
        """Those that leave nothing out and ask no shape."""
        yield from self._prefixes()
        for keys in self._norms():
            yield from self._spelled(self._file(), keys, fitting=False)

    def names(self, keys: KeyMap) -> int:
        """How many names the model has too, once they are changed."""
        return sum(keys.pairs.get(key, key) in self.wanted for key in self.shapes)

    def _lead(self) -> list[str]:
        return list(_common_paths([key for key in self.keys if key != COUNTER or self.section.kind == "module"]))

    def _file(self) -> str:
        """What ``remap`` is to be given: names of a module are in code, and a state_dict of it has to be made first."""
        if self.section.kind != "module":
            return argument(self.checkpoint, self.section)
        weights = beside(f"{os.path.splitext(self.checkpoint.path.rstrip('/'))[0]}.pt", "weights")
        self.first = f"{_script(_read(self.checkpoint, self.section), weights)} && "
        return weights

    def _prefixes(self) -> Iterator[_Candidate]:
        """What ``strip-prefix`` and ``add-prefix`` make of it."""
        whole = selected(self.checkpoint)
        for words in (["strip-prefix", whole], ["strip-prefix", whole, "--nested"]):
            yield from self._planned(words, "stripped", self._strip(nested="--nested" in words))
        if self.section.kind == "module":
            return
        for prefix in self._lead():
            yield from self._planned(["strip-prefix", whole, "--prefix", prefix], "stripped", self._strip([prefix]))
        for prefix in _common_paths(list(self.wanted)):
            yield from self._planned(["add-prefix", self._file(), prefix], "prefixed", self._add(prefix))

    # -- plans of the other commands

    def _strip(self, prefixes: Iterable[str] = (), nested: bool = False) -> Callable[[], Plan]:
        from .strip_prefix import plan

        return lambda: plan(self.checkpoint, list(prefixes), nested)

    def _add(self, prefix: str) -> Callable[[], Plan]:
        from .add_prefix import plan

        part = self._part()
        return lambda: plan(part, prefix)

    def _part(self) -> Checkpoint:
        """The checkpoint as ``remap`` is to be given it."""
        return self.checkpoint if len(self.checkpoint.candidates()) == 1 else self._whole().select(self.section.pointer)

    def _whole(self) -> Checkpoint:
        return self.checkpoint.whole or self.checkpoint

    def _planned(self, words: list[str], suffix: str, make: Callable[[], Plan]) -> Iterator[_Candidate]:
        try:
            changes = make().changes
        except CheckpointError:  # no such prefix, or two keys would meet
            return
        for change in changes:
            if change.section.pointer == self.section.pointer:
                yield self._scored(words, suffix, change.keys)

    # -- maps of our own, spelled as rules

    def _parts(self, lead: list[str]) -> Iterator[KeyMap]:
        """One part of a larger model; the counter of AveragedModel with it."""
        for prefix in list(dict.fromkeys([*lead, *_paths(self.keys)]))[:_PREFIXES]:
            dotted = prefix + "."
            yield KeyMap({key: key[len(dotted) :] if key.startswith(dotted) else None for key in self.keys})

    def _norms(self) -> Iterator[KeyMap]:
        """The older names of weight norm; the newer ones torch's own hook gives."""
        if any(key.endswith("_g") for key in self.wanted):
            rules = Rules.parse(_WEIGHT_NORM)
            yield rules.keymap(self.keys, allow_unused=True)

    def _like(self, argument: str) -> Iterator[_Candidate]:
        yield from self._matched(argument, [])
        if twins := self._twins():
            yield from self._matched(argument, twins)

    def _twins(self) -> list[str]:
        """Second names of tied tensors that the model does not have: what is matched may go by the first."""
        groups: dict[object, list[str]] = {}
        for key, info in self.section.items():
            if info.view_of is not None and info.persistent and info.numel:
                groups.setdefault(info.view_of, []).append(key)
        return [key for keys in groups.values() for key in keys[1:] if key not in self.wanted]

    def _matched(self, argument: str, gone: list[str]) -> Iterator[_Candidate]:
        """What ``remap --like`` finds, without some keys; then what it would leave over is dropped too."""
        dropped: dict[str, str | None] = dict.fromkeys(gone)
        found = like(self.section.with_keys(KeyMap(dropped)) if gone else self.section, self.model)
        pairs: dict[str, str | None] = {**found.keys.pairs, **dropped}
        given = {new for key, new in pairs.items() if key in found.how}
        loose = [key for key in found.extra if pairs.get(key) not in self.wanted or pairs.get(key) in given]
        plain = dict(pairs)
        pairs.update(dict.fromkeys(loose))
        keys = KeyMap(pairs)
        if keys.is_identity():
            return
        harmless = [key for key in loose if key in found.extra and key.rpartition(".")[2] in HARMLESS]
        others = [*gone, *(key for key in loose if key not in set(harmless))]
        how = ["--drop-harmless"] if harmless else []
        if others:
            how += options("--drop", KeyMap({**plain, **dict.fromkeys(others)}).drops())
        words = ["remap", argument, "--like", *self.model_words, *how]
        yield from self._spelled(argument, keys, words)

    def _spelled(
        self, argument: str, keys: KeyMap, otherwise: list[str] | None = None, fitting: bool = True
    ) -> Iterator[_Candidate]:
        """The map as rules where they are few; else the other way to say it. ``fitting``: only if shapes agree."""
        new = set(keys.pairs.values())
        if keys.is_identity() or len(new - {None}) < len(keys.pairs) - len(keys.dropped):
            return
        scored = self._scored([], "remapped", keys)
        if fitting and not scored.matched:
            return
        rules, drops = keys.rules(), keys.drops()
        if len(rules) + len(drops) > FEW and otherwise is not None:
            yield scored._replace(words=otherwise)
        elif len(rules) + len(drops) <= FEW:
            words = ["remap", argument, *options("--rule", rules), *options("--drop", drops)]
            yield scored._replace(words=words)

    def _scored(self, words: list[str], suffix: str, keys: KeyMap) -> _Candidate:
        matched = left = 0
        for key, shape in self.shapes.items():
            new = keys.pairs.get(key, key)
            if new is not None:
                fits = self.wanted.get(new) == shape
                matched += fits
                left += not fits
        return _Candidate(words, suffix, keys, matched, left)

    def fix(self, one: _Candidate, of: int, loads: bool) -> Fix:
        return Fix(self.command(one)[0], one.matched, of, loads, one.keys)

    def command(self, one: _Candidate) -> tuple[str, str]:
        """What is typed, and the file that it writes."""
        own = one.words[0] != "strip-prefix" and self.section.kind == "module"
        out = beside(f"{os.path.splitext(self.checkpoint.path)[0]}.pt" if own else self.checkpoint.path, one.suffix)
        command = shell_join(["ckpt", *one.words, "-o", out])
        return self.first + command if own else command, out


def _common_paths(keys: list[str]) -> Iterator[str]:
    """Module paths that lead every key: ``model``, ``model.net``."""
    if not keys:
        return
    first = keys[0].split(".")[:-1]
    for length in range(1, len(first) + 1):
        path = ".".join(first[:length])
        if not path or not all(key.startswith(path + ".") for key in keys):
            return
        yield path


def _paths(keys: list[str]) -> Iterator[str]:
    """Module paths of one and two and three segments, those near the root first."""
    split = [key.split(".")[:-1] for key in keys]
    for length in (1, 2, 3):
        yield from dict.fromkeys(".".join(path[:length]) for path in split if len(path) >= length and all(path))
