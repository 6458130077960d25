"""Valid checkpoints, changed a little, by the thousand: whatever comes of it, nothing else than a CheckpointError.

``python -m tests.hostile.fuzz --inputs 2000000 --jobs 2`` is the long run; each input is told by a number, so that one
that fails can be made again (``--only N``). Each goes through one step (:mod:`.steps`: a command, or a few) that its number
chooses, under an audit hook, within two seconds of processor time and 300 MB; ``--all`` does all steps to each. Steps that
import torch and steps that do not are the work of different processes: the bound of memory is the tool's own, and for
the former what torch had taken before comes on top.

First each seed is cut at every 64th byte, then bytes are flipped in the shipped fixtures, one at a time; the rest are
mutations that know the formats (:mod:`.mutations`).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from .sandbox import MEMORY, unsafe
from .seeds import INDEX, NAMES, Input, inputs, make_seeds, seeds_of
from .steps import BARE, TORCH, Given, Step, looked, said, scanned, verified

SECONDS = 2.0  # of processor time that no input may take
_HANGS = 20  # seconds of processor time after which an input is ended
_ADDRESSES = 3 << 30  # bytes of address space: what grows without end gets a MemoryError, not the machine
_TORCHS_ADDRESSES = 8 << 30
_ROOT = Path(__file__).parents[2]
_ENOUGH = 100  # failures after which a process stops


# Each step as often as its time allows: looking takes a millisecond, what needs torch up to ten.
LANES: dict[str, tuple[Step, ...]] = {"bare": (looked, verified, scanned) * 60 + BARE * 2, "torch": TORCH}


def step_of(number: int) -> tuple[str, Step]:
    """The lane and the step of an input: by chance, so that no pattern of the list meets only some of the steps."""
    at = crc32(b"%d" % number) % sum(map(len, LANES.values()))
    for lane, steps in LANES.items():
        if at < len(steps):
            return lane, steps[at]
        at -= len(steps)
    raise IndexError(number)


def drive(given: Given, steps: Iterable[Step]) -> Iterator[str]:
    """One file through some steps."""
    from ckpt_inspect.errors import CheckpointError

    for step in steps:
        try:
            yield from step(given)
        except CheckpointError as error:
            yield said(error)


class Watch:
    """The audit hook, and what it heard while it was on."""

    def __init__(self, folder: str, harmless: Iterable[str]) -> None:
        self.folder = folder
        self.harmless = frozenset(harmless)
        self.on = False
        self.events: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        paths = _PATHS.get(event)
        if not self.on or (paths is not None and all(map(self._ours, args[:paths]))) or self._below_ours(event, args):
            return
        if event not in self.harmless:
            self.events.append(f"{event} {str(args)[:80]}")

    def _ours(self, path: Any) -> bool:
        return isinstance(path, int) or os.fsdecode(path).startswith(self.folder)

    def _below_ours(self, event: str, args: tuple[Any, ...]) -> bool:
        """Trees are removed by names beside the descriptor of their directory (Linux)."""
        if event not in ("os.remove", "os.rmdir") or args[-1] < 0:
            return False
        return os.path.realpath(f"/proc/self/fd/{args[-1]}").startswith(os.path.realpath(self.folder))


# Code that is compiled has not run: that would be another event. A new thread sets the trace of whoever measures coverage.
_BARE = ("builtins.id", "array.__new__", "sys.settrace")
_HARMLESS = {"bare": _BARE, "torch": (*_BARE, "compile", "mmap.__new__", "object.__getattr__", "os.fork")}
_PATHS = {  # events on files, and how many of their arguments are paths or descriptors
    "open": 1, "os.listdir": 1, "os.scandir": 1, "os.walk": 1, "os.rename": 2, "os.remove": 1, "os.link": 2, "os.mkdir": 1,
    "os.rmdir": 1, "os.chmod": 1, "os.chown": 1, "os.truncate": 1, "fcntl.flock": 1, "shutil.copyfile": 2, "shutil.rmtree": 1,
}  # fmt: skip


class Report:
    """What came of the inputs so far."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.failures: list[dict[str, Any]] = []
        self.slowest = 0.0
        self.slowest_input = -1
        self.kilobytes: dict[str, int] = {}
        self.seconds = 0.0

    @property
    def done(self) -> int:
        return sum(self.kinds.values())

    def add(self, other: Report) -> None:
        self.kinds += other.kinds
        self.steps += other.steps
        self.failures += other.failures
        if other.slowest > self.slowest:
            self.slowest, self.slowest_input = other.slowest, other.slowest_input
        for lane, kilobytes in other.kilobytes.items():
            self.kilobytes[lane] = max(kilobytes, self.kilobytes.get(lane, 0))
        self.seconds = max(self.seconds, other.seconds)

    def line(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.items())
        peaks = ", ".join(f"{lane} {kilobytes / 1000:,.0f} MB" for lane, kilobytes in self.kilobytes.items())
        return (
            f"{self.done:,} inputs ({kinds}) in {self.seconds:,.0f} s; {len(self.failures)} failures; "
            f"slowest {self.slowest:.2f} s (input {self.slowest_input}); peak: {peaks}"
        )

    def save(self, path: Path) -> None:
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(self.__dict__))
        beside.rename(path)

    @classmethod
    def load(cls, path: Path) -> Report:
        found = cls()
        facts = json.loads(path.read_text())
        found.__dict__.update(facts, kinds=Counter(facts["kinds"]), steps=Counter(facts["steps"]))
        return found


def _hangs(number: int, frame: Any) -> None:
    raise TimeoutError(f"no end after {_HANGS} s of processor time, or {30 * _HANGS} s")


def kilobytes() -> int:
    """The peak of this process; ``getrusage`` would count what its parent had before the fork (Linux)."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def try_one(given: Given, changed: Input, steps: Iterable[Step], watch: Watch, report: Report) -> None:
    """Drive one input; what must not happen is a failure."""
    data = changed.make()
    Path(given.path).write_bytes(data)
    before = time.process_time()
    watch.events.clear()
    wrong = ""
    watch.on = True
    signal.setitimer(signal.ITIMER_VIRTUAL, _HANGS)
    signal.setitimer(signal.ITIMER_REAL, 30 * _HANGS)  # what waits takes no processor time
    try:
        texts = drive(given, steps)
        if changed.number % 8:
            for _ in texts:
                pass
        else:
            raw = unsafe(texts)
            wrong = f"raw characters: {raw}" if raw else ""
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        watch.on = False
        wrong = traceback.format_exc(limit=-8)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        watch.on = False
    took = time.process_time() - before
    if took > report.slowest:
        report.slowest, report.slowest_input = took, changed.number
    if watch.events:
        wrong += f"events: {watch.events[:5]}"
    if took > SECONDS:
        wrong += f"{took:.1f} s"
    report.kinds[changed.kind] += 1
    report.steps.update(step.__name__ for step in steps)
    if wrong:
        failure = {"number": changed.number, "kind": changed.kind, "seed": changed.seed}
        report.failures.append({**failure, "step": [step.__name__ for step in steps], "wrong": wrong})
        kept = Path(given.scratch).parents[1] / f"failure-{changed.number}-{changed.seed.replace(' ', '-')}"
        kept.write_bytes(data)


class Share(NamedTuple):
    """What one process does: of the inputs of a lane, those whose turn it is."""

    lane: str
    turn: int
    of: int

    @property
    def name(self) -> str:
        return f"{self.lane}-{self.turn}"

    def steps(self, number: int, everything: bool) -> tuple[Step, ...]:
        """What it does to an input; nothing if that is another's."""
        lane, step = step_of(number)
        if number // 7 % self.of != self.turn or not (everything or lane == self.lane):
            return ()
        return tuple(dict.fromkeys(LANES[self.lane])) if everything else (step,)


def work(share: Share, options: argparse.Namespace, folder: Path) -> None:
    """The process: its report is in a file."""
    place = folder / share.name
    scratch = place / "scratch"
    shutil.rmtree(place, ignore_errors=True)
    scratch.mkdir(parents=True)
    for shard in (_ROOT / "fixtures" / "sharded").glob("*.safetensors"):
        shutil.copyfile(shard, place / shard.name)  # an index that is changed a little still finds them
    _warm_up(share.lane, folder / "seeds", scratch)
    torchs = kilobytes() if share.lane == "torch" else 0
    signal.signal(signal.SIGVTALRM, _hangs)
    signal.signal(signal.SIGALRM, _hangs)
    limit = _TORCHS_ADDRESSES if torchs else _ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    watch, report = Watch(str(folder), _HARMLESS[share.lane]), Report()
    started = saved = time.monotonic()
    with open(place / "at", "wb", buffering=0) as at:
        for changed in inputs(seeds_of(folder / "seeds"), options.run, options.flips, options.step):
            over = time.monotonic() - started > options.seconds
            if changed.number >= options.inputs or over or len(report.failures) > _ENOUGH:
                break
            steps = share.steps(changed.number, options.all)
            if not steps or options.only not in (None, changed.number):
                continue
            at.seek(0)
            at.write(b"%20d" % changed.number)
            name = "changed.index.json" if changed.seed == INDEX else "changed"
            given = Given(str(place / name), str(folder / "seeds" / changed.seed), str(scratch), changed.number)
            try_one(given, changed, steps, watch, report)
            report.seconds = time.monotonic() - started
            if time.monotonic() - saved > 5:
                saved = time.monotonic()
                report.kilobytes = {share.lane: kilobytes()}
                report.save(folder / f"{share.name}.json")
    report.kilobytes = {share.lane: kilobytes()}
    if kilobytes() > MEMORY + torchs:
        report.failures.append({"wrong": f"{kilobytes():,} KB of memory, {torchs:,} of them torch's"})
    report.save(folder / f"{share.name}.json")


def _warm_up(lane: str, seeds: Path, scratch: Path) -> None:
    """Import what is imported late, so that any import after this is one too many."""
    from .sandbox import import_everything

    import_everything(torch=lane == "torch")
    from . import build

    sample = scratch.parent / "sample"
    tiny = [build.checkpoint(build.GOOD), build.legacy(build.GOOD), build.safetensors({"a": build.entry()})]
    turns = {data: range(0, 64 * 28, 64) for data in tiny} if lane == "bare" else {}
    turns |= {(seeds / name).read_bytes(): range(1) for name in NAMES if lane == "torch" or " " in name}
    turns |= dict.fromkeys((b"x", b"\x80\x02."), range(1))
    for data, numbers in turns.items():
        sample.write_bytes(data)
        for number in numbers:
            for _ in drive(Given(str(sample), str(sample), str(scratch), number), dict.fromkeys(LANES[lane])):
                pass
    sample.unlink()
    if lane == "torch":
        import torch

        torch.set_num_threads(1)  # processor time is what an input is bounded by


def run_all(options: argparse.Namespace, folder: Path, say: Callable[[Report], None]) -> Report:
    """Each lane in as many shares as there are jobs, so many processes at a time; what they all found."""
    fork = multiprocessing.get_context("fork")
    waiting = [Share(lane, turn, options.jobs) for turn in range(options.jobs) for lane in LANES if LANES[lane]]
    running: dict[Share, BaseProcess] = {}
    died: list[dict[str, Any]] = []
    shares = list(waiting)
    for share in shares:
        (folder / f"{share.name}.json").unlink(missing_ok=True)

    def so_far() -> Report:
        total = Report()
        for share in shares:
            if (folder / f"{share.name}.json").exists():
                total.add(Report.load(folder / f"{share.name}.json"))
        total.failures += died
        total.seconds = time.monotonic() - started
        return total

    started = said_at = time.monotonic()
    while waiting or running:
        while waiting and len(running) < options.jobs:
            share = waiting.pop(0)
            running[share] = fork.Process(target=work, args=(share, options, folder), name=share.name)
            running[share].start()
        time.sleep(0.05)
        for share, process in list(running.items()):
            if not process.is_alive():
                del running[share]
                if process.exitcode:
                    at = folder / share.name / "at"
                    number = int(at.read_bytes()) if at.exists() else None
                    died.append({"number": number, "wrong": f"the process {share.name} died: {process.exitcode}"})
        if time.monotonic() - said_at > 60:
            said_at = time.monotonic()
            say(so_far())
    return so_far()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2_000_000, help="how many (default: 2,000,000)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="each process stops after so many seconds")
    parser.add_argument("--run", default="1", help="name of the run: another one, other inputs")
    parser.add_argument("--flips", type=int, default=10_000, help="bytes flipped in each fixture, one at a time")
    parser.add_argument("--step", type=int, default=64, help="cut at every so many bytes")
    parser.add_argument("--all", action="store_true", help="each input through all steps")
    parser.add_argument("--only", type=int, help="this input alone, which is kept")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes at a time")
    parser.add_argument("--folder", help="where to work and keep what fails; default: a temporary one")
    parser.add_argument("--log", help="a file for the report, written every minute")
    options = parser.parse_args(arguments)
    if options.only is not None:
        options.inputs = max(options.inputs, options.only + 1)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="ckpt-fuzz-"))
    seeds = folder / "seeds"
    if not seeds.is_dir():
        seeds.mkdir(parents=True)
        make_seeds(seeds)

    def say(report: Report) -> None:
        if options.log:
            lines = [report.line(), json.dumps(report.steps), *map(json.dumps, report.failures)]
            Path(options.log).write_text("\n".join(lines) + "\n")

    report = run_all(options, folder, say)
    say(report)
    for failure in report.failures[:20]:
        print(json.dumps(failure))
    print(json.dumps(report.steps))
    print(report.line())
    return 1 if report.failures else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    sys.exit(main())
