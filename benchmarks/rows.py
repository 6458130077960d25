"""The table: what is measured, against what, and the figure to reach."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


def installed(package: str) -> str | None:
    """The version of a package, read from its metadata: importing it would cost memory."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class Target:
    """The most that may be taken: times the yardstick's time, megabytes at the peak. None: no bound."""

    times: float | None = None
    megabytes: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. Both commands are typed as in a shell, without a shell behind them.

    A first word `ckpt` is the installed command; `python` is this interpreter, its script in `yardsticks/`.
    In braces stands a file of `files.FILES`, or `{out}`: a path in a new folder, removed after the run.
    """

    name: str
    job: str
    ours: str
    yardstick: str
    target: Target = Target()


def typer_imports_pydantic() -> bool:
    """Whether Typer is 0.29 or later, which imports pydantic to run a command: 0.09 s that are not ours."""
    release = re.match(r"(\d+)\.(\d+)", installed("typer") or "")
    return release is not None and (int(release[1]), int(release[2])) >= (0, 29)


LOOK = Target(times=0.17 if typer_imports_pydantic() else 0.10, megabytes=45)
# The same command on a hundredth of the bytes: they must not show; a tenth is the noise of a shared machine.
FLAT = Target(times=1.10)

ROWS = (
    Row("tree", "`tree`, {size} `.pt`", "ckpt tree {pt}", "python list_torch.py {pt}", LOOK),
    Row("ls", "`ls`, {size} `.pt`", "ckpt ls {pt}", "python list_torch.py {pt}", LOOK),
    Row("info", "`info`, {size} `.pt`", "ckpt info {pt}", "python list_torch.py {pt}", LOOK),
    Row(
        "ls-json-many",
        "`ls --json`, `.pt` of 100,000 tensors",
        "ckpt ls --json {many}",
        "python list_json_torch.py {many}",
        Target(times=0.35),
    ),
    Row("ls-legacy", "`ls`, {size} legacy `.pt`", "ckpt ls {legacy}", "python list_torch.py {legacy}"),
    Row(
        "ls-safetensors",
        "`ls`, {size} `.safetensors`",
        "ckpt ls {safetensors}",
        "python list_safetensors.py {safetensors}",
    ),
    Row(
        "ls-sharded",
        "`ls`, {size} of safetensors in 4 shards",
        "ckpt ls {sharded}",
        "python list_safetensors.py {sharded}",
    ),
    Row("flat-pt", "`ls` `.pt`: {size} / {small}", "ckpt ls {pt}", "ckpt ls {pt_small}", FLAT),
    Row("flat-legacy", "`ls` legacy: {size} / {small}", "ckpt ls {legacy}", "ckpt ls {legacy_small}", FLAT),
    Row(
        "flat-safetensors",
        "`ls` `.safetensors`: {size} / {small}",
        "ckpt ls {safetensors}",
        "ckpt ls {safetensors_small}",
        FLAT,
    ),
    Row("flat-sharded", "`ls` shards: {size} / {small}", "ckpt ls {sharded}", "ckpt ls {sharded_small}", FLAT),
    Row(
        "rename",
        "`add-prefix -o`, {size} `.pt`",
        "ckpt add-prefix {pt} module -o {out}",
        "sh -c 'cp $0 $1 && sync $1' {pt} {out}",
        Target(times=1.15, megabytes=60),
    ),
    Row(
        "rename-safetensors",
        "`add-prefix -o`, {size} `.safetensors`",
        "ckpt add-prefix {safetensors} module -o {out}",
        "sh -c 'cp $0 $1 && sync $1' {safetensors} {out}",
        Target(times=1.15, megabytes=60),
    ),
    Row(
        "rename-many",
        "`add-prefix -o`, `.pt` of 100,000 tensors",
        "ckpt add-prefix {many} module -o {out}",
        "python rename_torch.py {many} {out}",
        Target(times=0.6),
    ),
    Row(
        "verify",
        "`verify`, {size} `.pt`",
        "ckpt verify {pt}",
        "python check_zip.py {pt}",
        Target(times=0.6, megabytes=80),
    ),
    Row(
        "to-safetensors",
        "`convert` to `.safetensors`, {size} `.pt`",
        "ckpt convert {pt} --format safetensors -o {out}",
        "sh -c 'cp $0 $1 && sync $1' {pt} {out}",
        Target(times=1.2, megabytes=80),
    ),
    Row(
        "from-safetensors",
        "`convert` to `.pt`, {size} `.safetensors`",
        "ckpt convert {safetensors} --format torch-zip -o {out}",
        "sh -c 'cp $0 $1 && sync $1' {safetensors} {out}",
        Target(times=1.2, megabytes=80),
    ),
    Row(
        "device",
        "`convert --device`, {size} `.pt`",
        "ckpt convert {pt} --device cuda:1 -o {out}",
        "sh -c 'cp $0 $1 && sync $1' {pt} {out}",
        Target(times=1.2, megabytes=80),
    ),
    Row(
        "section",
        "`convert FILE#SECTION`, {size} of weights in a training file",
        "ckpt convert {training}#model -o {out}",
        "sh -c 'cp $0 $1 && sync $1' {pt} {out}",
        Target(times=1.2, megabytes=80),
    ),
    # each run gives a file that is there for that one more prefix, so that there is something to write
    Row(
        "device-in-place",
        "`convert --device --in-place`: {size} / {small}",
        "ckpt convert {edited} --device cuda:1 --rule '** -> p.**' --in-place",
        "ckpt convert {edited_small} --device cuda:1 --rule '** -> p.**' --in-place",
        FLAT,
    ),
    Row(
        "bfloat16",
        "`convert --dtype bfloat16`, {size} `.pt`",
        "ckpt convert {pt} --dtype bfloat16 -o {out}",
        "python cast_torch.py {pt} {out}",
        Target(times=0.7, megabytes=700),
    ),
    # each run adds one more prefix to a file that is there for that
    Row(
        "in-place",
        "`add-prefix --in-place`: {size} / {small}",
        "ckpt add-prefix {edited} p --in-place",
        "ckpt add-prefix {edited_small} p --in-place",
        FLAT,
    ),
    # at most 0.35 s over what has to be imported, which takes about 2 s
    Row(
        "check",
        "`check` on meta, {size} `.pt`, against importing torch and the model",
        "ckpt check {pt} --model {yardsticks}/gpt.py:Gpt --args '[\"{pt}\"]'",
        "python import_model.py",
        Target(times=1.18),
    ),
    Row(
        "load-into",
        "`load_into` on the CPU, {size} `.pt`",
        "python load_into.py {pt}",
        "python assign_torch.py {pt}",
        Target(times=1.0),
    ),
    Row(
        "diff-equal",
        "`diff`, two equal {size} `.pt`, exact",
        "ckpt diff {pt} {pt_copy}",
        "cmp {pt} {pt_copy}",
        Target(times=0.5, megabytes=100),
    ),
    Row(
        "diff-changed",
        "`diff`, {size}, every value changed, all metrics",
        "ckpt diff {pt} {pt_other}",
        "python diff_torch.py {pt} {pt_other}",
        Target(times=0.6, megabytes=700),
    ),
    Row(
        "diff-quick",
        "`diff --quick`, two equal {size} `.pt`",
        "ckpt diff --quick {pt} {pt_copy}",
        "python load_only_torch.py {pt} {pt_copy}",
        Target(times=0.12),
    ),
    Row("stats", "`stats`, {size} `.pt`", "ckpt stats {pt}", "python stats_torch.py {pt}", Target(times=0.7)),
    Row("hash", "`hash`, {size} `.pt`", "ckpt hash {pt}", "sha256sum {pt}", Target(times=1.0, megabytes=100)),
)
