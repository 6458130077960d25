"""Coverage-guided fuzzing: ``python -m tests.hostile.coverage_guided [-max_total_time=600] [CORPUS]``.

Needs the extra ``fuzz`` (atheris); not part of the tests. Starts from the seeds of :mod:`.fuzz`, and drives the same
steps, those without torch. What fails is written to a file by libFuzzer, with a traceback.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["ckpt_inspect"]):
        from . import fuzz
        from .sandbox import import_everything
        from .seeds import SEEDS, make_seeds
        from .steps import BARE, Given

        import_everything()
    folder = Path(tempfile.mkdtemp(prefix="ckpt-guided-"))
    seeds = folder / "seeds"
    seeds.mkdir()
    make_seeds(seeds)
    path, seed, scratch = folder / "input", seeds / SEEDS[0], folder / "scratch"
    scratch.mkdir()
    turn = 0

    def one(data: bytes) -> None:
        nonlocal turn
        turn += 1
        path.write_bytes(data)
        given = Given(str(path), str(seed), str(scratch), turn * 64)
        for _ in fuzz.drive(given, (BARE[turn % len(BARE)],)):
            pass

    arguments = [sys.argv[0], *sys.argv[1:], str(seeds)]
    os.chdir(folder)
    atheris.Setup(arguments, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
