"""One child process: its wall time, its CPU time and its peak memory.

Until its own program is loaded a child shares the memory of the process that started it, and the kernel
counts that into its peak: no peak reads lower than the harness's own (`own_peak`), which so imports little.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

CHUNK = 1 << 16
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
# What a container may set and a user's shell does not: each slows one side more than the other.
UNUSUAL = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")


class RunError(Exception):
    """The command failed: there is no time to report."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one child cost; `output` is the number of bytes it printed."""

    wall: float
    cpu: float
    peak: int
    output: int


def run(command: Sequence[str]) -> Run:
    """Run a command to its end, its stdout a pipe that is read and thrown away."""
    environment = {name: value for name, value in os.environ.items() if name not in UNUSUAL}
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        try:
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
        except OSError as error:
            raise RunError(f"{command[0]}: {error.strerror}") from error
        assert child.stdout is not None
        with child.stdout as pipe:
            output = sum(map(len, iter(lambda: os.read(pipe.fileno(), CHUNK), b"")))
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode not in ((0, 1) if "diff" in command else (0,)):  # 1: they differ
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise RunError(f"exit status {child.returncode}: {last or 'no message'}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * MAXRSS_UNIT, output)


def own_peak() -> int:
    """The peak memory of the harness, in bytes: the floor of every peak it reports."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT
