"""Measure `ckpt` beside its yardsticks: `python benchmarks/run.py [--pairs 5] [--rows GLOB] [--size 4GB]`.

Exit status: 0 everything asked for was measured, whatever the figures; 2 something could not be.
"""

from __future__ import annotations

import argparse
import json
import shlex
import string
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import files
from measure import Run, RunError, run
from report import Result, format_environment, format_markdown, format_ratio, to_dict
from rows import ROWS, Row, installed

HERE = Path(__file__).resolve().parent


def expand(template: str, programs: Mapping[str, list[str]], paths: Mapping[str, str]) -> list[str]:
    """A command of the table as the words to execute."""
    program, *words = shlex.split(template)
    words = [word.format(**paths) for word in words]
    if program == "python":
        words[0] = str(HERE / "yardsticks" / words[0])
    return [*programs.get(program, [program]), *words]


def named_files(row: Row) -> set[str]:
    """The files a row needs, by their names in `files.FILES`."""
    fields = string.Formatter().parse(f"{row.ours} {row.yardstick}")
    return {field for _, field, _, _ in fields if field} - {"out", "yardsticks"}


def run_once(template: str, programs: Mapping[str, list[str]], paths: Mapping[str, str]) -> Run:
    """One run of one side; what it wrote to `{out}` is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="out-", dir=paths["folder"]) as scratch:
        return run(expand(template, programs, {**paths, "out": str(Path(scratch) / "out")}))


def measure_row(row: Row, programs: Mapping[str, list[str]], arguments: argparse.Namespace) -> Result:
    """One warm-up of each side, then the pairs, alternating."""
    small = arguments.size // 100
    job = row.job.format(size=files.format_size(arguments.size), small=files.format_size(small))
    paths = {name: str(files.ensure(name, arguments.files, arguments.size)) for name in named_files(row)}
    paths |= {"folder": str(arguments.files), "yardsticks": str(HERE / "yardsticks")}
    pairs = []
    for _ in range(arguments.pairs + 1):
        pair = []
        for template in (row.ours, row.yardstick):
            try:
                pair.append(run_once(template, programs, paths))
            except RunError as error:
                return Result(row, job, failure=f"{template}: {error}")
        pairs.append((pair[0], pair[1]))
    return Result(row, job, pairs[1:])


def progress(result: Result) -> str:
    """One line to read while the other rows run."""
    if result.failure is not None:
        return f"{result.row.name:18} failed: {result.failure}"
    ours, yardstick = result.median(0, "wall"), result.median(1, "wall")
    return (
        f"{result.row.name:18} {ours:7.3f} s  against {yardstick:7.3f} s"
        f"   ratio {format_ratio(result)}   {result.peak(0):.0f} MB"
    )


def find_programs(command: str | None) -> dict[str, list[str]]:
    """What `ckpt` and `python` stand for; the command beside the interpreter, so that start-up counts."""
    script = Path(sysconfig.get_path("scripts")) / "ckpt"
    if command is None and not script.exists():
        raise files.SetupError("no ckpt beside this interpreter: pip install . first, or give --command")
    if installed("torch") is None or installed("safetensors") is None:
        raise files.SetupError("the yardsticks need torch and safetensors in this environment")
    return {"ckpt": shlex.split(command) if command else [str(script)], "python": [sys.executable]}


def parse_size(text: str) -> int:
    """`4GB`, `400MB`: a number and a decimal unit, as bytes."""
    number, unit = text[:-2], text[-2:].upper()
    try:
        size = int(float(number) * files.UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 4GB or 400MB") from None
    if size < files.UNITS["MB"]:
        raise argparse.ArgumentTypeError(f"{text}: sizes start at 1MB")
    return size


def parse_arguments() -> argparse.Namespace:
    names = ", ".join(row.name for row in ROWS)
    parser = argparse.ArgumentParser(description="Measure ckpt beside yardsticks.", epilog=f"rows: {names}")
    parser.add_argument("--pairs", type=int, default=5, metavar="N", help="runs of each side (default 5)")
    parser.add_argument("--rows", default="*", metavar="GLOB", help="only the rows whose names match")
    parser.add_argument("--size", type=parse_size, default="4GB", help="of the large files (4GB)")
    parser.add_argument("--files", type=Path, default=HERE / "files", metavar="DIR", help="kept here")
    parser.add_argument("--command", metavar="WORDS", help="run this instead of the installed ckpt")
    parser.add_argument("--json", action="store_true", help="every run, as one JSON object")
    arguments = parser.parse_args()
    if arguments.pairs < 1:
        parser.error("--pairs must be at least 1")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    rows = [row for row in ROWS if fnmatchcase(row.name, arguments.rows)]
    results = []
    try:
        if not rows:
            raise files.SetupError(f"no row matches {arguments.rows!r}")
        programs = find_programs(arguments.command)
        for row in rows:
            results.append(measure_row(row, programs, arguments))
            print(progress(results[-1]), file=sys.stderr, flush=True)
    except files.SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(to_dict(results), ensure_ascii=False))
    else:
        print(format_environment(), format_markdown(results), sep="\n\n")
    return 2 if any(result.failure for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
