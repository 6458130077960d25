"""The table of torch's classes, against the torch that is installed; ``--overwrite`` writes it anew."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from ckpt_inspect.formats import torch_classes

the_same_torch = pytest.mark.skipif(
    torch.__version__.split("+")[0] != torch_classes.TORCH, reason=f"the table is of torch {torch_classes.TORCH}"
)

# In a process of its own: importing all of it takes seconds and leaves things behind. Only what a module defines itself,
# under its own name, is what a pickle calls by that name; what it imported from elsewhere may be anything.
_FIND = """
import enum, importlib, json, pkgutil, sys, warnings
warnings.simplefilter("ignore")
import torch.fx

def modules(top):
    yield importlib.import_module(top)
    for info in pkgutil.walk_packages(sys.modules[top].__path__ if hasattr(sys.modules[top], "__path__") else [], top + "."):
        try:
            yield importlib.import_module(info.name)
        except ImportError:
            pass

tables = {"made": {}, "called": {}}
for top in json.loads(sys.argv[1]):
    for module in modules(top):
        if module.__name__.startswith("torch.distributed._shard.checkpoint"):
            continue  # another name of torch.distributed.checkpoint
        for name, value in list(vars(module).items()):
            if not isinstance(value, type) or (value.__module__, value.__qualname__) != (module.__name__, name):
                continue
            if issubclass(value, (type, torch.fx.GraphModule, torch.fx.Tracer)):
                continue
            if hasattr(value, "__del__") and not issubclass(value, torch.Tensor):
                continue  # it acts on what BUILD gave it when the object goes
            called = issubclass(value, (enum.Enum, BaseException))
            tables["called" if called else "made"].setdefault(module.__name__, set()).add(name)
print(json.dumps({kind: {m: sorted(names) for m, names in table.items()} for kind, table in tables.items()}))
"""


def installed() -> dict[str, dict[str, list[str]]]:
    command = [sys.executable, "-W", "ignore", "-c", _FIND, json.dumps(torch_classes.PACKAGES)]
    found: dict[str, dict[str, list[str]]] = json.loads(
        subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()[-1]
    )
    return found


def _written(tables: dict[str, dict[str, list[str]]]) -> str:
    lines = []
    for kind, table in tables.items():
        lines.append(f"{kind.upper()}: dict[str, str] = {{")
        for module in sorted(table):
            parts = textwrap.wrap(" ".join(table[module]), 100, break_on_hyphens=False)
            if len(parts) == 1 and len(module) + len(parts[0]) < 100:
                lines.append(f'    "{module}": "{parts[0]}",')
            else:
                lines.append(f'    "{module}":')
                lines += [f'        "{part} "' for part in parts[:-1]]
                lines.append(f'        "{parts[-1]}",')
        lines.append("}  # fmt: skip")
    return "\n".join(lines) + "\n"


@the_same_torch
def test_the_table_is_torchs(pytestconfig: pytest.Config) -> None:
    tables = installed()
    if pytestconfig.getoption("--overwrite"):
        path = Path(torch_classes.__file__)
        head, mark, _ = path.read_text().partition("# -- written by the test --\n")
        path.write_text(head + mark + _written(tables))
        pytest.skip("written anew")
    for kind, table in tables.items():
        ours = getattr(torch_classes, kind.upper())
        assert {module: " ".join(names) for module, names in table.items()} == ours, kind
