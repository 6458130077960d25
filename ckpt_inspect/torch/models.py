"""The user's own model: imported because the user named it, built without weights where that can be done.

``pkg.mod:Net`` or ``path/to/file.py:Net``: a class, a function that gives a module, or a module. Nothing else of
this package imports code of the user's, and nothing that a checkpoint names is ever imported.
"""

from __future__ import annotations

import ast
import copy
import difflib
import importlib
import importlib.util
import inspect
import linecache
import os
import sys
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import torch
from torch import nn

from ..errors import ModelError
from ..model.spec import is_spec
from ..model.spelling import shell_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType, TracebackType

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_TORCH = os.path.dirname(os.path.abspath(torch.__file__))
_STANDARD = os.path.dirname(os.path.abspath(os.__file__))
_LONGEST = 300  # characters of an exception that are quoted


class Built(NamedTuple):
    """A module, and how it came about.

    Attributes:
        module: of class ``nn.Module``.
        device: ``meta``, or ``cpu`` where it could not be built without memory.
        why: what the model said on ``meta``; None if it was built there.
    """

    module: nn.Module
    device: str
    why: str | None = None


class Model:
    """A model by name, built on request.

    Args:
        spec: ``pkg.mod:Net`` or ``path/to/file.py:Net``.
        args, kwargs: what ``Net`` is called with.

    Raises:
        ModelError: it cannot be imported; the model's own exception and its line are quoted.
    """

    def __init__(self, spec: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        self.spec = spec
        self.args = tuple(args)
        self.kwargs = dict(kwargs or {})
        with their_code(f"{spec} cannot be imported"):
            self.target = _find(spec)

    def build(self) -> Built:
        """On ``meta``, so that it takes no memory; on the CPU if it cannot be built there.

        Raises:
            ModelError: it cannot be built at all.
        """
        if isinstance(self.target, nn.Module):
            return Built(self.target, "cpu")
        try:
            with redirect_stdout(sys.stderr), torch.device("meta"):
                made = self.target(*self.args, **self.kwargs)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit() is one too
            return Built(self.build_on_cpu(), "cpu", said(error))
        return Built(self._checked(made), "meta")

    def build_on_cpu(self) -> nn.Module:
        """As the model itself makes it, with its initial weights.

        Raises:
            ModelError: it cannot be built.
        """
        if isinstance(self.target, nn.Module):
            return self.target
        with their_code(f"{self.spec} cannot be built", self._takes()):
            made = self.target(*self.args, **self.kwargs)
        return self._checked(made)

    def numbers(self) -> dict[str, int]:
        """The whole numbers it is called with, by name: those given and those it has by default."""
        return {name: value for name, value in self._named().items() if type(value) is int}

    def lists(self) -> dict[str, list[int]]:
        """Lists and tuples of whole numbers, likewise."""
        return {
            name: list(value) for name, value in self._named().items()
            if type(value) in (list, tuple) and value and all(type(item) is int for item in value)
        }  # fmt: skip

    def _named(self) -> dict[str, Any]:
        try:
            bound = inspect.signature(self.target).bind(*self.args, **self.kwargs)
        except (TypeError, ValueError):
            return {}
        bound.apply_defaults()
        return {**bound.arguments, **bound.arguments.get("kwargs", {})}

    def with_kwargs(self, kwargs: Mapping[str, Any]) -> Model:
        """The same model, called with other arguments; those given by position are given by name."""
        bound = inspect.signature(self.target).bind(*self.args, **self.kwargs)
        given = {} if any(map(_is_variadic, bound.signature.parameters.values())) else dict(bound.arguments)
        other = copy.copy(self)  # the code is not imported again
        other.args = self.args if not given else ()
        other.kwargs = {**self.kwargs, **given, **kwargs}
        return other

    def _checked(self, made: Any) -> nn.Module:
        if not isinstance(made, nn.Module):
            raise ModelError(
                f"{self.spec} gave a {type(made).__name__}, not a torch.nn.Module",
                hint="Name a class of modules, or a function that gives one.",
            )
        if "_parameters" not in vars(made) and not isinstance(made, torch.jit.ScriptModule):
            raise ModelError(f"{self.spec} gave a {type(made).__name__} whose super().__init__() was not called")
        return made

    def _takes(self) -> str | None:
        try:
            return f"It takes {self.target.__name__}{inspect.signature(self.target)}."
        except (TypeError, ValueError, AttributeError):
            return None


def _is_variadic(parameter: inspect.Parameter) -> bool:
    return parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD


# -- finding it ------------------------------------------------------------------------------------------------


def _find(spec: str) -> Any:
    where, _, name = spec.rpartition(":")
    if not is_spec(spec) or (os.path.isfile(where) and not where.endswith(".py")):
        _refuse_spec(spec)
    _append_path(os.getcwd())
    module = _import_file(where, spec) if where.endswith(".py") else _import_module(where, spec)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ModelError(f"there is no {name} in {_place(module)}", hint=_models_of(module, where, name))
        found = getattr(found, part)
    if not callable(found):
        raise ModelError(f"{spec} is a {type(found).__name__}, not a model", hint=_models_of(module, where, name))
    return found


def _append_path(folder: str) -> None:
    """Last, so that nothing that is installed is hidden by a file that lies about."""
    if folder not in sys.path:
        sys.path.append(folder)


def _import_module(where: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if not f"{where}.".startswith(f"{error.name}."):  # one that their code wants
            raise
        there = _code_in(os.getcwd())
        hint = "It is looked for in this directory and among what is installed; or name its file: path/to/file.py:Net"
        raise ModelError(
            f"{spec} cannot be imported: {said(error)}", hint=_nearly(f"{where}.py", there, spec) or hint
        ) from error


def _code_in(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder or ".") if name.endswith(".py"))
    except OSError:
        return []


def _nearly(name: str, there: list[str], spec: str) -> str | None:
    close = difflib.get_close_matches(name.removesuffix(".py"), [file.removesuffix(".py") for file in there], n=1)
    return f"Did you mean {close[0]}.py:{spec.rpartition(':')[2]}?" if close else None


def _import_file(path: str, spec: str) -> ModuleType:
    path = os.path.abspath(path)
    if not os.path.isfile(path):
        given = spec.rpartition(":")[0]
        shown = os.path.dirname(given)
        there = [os.path.join(shown, name) for name in _code_in(shown)]
        hint = f"There is: {', '.join(there[:6])}" if there else "Name it as seen from here: path/to/file.py:Net"
        raise ModelError("there is no such file of Python code", path=given, hint=_nearly(given, there, spec) or hint)
    folder, name = os.path.dirname(path), os.path.basename(path)[: -len(".py")]
    dotted = name
    while os.path.exists(os.path.join(folder, "__init__.py")):  # of a package: its relative imports work then
        folder, package = os.path.split(folder)
        dotted = f"{package}.{dotted}"
    _append_path(folder)
    if "." in dotted:
        try:
            module = importlib.import_module(dotted)
        except ModuleNotFoundError as error:
            if not dotted.startswith(error.name or "."):
                raise
        else:
            if os.path.realpath(module.__file__ or "") == os.path.realpath(path):
                return module  # not another package of that name, which was installed
    name = name if name not in sys.modules and name.isidentifier() else f"_model_{name}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _refuse_spec(spec: str) -> NoReturn:
    path = spec.rpartition(":")[0] if not os.path.exists(spec) and ":" in spec else spec
    if os.path.isfile(path) and not path.endswith(".py"):
        raise ModelError(
            f"{path} is no Python code: a model is needed here, as pkg.mod:Net or path/to/file.py:Net",
            hint=f"A TorchScript archive is run by itself: ckpt run {shell_path(path)} --input SHAPE",
        )
    meant = spec.rpartition(".")
    hint = f"For example: {meant[0]}:{meant[2]}" if meant[0] and ":" not in spec and not spec.endswith(".py") else None
    file = spec if spec.endswith(".py") else spec.replace(".", os.sep) + ".py"
    if hint is None and ":" not in spec and os.path.isfile(file):
        hint = _classes_in(file, spec)
    raise ModelError(f"{spec!r} is no model: name it pkg.mod:Net or path/to/file.py:Net", hint=hint)


def _classes_in(path: str, spec: str) -> str | None:
    """The classes of modules in a file, which is read and not run."""
    try:
        with open(path, "rb") as file:
            body = ast.parse(file.read()).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found: list[str] = []
    for node in body:
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base) for base in node.bases]
            if any(base.startswith(("nn.", "torch.nn.")) or base.endswith("Module") or base in found for base in bases):
                found.append(node.name)
    return f"There is: {', '.join(f'{spec}:{name}' for name in found[:6])}" if found else None


def _place(module: ModuleType) -> str:
    path = getattr(module, "__file__", None)
    return f"{module.__name__} ({path})" if path else module.__name__


def _models_of(module: ModuleType, where: str, meant: str) -> str | None:
    """The models there: one that is called nearly so, or those that the file defines."""
    models = {
        name: value for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and not value.__module__.startswith("torch.")
    }  # fmt: skip
    close = difflib.get_close_matches(meant, models, n=1)
    if close:
        return f"Did you mean {where}:{close[0]}?"
    own = [name for name, value in models.items() if value.__module__ == module.__name__]
    return f"There is: {', '.join(f'{where}:{name}' for name in own[:6])}" if own else None


# -- what it says when it fails ----------------------------------------------------------------------------------


@contextmanager
def their_code(what: str, hint: str | None = None) -> Iterator[None]:
    """Code of the user's: what it prints goes to stderr; its exceptions are quoted, with their line."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (ModelError, KeyboardInterrupt):
        raise
    except BaseException as error:  # sys.exit() is one too
        place = line_of(error)
        raise ModelError(f"{what}: {said(error)}", hint=f"At {place}" if place else hint) from error


def said(error: BaseException) -> str:
    """``TypeError: unexpected keyword argument 'classes'``: the first lines of an exception."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # the text of an exception is the model's own code too
        text = ""
    text = text.partition(" Exception raised from ")[0]  # what follows is a trace of C++
    if "TorchScript interpreter" in text:  # a traceback of its own; what counts stands last
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def line_of(error: BaseException) -> str | None:
    """``nets.py, line 12: self.fc = nn.Linear(width)``: where in the user's code; None if it came to no such line."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {(error.text or '').strip()}"
    found = None
    for frame, line in _frames(error.__traceback__):
        path = frame.f_code.co_filename
        standard = path.startswith(_STANDARD) and "site-packages" not in path
        if not standard and not path.startswith((_OURS, _TORCH, "<")):
            found = path, line
    if found is None:
        return None
    return f"{found[0]}, line {found[1]}: {linecache.getline(*found).strip()}"


def _frames(traceback: TracebackType | None) -> Iterator[tuple[Any, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


# -- without memory ----------------------------------------------------------------------------------------------


def on_meta(module: nn.Module) -> nn.Module:
    """A copy whose tensors have no values and take no memory; ties between parameters stay. ``module`` is not changed.

    Raises:
        ModelError: it cannot be copied.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for tensor in (*part._parameters.values(), *part._buffers.values(), *vars(part).values()):
            if isinstance(tensor, torch.Tensor) and id(tensor) not in memo:
                twin = _twin(tensor)
                if twin is not None:
                    memo[id(tensor)] = twin
    with their_code(f"{type(module).__name__} cannot be copied"):
        return copy.deepcopy(module, memo)


def _twin(tensor: torch.Tensor) -> torch.Tensor | None:
    """The same tensor on ``meta``; None for those that only their own class can copy."""
    lazy: Any = type(tensor)
    if lazy in (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer):
        return lazy(requires_grad=tensor.requires_grad, device="meta", dtype=tensor.dtype)
    if type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.layout != torch.strided:
        return None
    if tensor.is_quantized:
        return None
    plain = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(plain, tensor.requires_grad)
    return plain
