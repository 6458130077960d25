"""One checkpoint over several files, with an index: ``*.index.json`` of either kind (formats 11)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import CheckpointError, CorruptError, FormatError, LimitError
from ..model import pointer as pointers
from ..model.checkpoint import Checkpoint
from ..model.problem import Problem
from ..model.section import Section
from ..model.spelling import shell_path
from ..model.storage import Container
from ..pickles.limits import Limits
from .finish import finish

NAME = "sharded"


def read(index_path: str, shown_path: str, open_file: Any, limits: Limits, open_source: Any,
         beside: Iterable[str] = ()) -> Checkpoint:  # fmt: skip
    """Open the checkpoint that an index describes; ``open_file(path)`` opens one shard, ``open_source`` any file.

    ``beside``: the files of its directory, where that was opened: what an index that is no JSON said is read from them.

    Raises:
        CorruptError: the index is malformed, or names files outside its directory.
    """
    index, broken = _read_index(index_path, limits, open_source, open_file, beside)
    weight_map: dict[str, str] = index.graphs["index"]["weight_map"]
    folder = os.path.dirname(index_path)
    checkpoint = Checkpoint(shown_path, NAME, index.source.size)
    checkpoint.containers.append(index)
    checkpoint.facts.update(index.facts)
    if broken:
        checkpoint.problems.append(Problem(broken))
    section = Section("", "state_dict")
    shards: dict[str, set[str]] = {}
    for key, name in weight_map.items():
        shards.setdefault(name, set()).add(key)
    open_shard = _once(open_file)
    for name, wanted in shards.items():
        _add_shard(checkpoint, section, folder, name, wanted, weight_map, open_shard)
    ordered = {key: section.tensors[key] for key in weight_map if key in section.tensors}
    section.tensors = ordered  # the index has an order; safetensors shards have none
    checkpoint.sections[""] = section
    metadata = index.graphs["index"].get("metadata")
    if isinstance(metadata, dict):  # as a header has it: names that are only recorded stand there
        section.node = {"__metadata__": {key: text for key, text in metadata.items() if isinstance(text, str)}}
    for odd in _odd_size(metadata, checkpoint):
        checkpoint.facts["index oddities"] = odd
    checkpoint.facts["shards"] = f"{len(shards)}, listed in {os.path.basename(index_path)}"
    formats = dict.fromkeys(shard.format for shard in checkpoint.parts)
    checkpoint.facts["writer"] = f"{' and '.join(formats) or 'no'} shards"
    return finish(checkpoint)


def names(checkpoint: Checkpoint) -> set[str]:
    """The shards of a checkpoint by their names in the index, those that cannot be opened too."""
    indexes = (container.graphs.get("index") for container in checkpoint.containers)
    return {name for index in indexes if isinstance(index, dict) for name in index["weight_map"].values()}


def _odd_size(metadata: Any, checkpoint: Checkpoint) -> Iterator[str]:
    """Where ``total_size`` is not what the tensors have, ties counted or not; nobody reads it, so it is no damage."""
    said = metadata.get("total_size") if isinstance(metadata, dict) else None
    if not isinstance(said, (int, float)) or checkpoint.problems:
        return
    infos = [part for _, _, info in checkpoint.tensors() for part in info.components() if part.storage is not None]
    each = sum(info.nbytes for info in infos)
    once = sum({info.view_of: info.nbytes for info in infos}.values())
    stored = sum({s.id: s.nbytes for info in infos if (s := info.storage) is not None}.values())
    if said not in (each, once, stored):
        yield f"total_size says {f'{said:,}'[:40]} bytes, the tensors have {each:,}"


def shards(index_path: str, limits: Limits, open_source: Any) -> list[str]:
    """Names of the files that an index speaks of, relative to its directory.

    Raises:
        CheckpointError: it is no index, or names files outside its directory.
    """
    index, _ = _read_index(index_path, limits, open_source, None, ())
    return list(dict.fromkeys(index.graphs["index"]["weight_map"].values()))


def _once(open_file: Any) -> Any:
    """``open_file``, but for files that were opened before by another name: links make endless names of one file."""
    seen: set[tuple[int, int]] = set()

    def open_shard(path: str) -> Any:
        if os.path.exists(path):
            status = os.stat(path)
            identity = (status.st_dev, status.st_ino)
            if identity in seen:
                raise FormatError("the same file as another shard", path=path)
            seen.add(identity)
        return open_file(path)

    return open_shard


def _read_index(
    path: str, limits: Limits, open_source: Any, open_file: Any, beside: Iterable[str]
) -> tuple[Container, str]:
    """The index, and what is wrong with it, if the shards beside it tell what it said."""
    _, source, note = open_source(path)
    if source.size > limits.header:
        raise LimitError(f"an index of {source.size:,} bytes: refused", path=path)
    broken = ""
    try:
        data = json.loads(source.read_at(0, source.size))
    except (ValueError, RecursionError) as error:
        data = {"weight_map": _keys_of_shards(path, open_file, beside)}
        broken = f"the index is not JSON: {error}"
        if not data["weight_map"]:
            raise CorruptError(broken, path=path, hint="Copy or download it again.") from error
        broken += "; what is where was read from the shards in its directory"
    weight_map = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(weight_map, dict):
        raise FormatError("a JSON document without a weight_map: no index of shards", path=path)
    for key, name in weight_map.items():
        if not isinstance(name, str):
            raise CorruptError(f"weight_map gives {key[:80]!r} no file name", path=path)
        # names are confined lexically (design 4), and one file has one spelling
        if os.path.isabs(name) or "\\" in name or "\0" in name or not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise CorruptError(f"weight_map names a file outside its directory: {name[:80]!r}", path=path)
        if name.endswith(".json"):
            raise CorruptError(f"weight_map names an index as a shard: {name[:80]!r}", path=path)
    container = Container(path, "index", source)
    container.graphs["index"] = data
    if note:
        container.facts["edit in place"] = note
    return container, broken


def _keys_of_shards(path: str, open_file: Any, beside: Iterable[str]) -> dict[str, str]:
    """What the index at ``path`` would say, from the files that are called as its shards are."""
    folder, name = os.path.split(path)
    stem, extension = os.path.splitext(name.removesuffix(".index.json"))
    shard = re.compile(rf"{re.escape(stem)}-\d+-of-\d+{re.escape(extension)}")
    found: dict[str, str] = {}
    for file in sorted(filter(shard.fullmatch, beside)):
        try:
            with open_file(os.path.join(folder, file)) as opened:
                found |= {key: file for key in opened.sections[""].tensors if key not in found}
        except (CheckpointError, KeyError):
            continue  # it cannot be told what it held
    return found


def _add_shard(
    checkpoint: Checkpoint, section: Section, folder: str, name: str, wanted: set[str], placed: Mapping[str, str],
    open_file: Any,
) -> None:  # fmt: skip
    path = os.path.join(folder, name)
    try:
        shard: Checkpoint = open_file(path)
    except CheckpointError as error:
        if isinstance(error, FileNotFoundError):
            listed = ", ".join(sorted(wanted))
            text = f"shard {name[:255]} is missing: {len(wanted)} tensors ({listed})"
            hint = f"Download what is missing again, into {shell_path(folder or '.')}"
            checkpoint.problems.append(Problem(text, name, sorted(wanted), hint=hint))
        else:
            text = f"shard {name[:255]}: {error.message}"
            checkpoint.problems.append(Problem(text, name, sorted(wanted), hint=error.hint))
        return
    checkpoint.size += shard.size
    checkpoint.parts.append(shard)
    checkpoint.containers += shard.containers
    checkpoint.problems += [Problem.of(problem).in_shard(name) for problem in shard.problems]
    known = {value.name: value.value for value in checkpoint.values}
    for value in shard.values:
        if value.name not in known:
            checkpoint.values.append(value)
        elif known[value.name] != value.value:
            checkpoint.values.append(value._replace(name=pointers.concat(pointers.escape(name), value.name)))
    inside = shard.sections.get("")
    found = inside.tensors if inside is not None else {}
    storages: set[int] = set()
    for key, info in found.items():
        for storage in (info.storage, *(part.storage for part in info.parts)):
            if storage is not None and id(storage) not in storages:
                storages.add(id(storage))
                storage.id = f"{name}:{storage.id}"
        if key in section.tensors:
            checkpoint.problems.append(
                Problem(f"{key} is in two shards, {name} among them; the first counts", names=(key,))
            )
        elif key in wanted:
            section.tensors[key] = info.with_role(None, None) if info.role_from == "inferred" else info
        else:
            where = "does not place there" if key in placed else "does not name: it is there, and loading leaves it out"
            checkpoint.problems.append(Problem(f"shard {name} holds {key}, which the index {where}", names=(key,)))
    for key in sorted(wanted - found.keys())[:20]:
        text = f"{key} is not in shard {name}, where the index places it"
        checkpoint.problems.append(Problem(text, names=(key,)))
