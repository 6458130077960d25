"""Valid checkpoints, changed a little, by the thousand: whatever comes of it, nothing else than a CheckpointError.

``python -m tests.hostile.fuzz --inputs 2000000`` is the long run; each input is told by a number, so that one that fails
can be made again (``--only N``). Every input is looked at (ls, info, tree), verified, scanned or salvaged, in turn, in this process,
under an audit hook, within two seconds of processor time and 300 MB; ``--all`` does all of it to each.

First each seed is cut at every 64th byte, then bytes are flipped in the shipped fixtures, one at a time; the rest are
mutations that know the formats (:mod:`.mutations`).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from .mutations import flipped_once, mutations
from .sandbox import MEMORY, unsafe

SECONDS = 2.0  # of processor time that no input may take
_HANGS = 20  # seconds of processor time after which an input is ended
_ADDRESSES = 3 << 30  # bytes of address space: what grows without end gets a MemoryError, not the machine
_ROOT = Path(__file__).parents[2]
_LARGEST_SEED = 30_000  # bytes: a mutation must have a chance to hit what counts

# Small files of every format, and of everything that is read out of a pickle.
SEEDS = [
    "form-neg.pth",
    "form-xla.pth",
    "form-per_channel.pth",
    "form-coo.pth",
    "form-bsr.pth",
    "form-nested.pth",
    "form-jagged.pth",
    "form-two.pth",
    "form-attributed.pth",
    "storages.pth",
    "dtensor.pth",
    "ancient.pth",
    "tied.pth",
    "values.pth",
    "keys-any.pth",
    "protocol-0.pth",
    "protocol-4.pth",
    "nested-ema.pth",
    "tuple.pth",
    "optimizer-sgd-momentum.pth",
    "optimizer-named.pth",
    "optimizer-object.pth",
    "vanished-module.pt",
    "modules-in-list.pt",
    "attributes-module.pt",
    "zip-plain.pth",
    "zip-deflated.pth",
    "extra-state-state_dict.pth",
    "quantized-module.pt",
    "lightning-weights.ckpt",
    "legacy-views.pth",
    "ancient-legacy.pth",
    "values-legacy.pth",
    "keys-any-legacy.pth",
    "protocol-0-legacy.pth",
    "tied-legacy.pth",
    "attributes-legacy.pth",
    "tar-views.pth.tar",
    "tar2017.pth.tar",
    "pickle-2.pkl",
    "pickle-4.pkl",
    "pickle-numpy.pkl",
    "function-script.pt",
    "devices-script.pt",
    "views-script.pt",
    "dtypes-script.pt",
    "order.safetensors",
    "dtypes.safetensors",
    "norms.safetensors",
]
FIXTURES = [
    "lenet.pt",
    "tied.pt",
    "run.ckpt",
    "lightning.ckpt",
    "mnist.ckpt",
    "legacy.pth",
    "tar2017.pth.tar",
    "gpt.safetensors",
    "scripted.pt",
    "traced.pt",
]


class Input(NamedTuple):
    """One changed file: where it comes from, and its bytes."""

    number: int
    kind: str
    seed: str
    data: bytes


def make_seeds(folder: Path) -> None:
    """Write the seeds, in a process of its own: torch is as large as all that is allowed here."""
    script = (
        "import sys, pathlib, warnings; warnings.simplefilter('ignore')\n"
        "from tests.zoo import files\n"
        "for name in sys.argv[2:]: files.FILES[name](pathlib.Path(sys.argv[1]))\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(folder), *SEEDS], cwd=_ROOT, check=True, stderr=subprocess.DEVNULL
    )


def seeds_of(folder: Path) -> dict[str, bytes]:
    paths = [folder / name for name in SEEDS] + [_ROOT / "fixtures" / name for name in FIXTURES]
    found = {path.name if path.parent == folder else f"fixture {path.name}": path.read_bytes() for path in paths}
    index = next((_ROOT / "fixtures" / "sharded").glob("*.index.json"))
    return {**found, "index.json": index.read_bytes()}


def inputs(seeds: dict[str, bytes], run: str, flips: int, step: int) -> Iterator[Input]:
    """The endless list of inputs of one run; the same for the same name of the run."""
    number = 0
    for name, data in seeds.items():
        for length in range(0, len(data), step):
            yield Input(number, "cut", name, data[:length])
            number += 1
    fixtures = [(name, data) for name, data in seeds.items() if name.startswith("fixture ")]
    for count in range(flips):
        for name, data in fixtures:
            yield Input(number, "flip", name, flipped_once(Random(f"{run} flip {count} {name}"), data))
            number += 1
    small = [(name, data, mutations(data)) for name, data in seeds.items() if len(data) <= _LARGEST_SEED]
    while True:
        random = Random(f"{run} {number}")
        name, data, ways = random.choice(small)
        yield Input(number, "mutation", name, random.choice(ways)(random, data))
        number += 1


def looked(path: str) -> Iterator[str]:
    """What ``ls``, ``info`` and ``tree`` make of a file, as it is made."""
    import ckpt_inspect
    from ckpt_inspect.render import info, json, ls, plain, tree

    with ckpt_inspect.open(path) as checkpoint:
        listing = ckpt_inspect.ls(checkpoint)
        yield from json.chunks(listing.to_dict())
        yield from ls.plain(listing, True, path)
        card = ckpt_inspect.info(checkpoint)
        yield json.dumps(card.to_dict())
        yield from plain.texts(info.lines(card))
        drawn = ckpt_inspect.tree(checkpoint)
        yield json.dumps(drawn.to_dict())
        yield from plain.texts(tree.lines(drawn))


def verified(path: str) -> Iterator[str]:
    from ckpt_inspect.operations.verify import verify_file
    from ckpt_inspect.render import json, plain, verify

    found = verify_file(path)
    yield json.dumps(found.to_dict())
    yield from plain.texts(verify.lines(found))


def scanned(path: str) -> Iterator[str]:
    from ckpt_inspect.operations.scan import scan
    from ckpt_inspect.render import json, plain
    from ckpt_inspect.render import scan as render

    found = scan(path)
    yield json.dumps(found.to_dict())
    yield from plain.texts(render.lines(found))


def salvaged(path: str) -> Iterator[str]:
    from ckpt_inspect.formats.salvaging import zip_pieces
    from ckpt_inspect.operations.salvage import salvage
    from ckpt_inspect.render import json, plain
    from ckpt_inspect.render import salvage as render

    found = salvage(path, fill=(None, "zeros", "nan")[os.path.getsize(path) % 3])
    yield json.dumps(found.to_dict())
    yield from plain.texts(render.lines(found))
    for root, contents in found.archives.values():
        if sum(content.nbytes for content in contents) < 1_000_000:
            for _ in zip_pieces(root, contents):
                pass


STEPS = (looked, verified, scanned, salvaged)


def drive(path: str, number: int | None = None) -> Iterator[str]:
    """Everything that reads, on one file; or, by its number, one thing of all."""
    from ckpt_inspect.errors import CheckpointError
    from ckpt_inspect.render.text import escape

    for step in STEPS if number is None else (STEPS[number % len(STEPS)],):
        try:
            yield from step(path)
        except CheckpointError as error:
            yield escape(f"{error} {error.to_dict()}")  # as the command line does


class Watch:
    """The audit hook, and what it heard while it was on."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.on = False
        self.events: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on or event == "builtins.id":
            return
        if event in ("open", "os.listdir") and str(args[0]).startswith(self.folder):
            return
        self.events.append(f"{event} {str(args)[:80]}")


class Report:
    """What came of the inputs so far."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[dict[str, Any]] = []
        self.slowest = 0.0
        self.slowest_input = -1
        self.started = time.monotonic()

    @property
    def done(self) -> int:
        return sum(self.counts.values())

    def line(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.counts.items())
        return (
            f"{self.done:,} inputs ({kinds}) in {time.monotonic() - self.started:,.0f} s; {len(self.failures)} failures; "
            f"slowest {self.slowest:.2f} s (input {self.slowest_input}); peak {kilobytes() / 1000:,.0f} MB"
        )


def _hangs(number: int, frame: Any) -> None:
    raise TimeoutError(f"no end after {_HANGS} s")


def kilobytes() -> int:
    """The peak of this process; ``getrusage`` would count what its parent had before the fork (Linux)."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def try_one(given: Input, path: Path, watch: Watch, report: Report, everything: bool) -> None:
    """Drive one input; what must not happen is a failure."""
    path.write_bytes(given.data)
    before = time.process_time()
    watch.events.clear()
    wrong = ""
    watch.on = True
    signal.setitimer(signal.ITIMER_VIRTUAL, _HANGS)
    try:
        texts = drive(str(path), None if everything else given.number)
        if given.number % 8:
            for _ in texts:
                pass
        else:
            raw = unsafe(text for text in texts if isinstance(text, str))
            wrong = f"raw characters: {raw}" if raw else ""
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        watch.on = False
        wrong = traceback.format_exc(limit=-8)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        watch.on = False
    took = time.process_time() - before
    if took > report.slowest:
        report.slowest, report.slowest_input = took, given.number
    if watch.events:
        wrong += f"events: {watch.events[:5]}"
    if took > SECONDS:
        wrong += f"{took:.1f} s"
    report.counts[given.kind] += 1
    if wrong:
        report.failures.append({"number": given.number, "kind": given.kind, "seed": given.seed, "wrong": wrong})
        kept = path.parent / f"failure-{given.number}-{given.seed.replace(' ', '-')}"
        kept.write_bytes(given.data)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2_000_000, help="how many (default: 2,000,000)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many seconds")
    parser.add_argument("--run", default="1", help="name of the run: another one, other inputs")
    parser.add_argument("--flips", type=int, default=10_000, help="bytes flipped in each fixture, one at a time")
    parser.add_argument("--step", type=int, default=64, help="cut at every so many bytes")
    parser.add_argument("--all", action="store_true", help="each input through all that reads")
    parser.add_argument("--only", type=int, help="this input alone, which is kept")
    parser.add_argument("--folder", help="where to work and keep what fails; default: a temporary one")
    parser.add_argument("--log", help="a file for the report, a line every minute")
    given = parser.parse_args(arguments)
    folder = Path(given.folder or tempfile.mkdtemp(prefix="ckpt-fuzz-"))
    folder.mkdir(exist_ok=True)
    seeds_folder = folder / "seeds"
    if not seeds_folder.is_dir():
        seeds_folder.mkdir()
        make_seeds(seeds_folder)
    seeds = seeds_of(seeds_folder)
    _warm_up(folder)
    signal.signal(signal.SIGVTALRM, _hangs)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, resource.RLIM_INFINITY))
    watch, report = Watch(str(folder)), Report()
    said = time.monotonic()
    for changed in inputs(seeds, given.run, given.flips, given.step):
        if given.only is not None and changed.number != given.only:
            continue
        name = "changed.json" if changed.seed.endswith(".json") else "changed"
        try_one(changed, folder / name, watch, report, given.all)
        if given.log and time.monotonic() - said > 60:
            said = time.monotonic()
            Path(given.log).write_text(report.line() + "\n")
        over = time.monotonic() - report.started > given.seconds
        if report.done >= given.inputs or over or given.only is not None or len(report.failures) > 100:
            break
    if kilobytes() > MEMORY:
        report.failures.append({"wrong": f"{kilobytes():,} KB of memory"})
    for failure in report.failures[:20]:
        print(json.dumps(failure))
    print(report.line())
    if given.log:
        Path(given.log).write_text(report.line() + "\n" + json.dumps(report.failures) + "\n")
    return 1 if report.failures else 0


def _warm_up(folder: Path) -> None:
    """Import what is imported late, so that any import after this is one too many."""
    from .sandbox import import_everything

    import_everything()
    sample = folder / "sample"
    from . import build

    for data in (
        build.checkpoint(build.GOOD),
        build.legacy(build.GOOD),
        build.safetensors({"a": build.entry()}),
        b"x",
        b"\x80\x02.",
    ):
        sample.write_bytes(data)
        for _ in drive(str(sample)):
            pass
    sample.unlink()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    sys.exit(main())
