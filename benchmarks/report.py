"""Measurements as a Markdown table or as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from measure import Run, own_peak
from rows import Row, Target, installed

PACKAGES = ("ckpt-inspect", "torch", "safetensors", "typer", "rich")
HEADER = ("job", "`ckpt`", "yardstick", "ratio (min–max)", "CPU", "peak memory", "target", "reached")
MB = 10**6


@dataclass(frozen=True, slots=True)
class Result:
    """A measured row: pairs of ours and the yardstick's, in the order they ran; or why there are none."""

    row: Row
    job: str
    pairs: Sequence[tuple[Run, Run]] = ()
    failure: str | None = None

    def median(self, side: int, field: str) -> float:
        return float(statistics.median(getattr(pair[side], field) for pair in self.pairs))

    def peak(self, side: int) -> float:
        """The highest peak of all runs, in megabytes."""
        return max(pair[side].peak for pair in self.pairs) / MB

    def ratios(self) -> list[float]:
        """Ours over the yardstick, pair by pair, sorted."""
        return sorted(ours.wall / yardstick.wall for ours, yardstick in self.pairs)

    def reached(self) -> bool | None:
        """Whether every bound of the target holds; None without a bound."""
        target = self.row.target
        measured = ((target.times, statistics.median(self.ratios())), (target.megabytes, self.peak(0)))
        held = [value <= bound for bound, value in measured if bound is not None]
        return all(held) if held else None


def environment() -> dict[str, str | int | None]:
    """What the figures depend on."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": platform.python_version(),
        **{package: installed(package) for package in PACKAGES},
        "system": platform.system(),
        "cpu": cpu_model(),
        "cores": usable,
    }


def cpu_model() -> str:
    """The processor's name as Linux tells it, else whatever the platform module knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def format_environment() -> str:
    return " · ".join(f"{name} {value or 'none'}" for name, value in environment().items())


def format_ratio(result: Result) -> str:
    ratios = result.ratios()
    return f"{statistics.median(ratios):.3f} ({ratios[0]:.3f}–{ratios[-1]:.3f})"


def format_target(target: Target) -> str:
    bounds = []
    if target.times is not None:
        bounds.append(f"≤ {target.times:.2f} ×")
    if target.megabytes is not None:
        bounds.append(f"≤ {target.megabytes:g} MB")
    return ", ".join(bounds) or "—"


def cells(result: Result) -> Iterable[str]:
    """One row of the table, a cell to each column of `HEADER`."""
    target = format_target(result.row.target)
    if result.failure is not None:
        return (result.job, "failed", *["—"] * 4, target, "not measured")
    return (
        result.job,
        f"{result.median(0, 'wall'):.3f} s",
        f"{result.median(1, 'wall'):.3f} s",
        format_ratio(result),
        f"{result.median(0, 'cpu'):.2f} / {result.median(1, 'cpu'):.2f} s",
        f"{result.peak(0):.0f} / {result.peak(1):.0f} MB",
        target,
        {True: "yes", False: "no", None: "—"}[result.reached()],
    )


def format_markdown(results: Iterable[Result]) -> str:
    """The table, as wide as its cells, so that it reads well at a terminal too."""
    table = [HEADER, *map(tuple, map(cells, results))]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, cells, widths)) + " |" for cells in table]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def to_dict(results: Iterable[Result]) -> dict[str, object]:
    """Every run of every row: times in seconds, memory and output in bytes."""
    return {
        "schema": "ckpt-inspect/benchmarks/1",
        "environment": environment(),
        "floor": own_peak(),
        "rows": [
            {
                **asdict(result.row),
                "job": result.job,
                "pairs": [{"ours": asdict(ours), "yardstick": asdict(other)} for ours, other in result.pairs],
                "ratio": statistics.median(result.ratios()) if result.pairs else None,
                "reached": result.reached() if result.pairs else None,
                "failure": result.failure,
            }
            for result in results
        ],
    }
