"""What the fuzzers do to a file: every command on it, once without torch and once with it.

Commands are called as the command line calls them, past Typer. A step gives the texts that a user would see, raises
``CheckpointError`` where the command would, and AssertionError where two answers of the tool do not agree. The steps of
``BARE`` import no torch; those of ``TORCH`` do.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import resource
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

MODELS = ("fixtures.nets:Cnn", "fixtures.nets:LeNet")


class Given(NamedTuple):
    """One changed file.

    Attributes:
        path: where it is.
        seed: where that is which it was made of.
        scratch: a directory to write to; what is in it may go.
        number: chooses between the ways of a step.
    """

    path: str
    seed: str
    scratch: str
    number: int

    def one_of(self, choices: Any) -> Any:
        return choices[self.number // 64 % len(choices)]

    def out(self, name: str) -> str:
        """A path in the scratch directory, which is empty then."""
        for folder, _, files in os.walk(self.scratch, topdown=False):
            for file in files:
                os.unlink(os.path.join(folder, file))
            if folder != self.scratch:
                os.rmdir(folder)
        return os.path.join(self.scratch, name)


Step = Callable[[Given], Iterator[str]]


def typed(command: Callable[..., int], *arguments: Any, **options: Any) -> list[str]:
    """What a command prints, on both streams."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = command(*arguments, **options)
    assert status in (0, 1, 2), status
    return [out.getvalue(), err.getvalue()]


def refusable(command: Callable[..., int], *arguments: Any, **options: Any) -> list[str]:
    """The same; a refusal is an answer, and what comes after it in a step is still tried."""
    from ckpt_inspect.errors import CheckpointError

    try:
        return typed(command, *arguments, **options)
    except CheckpointError as error:
        return [said(error)]


def said(error: Any) -> str:
    """As the command line says it."""
    from ckpt_inspect.render.text import escape

    return escape(f"{error} {error.to_dict()}")


def _document(command: Callable[..., int], *arguments: Any, **options: Any) -> Any:
    """What it prints as JSON."""
    return json.loads(typed(command, *arguments, as_json=True, **options)[0])


# -- looking ----------------------------------------------------------------------------------------------------


def looked(given: Given) -> Iterator[str]:
    """What ``ls``, ``info`` and ``tree`` make of a file, as it is made."""
    import ckpt_inspect
    from ckpt_inspect.render import info, json, ls, plain, tree

    with ckpt_inspect.open(given.path) as checkpoint:
        listing = ckpt_inspect.ls(checkpoint)
        yield from json.chunks(listing.to_dict())
        yield from ls.plain(listing, True, given.path)
        card = ckpt_inspect.info(checkpoint)
        yield json.dumps(card.to_dict())
        yield from plain.texts(info.lines(card))
        drawn = ckpt_inspect.tree(checkpoint)
        yield json.dumps(drawn.to_dict())
        yield from plain.texts(tree.lines(drawn))


def verified(given: Given) -> Iterator[str]:
    from ckpt_inspect.operations.verify import verify_file
    from ckpt_inspect.render import json, plain, verify

    found = verify_file(given.path)
    yield json.dumps(found.to_dict())
    yield from plain.texts(verify.lines(found))


def scanned(given: Given) -> Iterator[str]:
    from ckpt_inspect.operations.scan import scan
    from ckpt_inspect.render import json, plain
    from ckpt_inspect.render import scan as render

    found = scan(given.path)
    yield json.dumps(found.to_dict())
    yield from plain.texts(render.lines(found))


def salvaged(given: Given) -> Iterator[str]:
    from ckpt_inspect.cli import salvage

    out = given.out("salvaged.pt")
    yield from typed(salvage.command, given.path, out, given.one_of((None, "zeros", "nan")))
    if os.path.lexists(out):
        _content(out)


def hashed(given: Given) -> Iterator[str]:
    from ckpt_inspect.cli import hash

    yield from typed(hash.command, [given.path], as_json=True)
    yield from typed(hash.command, [given.path], each=True, structure=True)
    yield from typed(hash.command, [given.path], textconv=True)


def compared(given: Given) -> Iterator[str]:
    """``diff`` as far as it needs no torch; a file is the same as itself."""
    from ckpt_inspect.cli import diff

    found = _document(diff.command, given.path, given.path, exact=True)
    assert found["same"] or found["problems"], found
    sides = given.one_of([(given.path, given.seed), (given.seed, given.path)])
    yield from typed(
        diff.command, *sides, given.one_of((False, True)), quick=True, as_json=given.one_of((True, True, False, False))
    )


# -- writing ----------------------------------------------------------------------------------------------------


def _content(path: str, section: str | None = None) -> dict[str, tuple[str, tuple[int, ...], str]] | None:
    """Each tensor by name, its values as a digest; None where the file is damaged."""
    import ckpt_inspect
    from ckpt_inspect.model.problem import Problem

    with ckpt_inspect.open(path, section) as checkpoint:
        found = ckpt_inspect.hash(checkpoint)
        if any(Problem.of(problem).damage for problem in (*checkpoint.problems, *found.problems)):
            return None
        return {row.name: (row.info.dtype, row.info.shape, (row.digest or b"").hex()) for row in found.tensors}


def _renames(given: Given) -> Any:
    """A renaming command and its arguments."""
    from ckpt_inspect.cli import add_prefix, remap, strip_prefix

    return given.one_of([
        (add_prefix.command, (given.path, "module"), {}),
        (strip_prefix.command, (given.path,), {"nested": True}),
        (remap.command, (given.path,), {"rule": ["{a}.** -> {a}x.**"], "allow_unused": True}),
        (strip_prefix.command, (given.path,), {"prefix": ["a", "layers", "0", "conv1"]}),
        (remap.command, (given.path,), {"rule": ["s/(.*)weight/W\\1/"], "drop": ["*bias*"], "allow_unused": True}),
        (remap.command, (given.path,), {"like": given.seed}),
    ])  # fmt: skip


def _as_renamed(before: dict[str, Any], plan: Any) -> dict[str, Any]:
    """What a plan says the content will be."""
    from ckpt_inspect.model.pointer import escape, relative

    def name(section: str, key: str) -> str:
        return "/".join(filter(None, (section, escape(key))))

    names = {name(row["section"], row["from"]): name(row["section"], row["to"]) for row in plan["renamed"]}

    def new(old: str) -> str:
        """A tensor below an entry, of a module's extra state, goes with it."""
        entry = next((e for e in _upwards(old) if e in names), None)
        return old if entry is None else "/".join(filter(None, (names[entry], relative(old, entry))))

    gone = set(plan["dropped"])
    return {new(name): tensor for name, tensor in before.items() if not gone.intersection(_upwards(name))}


def _upwards(name: str) -> list[str]:
    """A name and what it is below of."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def renamed(given: Given) -> Iterator[str]:
    """``strip-prefix``, ``add-prefix`` and ``remap`` to a new file: nothing but names is another one."""
    command, arguments, options = _renames(given)
    yield from typed(command, *arguments, **options, dry_run=True)
    out = given.out("renamed")
    plan = _document(command, *arguments, **options, out=out)
    before, after = _content(given.path), _content(out)
    assert before is None or after == _as_renamed(before, plan), (before, after, plan)


def edited(given: Given) -> Iterator[str]:
    """The same in place."""
    command, (path, *rest), options = _renames(given)
    copy = given.out(os.path.basename(path))
    shutil.copyfile(path, copy)
    before = _content(copy)
    yield from typed(command, copy, *rest, **options, dry_run=True)
    plan = _document(command, copy, *rest, **options, in_place=True)
    after = _content(copy)
    assert before is None or after == _as_renamed(before, plan), (before, after, plan)
    assert os.listdir(given.scratch) == [os.path.basename(path)], os.listdir(given.scratch)


def converted(given: Given) -> Iterator[str]:
    """``convert`` to every format: the same fingerprint, where nothing is left out."""
    from ckpt_inspect.cli import convert

    out = given.out("converted")
    options = given.one_of([
        {"format": "torch-zip"}, {"format": "torch-legacy"}, {"format": "safetensors"}, {},
        {"format": "sharded", "max_shard_size": "1KB"}, {"weights_only": True, "format": "safetensors"},
        {"device": ["cpu"]}, {"device": ["cuda:1"], "format": "torch-zip"}, {"slim": True}, {"from_numpy": True},
        {"format": "safetensors", "untie": True, "skip_unsupported": True}, {"drop": ["*a*"]},
        {"format": "torch-legacy", "weights_only": True, "skip_unsupported": True}, {"strip_prefix": True},
    ])  # fmt: skip
    import ckpt_inspect

    with ckpt_inspect.open(given.path) as checkpoint:
        candidates = checkpoint.candidates()
    section = candidates[0] if options.get("format") in ("safetensors", "sharded") and candidates else None
    yield from typed(convert.command, given.path, section, **options, dry_run=True)
    plan = _document(convert.command, given.path, section, **options, out=out, verify=True)
    after = _content(out)
    assert after is not None or _content(given.path) is None, "what was written is damaged"  # zip to zip, damage stays
    if after is not None and options.keys() <= {"format", "max_shard_size", "device"} and not plan["dropped"]:
        before = _content(given.path, section)
        assert before is None or sorted(before.values()) == sorted(after.values()), (before, after, plan)


BARE: tuple[Step, ...] = (looked, verified, scanned, salvaged, hashed, compared, renamed, edited, converted)


# -- with torch -------------------------------------------------------------------------------------------------


def shown(given: Given) -> Iterator[str]:
    import ckpt_inspect
    from ckpt_inspect.cli import show

    with ckpt_inspect.open(given.path) as checkpoint:
        names = [name for name, _, _ in checkpoint.tensors()] + [value.name for value in checkpoint.values]
        names += [*checkpoint.sections, "no such name"]
    for turn in range(2):
        name = names[(given.number + 7 * turn) % len(names)]
        yield from refusable(show.command, given.path, name, as_json=turn == 0)
        yield from refusable(show.command, given.path, name, slice=given.one_of(("0", ":2", "0,::3", "-1,0:1", "...")))
        yield from refusable(show.command, given.path, name, save=given.out("shown.npy"))


def measured(given: Given) -> Iterator[str]:
    from ckpt_inspect.cli import stats

    yield from typed(stats.command, [given.path], as_json=True)
    yield from typed(stats.command, [given.path], modules=True, sort=given.one_of(("norm", "name", "zeros")))
    yield from typed(stats.command, [given.path], check=True)


def differed(given: Given) -> Iterator[str]:
    from ckpt_inspect.cli import diff

    sides = given.one_of([(given.path, given.seed), (given.seed, given.path)])
    yield from typed(diff.command, *sides, as_json=True)
    yield from typed(diff.command, *sides, atol=1e-3, exact=True, frozen=["*weight*"], show="identical,changed")
    yield from typed(diff.command, given.path, model=given.one_of(MODELS))


def cast(given: Given) -> Iterator[str]:
    from ckpt_inspect.cli import convert

    out = given.out("cast")
    dtype = given.one_of(("bfloat16", "float16", "float64", "float8_e4m3fn"))
    yield from typed(convert.command, given.path, dtype=[dtype], out=out, verify=True)
    assert _content(out) is not None or _content(given.path) is None, "what was written is damaged"


def checked(given: Given) -> Iterator[str]:
    """``check`` and ``run`` with a model, and the weights as real tensors."""
    from ckpt_inspect import torch as real
    from ckpt_inspect.cli import check, run

    model = given.one_of(MODELS)
    yield from refusable(check.command, given.path, model=model, as_json=given.one_of((True, True, False, False)))
    fed = ["1,3,32,32"]
    yield from refusable(check.command, given.path, model=MODELS[1], kwargs='{"classes": 10}', load=True, inputs=fed)
    yield from refusable(run.command, given.path, model=MODELS[1], kwargs='{"classes": 10}', inputs=fed)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        real.state_dict(given.path)
    yield from (str(warning.message) for warning in heard)


def coded(given: Given) -> Iterator[str]:
    """``code``: nothing in the source but layers with literals; and the modules that it describes."""
    from ckpt_inspect import torch as real
    from ckpt_inspect.cli import code

    source = _document(code.command, given.path)["source"]
    yield source
    _check_source(source)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        real.build_module(given.path, load=given.one_of((True, False)))
    yield from (str(warning.message) for warning in heard)


_IMPORTS = (
    "import torch",
    "from torch import nn",
    "from __future__ import annotations",
    "from typing import Any",
    "from collections import OrderedDict",
)
_CALLS = re.compile(
    r"nn(\.\w+)+|super|super\(\)\.__init__|self\.(hold|register_\w+|add_module)|setattr|range|without_counter|accepting|torch\.(empty|zeros)|OrderedDict"
)


def _check_source(source: str) -> None:
    """Our own helpers aside, a source imports nothing but torch, and calls nothing but layers."""
    from ckpt_inspect.torch import container

    assert source.isascii()
    own = {ast.dump(node) for node in ast.parse(inspect.getsource(container)).body}
    parts = ast.parse(source).body
    classes = {part.name for part in parts if isinstance(part, ast.ClassDef)}
    for part in parts:
        for node in ast.walk(part) if ast.dump(part) not in own else ():
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert ast.unparse(node) in _IMPORTS, ast.unparse(node)
            elif isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name in classes or _CALLS.fullmatch(name), ast.unparse(node)


def deeply(given: Given) -> Iterator[str]:
    from ckpt_inspect.cli import verify

    yield from typed(verify.command, [given.path], deep=True)


def ran(given: Given) -> Iterator[str]:
    """``run`` of TorchScript, which torch executes in C++: in a process of its own, so that a crash is told as one."""
    from ckpt_inspect.cli import run

    fed = ["1,3,32,32"] if "fixture" in given.seed else ["2,3"]
    if "script" not in given.seed and "traced" not in given.seed:
        yield from refusable(run.command, given.path, inputs=fed)
        return
    answer, pipe = os.pipe()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            said_of_it = "".join(refusable(run.command, given.path, inputs=fed))
        except BaseException:
            said_of_it = _LEAKED + traceback.format_exc(limit=-6)
        with open(pipe, "w", errors="backslashreplace") as file:
            file.write(said_of_it)
        os._exit(0)
    os.close(pipe)
    with open(answer, errors="backslashreplace") as file:
        text = file.read()
    _, status, used = os.wait4(child, 0)
    assert not status, f"run died: {os.waitstatus_to_exitcode(status)}"
    assert not text.startswith(_LEAKED), text
    assert used.ru_utime + used.ru_stime < 2, "run took longer than two seconds"
    yield text


_LEAKED = "leaked: "
TORCH: tuple[Step, ...] = (shown, measured, differed, cast, checked, coded, deeply, ran)
