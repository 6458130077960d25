"""TorchScript archives: ``data.pkl`` holds the objects, ``code/`` says what they are (formats 5).

Keys are those of ``torch.jit.load(path).state_dict()``: parameters and buffers are the ones that the code
lists, non-persistent buffers among them. Tensors that are plain attributes or constants of the code are
shown too, marked as not persistent.
"""

from __future__ import annotations

from typing import Any

from ..containers.zip import ZipArchive
from ..errors import CorruptError, LimitError
from ..model.checkpoint import Checkpoint
from ..model.graph import Dict, Global, Opaque, Persistent, Pickle
from ..model.problem import Problem
from ..model.section import ModuleInfo, Section, Value
from ..model.source import Source
from ..model.storage import Container
from ..model.tensor import TensorInfo
from ..pickles.limits import Limits
from . import archive as archives
from . import torchscript_code as code_records
from . import values
from .finish import finish
from .rebuild import Malformed, Rebuilder, Storages
from .sections import walk_budget

NAME = "torchscript"


def read(source: Source, archive: ZipArchive, limits: Limits) -> Checkpoint:
    checkpoint = Checkpoint(source.path, NAME, source.size)
    container = archives.open_container(source, archive, NAME, checkpoint)
    if "data.pkl" not in archive.records:
        raise CorruptError("a TorchScript archive without data.pkl", path=source.path)
    data = archives.pickle_record(archive, container, "data.pkl", checkpoint.problems, limits)
    code = _code(archive, checkpoint, limits)
    section = _Reader(checkpoint, container, "data/", code, limits).module(data)
    if "constants.pkl" in archive.records and not archive.truncated:
        constants = archives.pickle_record(archive, container, "constants.pkl", checkpoint.problems, limits)
        _Reader(checkpoint, container, "constants/", code, limits).constants(constants, section)
    checkpoint.sections[""] = section
    _facts(checkpoint, archive, code)
    return finish(checkpoint)


def _code(archive: ZipArchive, checkpoint: Checkpoint, limits: Limits) -> code_records.Code:
    texts = []
    for name, record in archive.records.items():
        if name.startswith("code/") and name.endswith(".py") and not archive.truncated:
            source = archives.content(record, limits)
            texts.append((name, source.read_at(0, source.size)))
    code = code_records.parse(texts)
    checkpoint.problems += [Problem(f"record {p.record}: {p.message}", p.record) for p in code.problems]
    return code


def _facts(checkpoint: Checkpoint, archive: ZipArchive, code: code_records.Code) -> None:
    mobile = "bytecode.pkl" in archive.records
    checkpoint.facts["writer"] = "torch.jit for the mobile interpreter" if mobile else "torch.jit.save"
    for name in (".data/version", "version"):
        text = archives.small(archive, name) if not archive.truncated else None
        if text:
            checkpoint.facts["version"] = text[:40]
            break
    devices = dict.fromkeys(device for _, device, _ in code.devices)
    if devices:
        checkpoint.facts["devices in code"] = ", ".join(devices)
    extra = [name for name in archive.records if name.startswith("extra/")]
    if extra:
        checkpoint.facts["extra files"] = ", ".join(name.removeprefix("extra/") for name in extra[:8])


class _Reader:
    """Walks the objects of one pickle of the archive."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        container: Container,
        prefix: str,
        code: code_records.Code,
        limits: Limits,
    ) -> None:
        self.checkpoint = checkpoint
        self.code = code
        self.limits = limits
        storages = Storages(container.records, prefix, "little", checkpoint.problems)
        self.rebuilder = Rebuilder(storages, container.path)
        self.budget = 0

    def tensor(self, node: Any, name: str) -> TensorInfo | None:
        if type(node) not in (Opaque, Persistent):
            return None
        try:
            return self.rebuilder.decode(node)
        except Malformed as error:
            self.checkpoint.problems.append(Problem(f"{name}: {error}", names=(name,)))
            return None

    def spend(self, key: str = "", node: Any = None, length: int = 0) -> None:
        self.budget -= 1 + (len(key) >> 4) + values.length(node) + length
        if self.budget < 0:
            raise LimitError("shared objects expand without end: refused", record="data.pkl", path=self.checkpoint.path)

    def module(self, pickle: Pickle) -> Section:
        """The tree of modules below the root of ``data.pkl``."""
        self.budget = walk_budget(pickle)
        root = pickle.root
        section = Section("", "module", _class_name(root), root)
        waiting: list[tuple[str, Any, Any, int]] = [("", root, None, 0)]
        attributes: list[tuple[str, dict[str, Any], frozenset[str]]] = []
        while waiting:
            path, node, chain, depth = waiting.pop()
            self.spend(path)
            if depth > self.limits.depth:
                raise LimitError(
                    f"modules nested more than {self.limits.depth} deep: refused", path=self.checkpoint.path
                )
            fields = _fields(node)
            declared = self.code.classes.get(_qualname(node))
            section.modules[path] = _info(node, declared, fields)
            prefix = path + "." if path else ""
            registered = self._registered(section, prefix, fields, declared)
            below = []
            for name, value in fields.items():
                if name not in registered and self._is_module(value) and not _in_chain(value, chain):
                    below.append((prefix + name, value, (node, chain), depth + 1))
                    registered.add(name)
            waiting.extend(reversed(below))
            attributes.append((prefix, fields, frozenset(registered)))
        for prefix, fields, done in attributes:
            self._attributes(section, prefix, fields, done)
        return section

    def _registered(
        self, section: Section, prefix: str, fields: dict[str, Any], declared: code_records.ScriptClass | None
    ) -> set[str]:
        """Parameters, then buffers, in the order of the attributes."""
        done: set[str] = set()
        if declared is None:
            return done
        for role, names in (
            ("parameter", frozenset(declared.parameters)),
            ("buffer", frozenset(declared.buffers)),
        ):
            for name in fields:
                if name in names:
                    info = self.tensor(fields[name], prefix + name)
                    if info is not None:
                        key = prefix + name
                        section.tensors[key] = info._replace(key=key, role=role, role_from="recorded")
                        done.add(name)
        return done

    def _is_module(self, node: Any) -> bool:
        if type(node) is not Opaque or node.how != "NEWOBJ":
            return False
        declared = self.code.classes.get(_qualname(node))
        return declared is not None and declared.kind == "Module"

    def _attributes(self, section: Section, prefix: str, fields: dict[str, Any], done: frozenset[str]) -> None:
        for name, value in fields.items():
            if name in done:
                continue
            where = prefix + name
            self._tensors_below(section, value, where)
            if values.is_leaf(value) and where not in section.tensors and not name.startswith("_"):
                leaf = values.leaf(value)
                self.checkpoint.values.append(Value(section.name_of(where), leaf.type, leaf.value, leaf.text, value))

    def _tensors_below(self, section: Section, node: Any, where: str) -> None:
        """Tensors inside an attribute: ``cache.0`` for a list of them; packed parameters of quantized layers."""
        waiting: list[tuple[Any, str, int]] = [(node, where, 0)]
        seen: set[int] = set()
        while waiting:
            value, key, depth = waiting.pop()
            self.spend(key, value)
            info = self.tensor(value, key)
            if info is not None:
                section.tensors.setdefault(key, info.outside_state_dict(key))
            elif id(value) not in seen and depth < self.limits.depth:
                seen.add(id(value))
                inside = _inside(value)
                self.spend(length=_states_length(value))
                waiting.extend((child, f"{key}.{name}", depth + 1) for name, child in reversed(inside))

    def constants(self, pickle: Pickle, section: Section) -> None:
        """Tensors that the code calls ``CONSTANTS.cN``; freezing moves parameters there."""
        for index, node in enumerate(pickle.root if type(pickle.root) in (tuple, list) else ()):
            key = f"CONSTANTS.c{index}"
            info = self.tensor(node, key)
            if info is not None:
                section.tensors.setdefault(key, info._replace(key=key, persistent=False))


def _in_chain(node: Any, chain: Any) -> bool:
    while chain is not None:
        if chain[0] is node:
            return True
        chain = chain[1]
    return False


def _qualname(node: Any) -> str:
    return f"{node.callee.module}.{node.callee.name}" if type(node) is Opaque and type(node.callee) is Global else ""


def _class_name(node: Any) -> str | None:
    return code_records.original_name(_qualname(node)) or None


def _fields(node: Any) -> dict[str, Any]:
    """All attributes of an object: the dict that BUILD gives it, or under ``state`` what __getstate__ returned."""
    if type(node) is not Opaque:
        return {}
    found: dict[str, Any] = {}
    for state in node.states:
        if type(state) is Dict:
            found.update((str(key), value) for key, value in state.items() if isinstance(key, str))
        elif state is not None:
            found["<state>"] = state
    return found


def _states_length(node: Any) -> int:
    """How long an object is to go through: of equal keys one is left, and all are looked at."""
    return sum(len(state.pairs) // 2 for state in node.states if type(state) is Dict) if type(node) is Opaque else 0


def _inside(node: Any) -> list[tuple[str, Any]]:
    if type(node) is Opaque:
        args = node.args if type(node.args) is tuple else ()
        # build_tensorlist([…]), restore_type_tag(…, 'Dict[str, Tensor]') and the like hold their content there
        first = args[0] if args else None
        return [*([("0", first)] if type(first) is Opaque else _items(first)), *_fields(node).items()]
    return _items(node)


def _items(node: Any) -> list[tuple[str, Any]]:
    if type(node) in (list, tuple):
        return [(str(index), value) for index, value in enumerate(node)]
    if type(node) is Dict:
        return [(str(key) if isinstance(key, (str, int)) else "<key>", value) for key, value in node.items()]
    return []


def _info(node: Any, declared: code_records.ScriptClass | None, fields: dict[str, Any]) -> ModuleInfo:
    training = fields.get("training")
    args = code_records.layer_args(declared) if declared is not None else ""
    return ModuleInfo(_class_name(node) or "?", args, training if type(training) is bool else None)
