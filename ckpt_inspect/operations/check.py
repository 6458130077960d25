"""``ckpt check``: will the weights load into a model, and if not, which one command makes them?

The verdict is torch's own ``load_state_dict(strict=True)``, run without values on ``meta``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ModelError, SelectionError
from ..formats.optimizers import all_groups, misfit
from ..model.checkpoint import Checkpoint
from ..model.keymap import KeyMap
from ..model.problem import Problem
from ..model.section import Section
from ..model.spelling import shell_path
from .causes import causes
from .fix import Fix, dropping, find_fix, rescue, tied
from .leftovers import harmless, is_renamed
from .naming import model_words
from .otherwise import Suits, built_otherwise
from .plain import safe

if TYPE_CHECKING:
    import os

    from torch import nn

    from ..torch.models import Model
    from ..torch.verdicts import Verdict
    from .trial import Trial

SCHEMA = "ckpt-inspect/check/1"


class Wrong(NamedTuple):
    """A key that both have, in two shapes; why, as far as it is known."""

    key: str
    file: tuple[int, ...]
    model: tuple[int, ...]
    cause: str | None


class OptimizerFacts(NamedTuple):
    """An optimizer beside the weights, against the model's parameters: sizes of its groups, and what does not fit."""

    section: str
    groups: list[int]
    parameters: int
    misfit: str | None


class Check:
    """What ``check`` found.

    Attributes:
        checkpoint, section: the file, and the weights in it.
        name: how the model is called.
        model: its own section: classes, parameters, buffers; no values.
        built: where it was built, ``meta`` or ``cpu``; ``why_cpu``: what it said on ``meta``.
        loads: ``load_state_dict(strict=True)`` succeeds, something matches, and the file is not damaged.
        matched, of, of_file: tensors: that match, of the model, of the file; ``matched_numel``, ``of_numel``: elements.
        parameters, of_parameters: the same without buffers, tied ones counted once.
        missing, unexpected: torch's own lists; ``mismatched``: keys of another shape, with their causes.
        damage: what is wrong with the file itself; ``rescue``: the command that saves what is whole.
        errors: what else torch has to say; ``text``: its whole error, None if there is none.
        harmless: those of ``missing`` and ``unexpected`` that do no harm -> why.
        only_ties: nothing is missing but second names of tied tensors, which ``load_into`` does without.
        optimizers: one for each optimizer in the file.
        fix: the command that makes it load, or load more; None if there is none.
        trial: what loading and running it gave, where that was asked for.
        otherwise: where the fix is to build the model differently, the command that changes the file.
    """

    def __init__(self, checkpoint: Checkpoint, section: Section, name: str, model: Section) -> None:
        self.checkpoint = checkpoint
        self.section = section
        self.name = name
        self.model = model
        self.built = "meta"
        self.why_cpu: str | None = None
        self.loads = False
        self.matched = self.matched_numel = 0
        self.of = sum(info.persistent for info in model.values())
        self.of_numel = sum(info.numel for info in model.values() if info.persistent)
        self.of_file = sum(info.persistent for info in section.values())
        self.parameters = self.of_parameters = 0
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.mismatched: list[Wrong] = []
        self.damage: list[Problem] = []
        self.rescue: str | None = None
        self._is_damaged(problem for problem in map(Problem.of, checkpoint.problems) if problem.damage)
        self.errors: list[str] = []
        self.text: str | None = None
        self.harmless: dict[str, str] = {}
        self.only_ties = False
        self.optimizers: list[OptimizerFacts] = []
        self.fix: Fix | None = None
        self.otherwise: Fix | None = None
        self.trial: Trial | None = None

    def _is_damaged(self, problems: Iterable[Problem]) -> None:
        self.damage += problems
        if self.damage:
            self.loads = False
            self.rescue = rescue(self.checkpoint)

    def tried(self, trial: Trial) -> None:
        """What loading and running it gave: its bytes were read, and may be found damaged."""
        self.trial = trial
        self._is_damaged(trial.damage)

    @property
    def ok(self) -> bool:
        """It loads, and what was tried with it went well."""
        return self.loads and (self.trial is None or self.trial.ok)

    @property
    def gives_values(self) -> bool:
        """What matches is worth loading: parameters, where the model has any."""
        return self.parameters > 0 if self.of_parameters else self.matched > 0

    @property
    def loads_partly(self) -> bool:
        """``strict=False`` loads some of it as it is, and what it leaves out matters."""
        differ = self.missing or self.unexpected
        return bool(differ and self.gives_values) and not (self.mismatched or self.errors or self.only_harmless)

    @property
    def only_harmless(self) -> bool:
        """Nothing stands in the way but keys that do no harm."""
        keys = [*self.missing, *self.unexpected]
        return (
            bool(keys and self.matched)
            and all(key in self.harmless and not is_renamed(key) for key in keys)
            and not (self.mismatched or self.errors)
        )

    def __repr__(self) -> str:
        verdict = "loads" if self.loads else "would not load"
        fix = f"; {self.fix.command}" if self.fix is not None else ""
        return f"<Check: {verdict}: {self.matched} of {self.of} tensors match{fix}>"

    def to_dict(self) -> dict[str, Any]:
        """The contract's document."""
        return {
            "schema": SCHEMA,
            "loads": self.loads,
            "matched": self.matched,
            "of": self.of,
            "of_file": self.of_file,
            "matched_numel": safe(self.matched_numel),
            "of_numel": safe(self.of_numel),
            "missing": self.missing,
            "unexpected": self.unexpected,
            "mismatched": [
                {"key": one.key, "file": safe(list(one.file)), "model": safe(list(one.model)), "cause": one.cause}
                for one in self.mismatched
            ],
            "harmless": [{"key": key, "why": why} for key, why in self.harmless.items()],
            "fix": _fix_dict(self.fix),
            "otherwise": _fix_dict(self.otherwise),
            "path": self.checkpoint.path,
            "section": self.section.pointer,
            "model": self.name,
            "built": self.built,
            "damage": self.damage,
            "rescue": self.rescue,
            "errors": self.errors,
            "optimizers": [one._asdict() for one in self.optimizers],
            **(self.trial.to_dict() if self.trial is not None else {}),
        }


def _fix_dict(fix: Fix | None) -> dict[str, Any] | None:
    if fix is None:
        return None
    return {"command": fix.command, "matched": fix.matched, "of": fix.of, "loads": fix.loads}


def check(checkpoint: Checkpoint, model: Model | nn.Module, section: str | None = None) -> Check:
    """Try the one set of weights in a checkpoint on a model. Nothing is loaded, and the model is not changed.

    Args:
        checkpoint: the file, or a selected part.
        model: a model by name (:class:`ckpt_inspect.torch.Model`), or a live one.
        section: pointer of the weights; None takes the one weights candidate.

    Raises:
        SelectionError: several sets of weights could be meant; how many tensors of each match is said.
        ModelError: the model cannot be imported or built; it is quoted.
    """
    from ..torch.live import section_of
    from ..torch.models import Built, Model
    from ..torch.shapes import Shapes
    from ..torch.state_dicts import choose, entries_of

    built = model.build() if isinstance(model, Model) else Built(model, "meta")
    shown = section_of(built.module)
    try:
        chosen = choose(checkpoint, section)
    except SelectionError as error:
        raise _with_scores(error, checkpoint, shown) from error
    name = model.spec if isinstance(model, Model) else type(model).__name__
    found = Check(checkpoint, chosen, name, shown)
    found.built, found.why_cpu = built.device, built.why
    entries = entries_of(checkpoint, chosen, Shapes(), ties=False)
    judge = _Judge(checkpoint, chosen, built.module, entries)
    if isinstance(model, Model) and built.device == "meta":
        judge.fresh = lambda: model.build().module
    _fill(found, judge, entries)
    if found.text is not None or not found.matched:
        _mend(found, model, judge, entries)
    found.optimizers = _optimizers(checkpoint, chosen, shown)
    return found


def check_module(
    module: Model | nn.Module, source: str | os.PathLike[str] | Checkpoint, *, section: str | None = None
) -> Check:
    """Would ``module.load_state_dict(…, strict=True)`` succeed with the weights of a checkpoint? And if not, why not?

    The verdict is torch's own, run on a copy of the module without values; nothing is loaded and nothing is changed.

    Args:
        module: a module, on any device, or a :class:`Model`.
        source: a file, a directory that is a checkpoint, ``FILE#SECTION``, or a checkpoint that is open.
        section: pointer of the weights; None takes the one weights candidate.

    Returns:
        an object with ``loads``, ``matched``, ``of``, ``missing``, ``unexpected``, ``mismatched`` (with causes),
        ``harmless``, ``fix`` (with ``command``), as ``ckpt check --json`` has them.

    Raises:
        SelectionError: several sets of weights could be meant; they are listed.
        ModelError: the module cannot be copied, or its own hooks fail.

    >>> import ckpt_inspect.torch as ct, torch
    >>> torch.save(torch.nn.DataParallel(torch.nn.Linear(3, 2)).state_dict(), "parallel.pt")
    >>> found = ct.check(torch.nn.Linear(3, 2), "parallel.pt")
    >>> found.loads, found.matched, found.missing
    (False, 0, ['weight', 'bias'])
    >>> found.fix.command
    'ckpt strip-prefix parallel.pt -o parallel.stripped.pt'
    """
    from ..torch.state_dicts import opened

    with opened(source) as checkpoint:
        return check(checkpoint, module, section)


def _mend(found: Check, model: Model | nn.Module, judge: _Judge, entries: Any) -> None:
    """Look for the fix: other names, names of ties, other arguments for the model; else what to leave out."""
    from ..torch.models import Model

    words = model_words(model) if isinstance(model, Model) else [found.name]
    fix = find_fix(found.checkpoint, found.section, found.model, words, judge.loads, found.matched)
    if fix is not None and not fix.loads:
        renamed = found.section.with_keys(fix.keys)
        fix = fix._replace(only_harmless=_only_harmless(judge.verdict(fix.keys), renamed, found.model))
    if fix is None and found.only_harmless and not found.unexpected:
        fix = _with_ties(found, judge, entries)
        found.only_ties = fix is not None
    if fix is None and found.mismatched and found.gives_values:
        gone = (one.key for one in found.mismatched)
        fix = dropping(found.checkpoint, found.section, found.model, words, gone, found.matched)
    found.fix = fix
    if isinstance(model, Model) and (fix is None or not fix.loads or fix.leaves_out):
        other = built_otherwise(found.checkpoint, found.section, model, found.model, partial(_suits, found, entries))
        if other is not None:
            found.fix, found.otherwise = other, fix


def _only_harmless(verdict: Verdict, file: Section, model: Section) -> bool:
    """Whether nothing but harmless keys differs."""
    keys = {*verdict.missing, *verdict.unexpected}
    reasons = harmless(verdict.missing, verdict.unexpected, file, model)
    return not verdict.mismatched and not verdict.errors and all(key in reasons and not is_renamed(key) for key in keys)


def _suits(found: Check, entries: Any, module: nn.Module, keys: KeyMap) -> Suits:
    """Torch's verdict on the weights, under other names, and a module that was built otherwise."""
    from ..torch.live import section_of
    from ..torch.state_dicts import under
    from ..torch.verdicts import NeedsValues, verdict

    try:
        said = verdict(module, under(entries, keys.pairs))
    except (ModelError, NeedsValues):
        return Suits(False, False)
    return Suits(said.strict, _only_harmless(said, found.section.with_keys(keys), section_of(module)))


def _with_ties(found: Check, judge: _Judge, entries: Any) -> Fix | None:
    """Where nothing but second names of tied tensors is missing: a state_dict that has them."""
    there = {info.view_of: key for key, info in found.model.items() if key in entries and info.view_of is not None}
    twins = {key: there[view] for key in found.missing if (view := _view(found.model, key)) in there}
    if len(twins) < len(found.missing):
        return None
    from ..torch.state_dicts import under

    judge.entries = under(entries, {})
    judge.entries.update((key, entries[twin]) for key, twin in twins.items())
    return tied(found.checkpoint, found.section, twins, found.of) if judge.verdict().strict else None


def _view(section: Section, key: str) -> Any:
    return section[key].view_of if key in section.tensors else None


class _Judge:
    """Torch's verdicts on the same weights under several names."""

    def __init__(self, checkpoint: Checkpoint, section: Section, module: nn.Module, entries: Any) -> None:
        self.checkpoint = checkpoint
        self.section = section
        self.module = module
        self.entries = entries
        self.fresh: Callable[[], nn.Module] | None = None

    def verdict(self, keys: KeyMap | None = None) -> Any:
        from ..torch.state_dicts import under
        from ..torch.verdicts import NeedsValues, verdict

        entries = self.entries if keys is None else under(self.entries, keys.pairs)
        try:
            return verdict(self.module, entries, self.fresh)
        except NeedsValues:
            return self._with_values(keys)

    def _with_values(self, keys: KeyMap | None) -> Any:
        """Some models read values while they load: then the real ones, mapped."""
        from ..torch.state_dicts import entries_of, under
        from ..torch.tensors import Loader
        from ..torch.verdicts import verdict_with_values

        entries = entries_of(self.checkpoint, self.section, Loader(), ties=False)
        return verdict_with_values(self.module, entries if keys is None else under(entries, keys.pairs))

    def loads(self, keys: KeyMap) -> bool:
        return bool(self.verdict(keys).strict)


def _fill(found: Check, judge: _Judge, entries: Any) -> None:
    verdict = judge.verdict()
    found.missing, found.unexpected = verdict.missing, verdict.unexpected
    found.errors, found.text = verdict.errors, verdict.text
    reasons = causes(verdict.mismatched, found.model)
    found.mismatched = [Wrong(one.key, one.file, one.model, reasons[one.key]) for one in verdict.mismatched]
    wrong = {*found.missing, *(one.key for one in found.mismatched)}
    counted: set[Any] = set()
    fitting: set[Any] = set()
    for key, info in found.model.items():
        made_by_torch = key not in entries and key.rpartition(".")[2] == "num_batches_tracked"
        failed = any(f'named "{key}"' in error for error in found.errors)
        fits = info.persistent and key not in wrong and not made_by_torch and not failed
        found.matched += fits
        found.matched_numel += info.numel * fits
        if info.role == "parameter":
            view = info.view_of or key
            found.of_parameters += info.numel * (view not in counted)
            found.parameters += info.numel * (fits and view not in fitting)
            counted.add(view)
            fitting |= {view} if fits else set()
    found.loads = verdict.strict and found.matched > 0 and not found.damage
    found.harmless = harmless(found.missing, found.unexpected, found.section, found.model)


def _with_scores(error: SelectionError, checkpoint: Checkpoint, model: Section) -> SelectionError:
    """Which of several sets of weights the model is for."""
    scores = []
    for pointer, section in checkpoint.sections.items():
        if section.kind in ("state_dict", "module"):
            fits = sum(key in model.tensors and model[key].shape == info.shape for key, info in section.items())
            scores.append((fits, pointer))
    scores = sorted(scores, key=lambda one: -one[0])
    if len(scores) > 1:
        of = sum(info.persistent for info in model.values())
        listed = ", ".join(f"{pointer}: {fits} of {of} tensors match" for fits, pointer in scores[:4])
        error.hint = f"{listed}. Name one: {shell_path(f'{checkpoint.path}#{scores[0][1]}')}"
    return error


def _optimizers(checkpoint: Checkpoint, weights: Section, model: Section) -> list[OptimizerFacts]:
    """Each optimizer of the whole file against the model's parameters, tied ones counted once."""
    seen: set[Any] = set()
    parameters = []
    for key, info in model.items():
        if info.role == "parameter" and (info.view_of is None or info.view_of not in seen):
            seen.add(info.view_of)
            parameters.append((key, info.shape, info.requires_grad is not False))
    whole = checkpoint.whole or checkpoint
    found = []
    for pointer, groups in all_groups(whole.sections.values(), whole.values).items():
        section = whole.sections[pointer]
        if groups:
            sizes = [len(group.indices) for group in groups]
            found.append(OptimizerFacts(pointer, sizes, len(parameters), misfit(section, groups, parameters)))
    return found
