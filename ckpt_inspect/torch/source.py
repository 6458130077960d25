"""Rebuilt modules as Python source: a class for each container, a call for each layer."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Sequence

import torch

from ..model.lost import listed
from ..model.tensor import TensorInfo
from . import container
from .blueprint import Blueprint
from .calls import Call

_INDENT = "    "
_NAMES = frozenset(["Container", "nn", "torch", "build", "OrderedDict", "Any", "accepting", "without_counter"])
_TAKEN = frozenset(dir(container.Container())) | {"training", "_extra_state"}


class Writer:
    """Writes one module tree.

    Args:
        root: what is to be built.
        title: for the docstring: what it is of.
        name: of the class of the root, where none is recorded.
        ties: groups of keys of one tensor, for a comment.
        others: keys that the file has only as other names of its tensors: what is built takes no offence at them.
        left_out: tensors that are neither parameters nor buffers, for a comment.
    """

    def __init__(
        self, root: Blueprint, title: str, name: str, ties: list[list[str]], others: Sequence[str] = (),
        left_out: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.root = root
        self.title = title
        self.name = name
        self.ties = ties
        self.others = list(others)
        self.left_out = list(left_out)
        self.numbers: dict[str, int] = {}  # by name: how often it was taken
        self.used: set[str] = set()
        self.classes: dict[str, str] = {}  # body -> name
        self.texts: list[str] = []
        self.helpers: set[str] = set()

    def source(self) -> str:
        """The whole module; ``build()`` in it makes the tree."""
        expression, comment = self._expression(self.root, self.name)
        if self.others:
            self.helpers.add("accepting")
            expression = f"accepting({expression}, [{', '.join(map(_value, self.others))}])"
        body = "\n\n".join(self.texts)
        ties = [f"# tied in the file: {' = '.join(map(_visible, names))}" for names in self.ties]
        if self.left_out:
            names = listed(map(_visible, self.left_out))
            ties.append(f"# left out, neither parameters nor buffers in the file: {names}")
        build = [
            "def build() -> nn.Module:", *(_INDENT + tie for tie in ties),
            _indented(f"return {expression}{_aside(comment)}"),
        ]  # fmt: skip
        helpers = "\n\n".join(
            inspect.getsource(getattr(container, name)).rstrip() + "\n" for name in sorted(self.helpers)
        )
        head = f'"""{_visible(self.title)}"""\n\nfrom __future__ import annotations\n\n'
        imports = ["from collections import OrderedDict"] if "OrderedDict(" in body + expression else []
        imports += ["from typing import Any"] if self.helpers & {"Container", "accepting"} else []
        lines = "\n".join(imports) + "\n\n" if imports else ""
        parts = [f"{head}{lines}import torch\nfrom torch import nn\n", helpers, body, "\n".join(build) + "\n"]
        return "\n\n".join(part for part in parts if part)

    def _expression(self, plan: Blueprint, name: str) -> tuple[str, str]:
        """What makes the module, and a remark."""
        if plan.call is None and not plan.group:
            return self._class(plan, name), ""
        text, remark = self._call(plan.call) if plan.call is not None else self._group(plan)
        return text, "; ".join(filter(None, [remark, *(f"its {hooks} are not made again" for hooks in plan.hooks)]))

    def _call(self, call: Call) -> tuple[str, str]:
        text = _made(call)
        if not call.counter:
            self.helpers.add("without_counter")
            text = f"without_counter({text})"
        remark = ""
        if call.inferred:
            recorded = "..." in call.inferred
            remark = "" if recorded else "~" if "*" in call.inferred else "arguments~"
            remark += f" {call.fits}, by its name" if call.fits else ""
            unknown = f"not in the file: {call.unknown}" if call.unknown else ""
            remark += f"{';' if call.fits else ''}{' ' if remark else ''}{unknown}" if unknown else ""
        return text, remark

    def _group(self, plan: Blueprint) -> tuple[str, str]:
        made = [(name, *self._expression(child, _camel(name))) for name, child in plan.children.items()]
        numbered = [name for name, _, _ in made] == [str(index) for index in range(len(made))]
        inferred = "" if plan.cls else plan.note if numbered else "~ numbers that are missing had no tensors"
        if numbered:
            texts = [text for _, text, _ in made]
            if plan.group == "ModuleList" and len(texts) > 2 and len(set(texts)) == 1 and "\n" not in texts[0]:
                return f"nn.ModuleList({texts[0]} for _ in range({len(texts)}))", inferred or made[0][2]
            rows = [f"{text},{_aside(remark)}" for _, text, remark in made]
        else:
            rows = [f"({_value(name)}, {text}),{_aside(remark)}" for name, text, remark in made]
        opening, closing = ("", "") if rows and not rows[0].startswith("(") else ("OrderedDict([", "])")
        if plan.group == "ModuleList":
            opening, closing = "[", "]"
        if not rows:
            return f"nn.{plan.group}()", inferred
        inside = "\n".join(_indented(row) for row in rows)
        return f"nn.{plan.group}({opening}\n{inside}\n{closing})", inferred

    # -- containers

    def _class(self, plan: Blueprint, name: str) -> str:
        """The name of a class whose instances are such containers; equal ones share it. Its call."""
        recorded = plan.cls.rpartition(".")[2]
        wanted = _identifier(recorded) or name
        body, odd = self._body(plan)
        remark = f"recorded: {_visible(plan.cls)}; " if plan.cls else ""
        remark += _visible(plan.note) + "; " if plan.note else ""
        base = "Container" if odd else "nn.Module"
        text = f"({base}):  # {remark}its forward is not in the file\n{body}"
        if text not in self.classes:
            self.classes[text] = unique = self._unique(wanted)
            self.texts.append(f"class {unique}{text}")
        if odd:
            self.helpers.add("Container")
        return f"{self.classes[text]}()"

    def _unique(self, wanted: str) -> str:
        """A name that no class has yet; of thousands of one name none is compared with all that came before."""
        number = self.numbers.get(wanted, 1)
        while (unique := wanted if number == 1 else f"{wanted}{number}") in self.used or unique in _NAMES:
            number += 1
        self.numbers[wanted] = number + 1
        self.used.add(unique)
        return unique

    def _body(self, plan: Blueprint) -> tuple[str, bool]:
        lines, odd = [], False
        taken: set[str] = set()
        entries: list[tuple[str, str, str, str]] = []  # name, expression, remark, kind
        for name, info in plan.tensors.items():
            entries.append((name, *_tensor(info), (info.role == "parameter" and "parameter") or "buffer"))
        entries += [(name, "None", "a value that is no tensor", "value") for name in plan.held]
        for name, child in plan.children.items():
            entries.append((name, *self._expression(child, _camel(name)), "module"))
        counts: dict[str, int] = {}
        for name, *_ in entries:
            counts[name] = counts.get(name, 0) + 1
        for name, text, remark, kind in entries:
            plain = name not in _TAKEN and counts[name] == 1 and bool(name) and name not in taken and kind != "value"
            odd = odd or not plain
            persistent = kind != "buffer" or plan.tensors[name].persistent
            lines.append(_indented(_statement(name, text, kind, plain, persistent) + _aside(remark), 2))
        head = f"{_INDENT}def __init__(self) -> None:\n{_INDENT * 2}super().__init__()\n"
        return head + "".join(line + "\n" for line in lines), odd


def _statement(name: str, text: str, kind: str, plain: bool, persistent: bool) -> str:
    """One line of ``__init__``: an attribute where that can be, else by the name as a text."""
    quoted = _value(name)
    if not plain:
        return f"self.hold({quoted}, {text}" + ("" if persistent else ", persistent=False") + ")"
    if kind == "buffer":
        return f"self.register_buffer({quoted}, {text}" + ("" if persistent else ", persistent=False") + ")"
    if name.isidentifier() and not keyword.iskeyword(name):
        return f"self.{name} = {text}" if name.isascii() else f"setattr(self, {quoted}, {text})"
    verb = "add_module" if kind == "module" else "register_parameter"
    return f"self.{verb}({quoted}, {text})"


def _tensor(info: TensorInfo) -> tuple[str, str]:
    dtype = "" if info.dtype == "float32" else f", dtype=torch.{info.dtype}"
    shape = ", ".join(map(str, info.shape)) if info.shape else "()"
    text = f"torch.empty({shape}{dtype})"
    if info.role == "parameter":
        real = "float" in info.dtype or "complex" in info.dtype
        text = f"nn.Parameter({text}" + (")" if real and info.requires_grad is not False else ", requires_grad=False)")
    return (
        text,
        "~" if info.role_from == "inferred" else "parameter or buffer? not in the file" if not info.role else "",
    )


# -- texts -------------------------------------------------------------------------------------------------------


def _made(call: Call) -> str:
    """``nn.Conv2d(1, 2, 3)``; layers that are arguments stand in it."""
    given = [_value(value) for value in call.args]
    given += [f"{name}={_value(value)}" for name, value in call.kwargs.items()]
    return f"nn.{call.name}({', '.join(given)})"


def _value(value: object) -> str:
    """A literal, in ASCII: names in a file may hold anything."""
    if isinstance(value, Call):
        return _made(value)
    if isinstance(value, torch.dtype):
        return str(value)
    return ascii(value)


def _visible(text: str) -> str:
    """For comments and docstrings: one line, nothing that could end it."""
    return ascii(text)[1:-1].replace('"', "'").replace("\\'", "'")


def _aside(remark: str) -> str:
    return f"  # {remark}" if remark else ""


def _indented(text: str, depth: int = 1) -> str:
    return "\n".join(_INDENT * depth + line for line in text.split("\n"))


def _identifier(name: str) -> str:
    return name if name.isascii() and name.isidentifier() and not keyword.iskeyword(name) else ""


def _camel(name: str) -> str:
    """``layer_norm`` as the name of a class: ``LayerNorm``; numbers become ``Block``."""
    words = re.findall(r"[A-Za-z][a-z0-9]*", name) if name.isascii() else []
    return _identifier("".join(word[0].upper() + word[1:] for word in words)) or "Block"
