"""Convert between devices, dtypes and formats; take out a part, leave out entries, rename, in the same pass.

The format is that of the source, unless the suffix of OUT (.safetensors, or .pt for what is safetensors) or
--format says otherwise. Tensor bytes are copied (casts use torch); no GPU, and none of the model's code is needed.

Example: ckpt convert run.ckpt#model_state_dict --device cpu -o model.safetensors
"""

from __future__ import annotations

from typing import Annotated

import typer

from . import options, writing

Repeated = list[str]


def command(
    file: writing.File,
    section: options.Section = None,
    device: Annotated[
        Repeated,
        typer.Option("--device", metavar="[OLD=]NEW", help="cpu, cuda:1, mps, …; OLD=NEW for one. Repeatable."),
    ] = [],  # noqa: B006
    dtype: Annotated[
        Repeated,
        typer.Option(
            "--dtype",
            metavar="[GLOB=]DTYPE",
            help="bfloat16, float16, …: floating weights; GLOB=DTYPE for some. Repeatable.",
        ),
    ] = [],  # noqa: B006
    no_overflow: Annotated[
        bool, typer.Option("--no-overflow", help="Refuse a cast that makes a value infinite.")
    ] = False,
    format: Annotated[
        str | None, typer.Option("--format", help="torch-zip, torch-legacy (before torch 1.6), safetensors, sharded.")
    ] = None,
    max_shard_size: Annotated[
        str, typer.Option("--max-shard-size", metavar="SIZE", help="Bytes of tensors in a shard.")
    ] = "5GB",
    drop: Annotated[
        Repeated,
        typer.Option(
            "--drop",
            metavar="GLOB",
            help="Leave out sections and entries. Repeatable.",
            autocompletion=options.complete_key,
        ),
    ] = [],  # noqa: B006
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Tensors and plain data alone; a module becomes its state_dict.")
    ] = False,
    slim: Annotated[bool, typer.Option("--slim", help="A view no longer carries the whole storage.")] = False,
    from_numpy: Annotated[bool, typer.Option("--from-numpy", help="numpy arrays become tensors.")] = False,
    strip_prefix: Annotated[bool, typer.Option("--strip-prefix", help="Wrapper prefixes out of the keys.")] = False,
    rule: Annotated[
        Repeated, typer.Option("--rule", metavar="RULE", help="Rename: OLD -> NEW, as remap. Repeatable.")
    ] = [],  # noqa: B006
    untie: Annotated[
        bool, typer.Option("--untie", help="safetensors: a copy for each tied name, not a record of it.")
    ] = False,
    skip_unsupported: Annotated[
        bool, typer.Option("--skip-unsupported", help="Leave out what the format cannot hold.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare all written bytes with the source, in a second pass.")
    ] = False,
    out: writing.Out = None,
    in_place: writing.InPlace = False,
    dry_run: writing.DryRun = False,
    force: writing.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    from ..formats import open_checkpoint
    from ..operations.conversion import Asked
    from ..operations.convert import plan

    asked = Asked(
        format=format, device=tuple(device), dtype=tuple(dtype), no_overflow=no_overflow, weights_only=weights_only,
        slim=slim, from_numpy=from_numpy, drop=tuple(drop), strip_prefix=strip_prefix, rules=tuple(rule), untie=untie,
        skip_unsupported=skip_unsupported, max_shard_size=options.size_of(max_shard_size),
    )  # fmt: skip
    made = plan(open_checkpoint(file, section), asked, out)
    return writing.finish_conversion(made, out, in_place, dry_run, force, as_json, quiet, verify)
