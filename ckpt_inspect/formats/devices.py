"""Every place of a file that holds a device (formats 4.5, 5.4): other names in them, nothing else changes."""

from __future__ import annotations

import re
from typing import Any

from ..containers.zip import ZipArchive
from ..errors import UnsupportedError
from ..model.checkpoint import Checkpoint
from ..model.devices import DeviceMap, looks_like_one
from ..model.graph import Dict, Opaque, Persistent, Pickle
from ..model.storage import Container
from ..pickles.limits import DEFAULT
from ..pickles.machine import read_pickle
from ..pickles.writer import write_pickle
from . import archive as archives
from . import drafts, torchscript_code
from .rebuild import is_storage
from .renames import fresh, with_pairs
from .rewrite import NewFile, archive_of, rewritten_zip

_BY_TEXT = ("_rebuild_device_tensor_from_cpu_tensor", "_rebuild_device_tensor_from_numpy", "_rebuild_xla_tensor")
_DEVICE = 2  # place of the device among their arguments
_WRAPPER_DEVICE = 6  # and among those of _rebuild_wrapper_subclass


def moved(checkpoint: Checkpoint, devices: DeviceMap) -> Checkpoint:
    """The checkpoint with other devices; of a sharded one each file by itself."""
    return drafts.with_each_file(checkpoint, lambda file: _moved(file, devices))


def _moved(file: Checkpoint, devices: DeviceMap) -> NewFile | None:
    container = file.containers[0]
    if container.format not in ("torch-zip", "torchscript"):
        if container.format == "torch-legacy":
            raise UnsupportedError("a shard of the legacy kind is not rewritten", path=container.path)
        return None
    changed, gone = changed_records(container, devices)
    return rewritten_zip(container, changed, "", gone) if changed else None


def changed_records(container: Container, devices: DeviceMap) -> tuple[dict[str, bytes], set[str]]:
    """The records of a zip archive in which a device is named, as they will be: pickles, and TorchScript code.

    The second part are records that are no longer true and go: where in the code a line of the author's was.
    """
    if container.format != "torchscript":
        data = _with_devices(container.graphs["data.pkl"], devices, False)
        return ({"data.pkl": data} if data is not None else {}), set()
    archive = archive_of(container)
    found: dict[str, bytes] = {}
    for name in archive.records:
        if "/" not in name and name.endswith(".pkl"):
            pickle = container.graphs.get(name) or _read(archive, name)
            data = _with_devices(pickle, devices, True)
            if data is not None:
                found[name] = data
    code = _code(archive, devices)
    gone = {f"{name}.debug_pkl" for name, text in code.items() if len(text) != archive.records[name].nbytes}
    return found | code, gone & archive.records.keys()


def _read(archive: ZipArchive, name: str) -> Pickle:
    return read_pickle(archives.content(archive.records[name], DEFAULT), 0)


def _with_devices(pickle: Pickle, devices: DeviceMap, script: bool) -> bytes | None:
    """The pickle with other devices, None if none changes."""
    texts = _Texts(devices)
    nodes: dict[int, Any] = {}
    for call in pickle.calls:
        new = _call(call, texts)
        if new is not None:
            nodes[id(call)] = new
    storages = [node for node in pickle.persistent if is_storage(node) and texts.new(_text(node.pid[3])) is not None]
    if not nodes and not storages:
        return None

    def pid_of(node: Persistent) -> Any:
        if not is_storage(node):
            return node.pid
        new = texts.instead(node.pid[3])
        return node.pid if new is None else (*node.pid[:3], new, *node.pid[4:])

    return write_pickle(pickle.root, pickle.protocol, nodes, pid_of, script)


def _text(node: Any) -> str | None:
    return node.decode("latin-1") if isinstance(node, bytes) else str(node) if isinstance(node, str) else None


class _Texts:
    """One new string for each old object: what shared a memo entry goes on sharing one."""

    def __init__(self, devices: DeviceMap) -> None:
        self.devices = devices
        self._made: dict[int, tuple[Any, str]] = {}

    def new(self, tag: str | None) -> str | None:
        return self.devices(tag) if tag is not None else None

    def instead(self, node: Any) -> str | None:
        new = self.new(_text(node))
        if new is None:
            return None
        if id(node) not in self._made:
            self._made[id(node)] = node, fresh(new)
        return self._made[id(node)][1]


def _call(call: Opaque, texts: _Texts) -> Opaque | None:
    name = call.qualname
    if name == "torch.device":
        return _device_object(call, texts)
    if name.endswith(".DeviceMesh"):
        return _mesh(call, texts)
    args = call.args
    if type(args) is not tuple:
        return None
    callee = name.rpartition(".")[2]
    if callee in _BY_TEXT and len(args) > _DEVICE:
        new = texts.instead(args[_DEVICE])
        return None if new is None else _with_args(call, (*args[:_DEVICE], new, *args[_DEVICE + 1 :]))
    if (
        callee == "_rebuild_from_type_v2"
        and len(args) > 2
        and type(args[2]) is tuple
        and len(args[2]) > _WRAPPER_DEVICE
    ):
        new = texts.instead(args[2][_WRAPPER_DEVICE])
        inner = (*args[2][:_WRAPPER_DEVICE], new, *args[2][_WRAPPER_DEVICE + 1 :])
        return None if new is None else _with_args(call, (*args[:2], inner, *args[3:]))
    return None


def _with_args(call: Opaque, args: Any) -> Opaque:
    copy = Opaque(call.how, call.callee, args, call.kwargs)
    copy.ops = call.ops
    return copy


def _device_object(call: Opaque, texts: _Texts) -> Opaque | None:
    """``torch.device('cuda', 0)``; in TorchScript, and where it was written so, ``torch.device('cuda:0')``."""
    args = call.args if type(call.args) is tuple else ()
    if not args or not isinstance(args[0], str) or len(args) > 2:
        return None
    apart = len(args) == 2 or ":" not in args[0]
    tag = f"{args[0]}:{args[1]}" if len(args) == 2 else str(args[0])
    new = texts.new(tag)
    if new is None:
        return None
    kind, _, index = new.partition(":")
    if len(args) == 1 and ":" not in args[0] and call.how == "REDUCE" and not index:
        return _with_args(call, (fresh(kind),))
    return _with_args(call, (fresh(kind), int(index)) if apart and index else (fresh(new),))


def _mesh(call: Opaque, texts: _Texts) -> Opaque | None:
    """A mesh of devices knows their kind alone, as text: ``cuda``."""
    ops: list[tuple[str, Any]] = []
    changed = False
    for op, payload in call.ops or ():
        if op == "BUILD" and type(payload) is Dict:
            pairs = []
            for key, value in payload.items():
                new = texts.new(_text(value)) if isinstance(key, str) and key == "_device_type" else None
                changed = changed or new is not None
                pairs += [key, value if new is None else fresh(new.partition(":")[0])]
            payload = with_pairs(payload, pairs)
        ops.append((op, payload))
    if not changed:
        return None
    copy = Opaque(call.how, call.callee, call.args, call.kwargs)
    copy.ops = ops
    return copy


# -- TorchScript code -------------------------------------------------------------------------------------------


_TO_CUDA = re.compile(torchscript_code.STRING.pattern + rb"|(?P<call>(?<![\w.])torch\.cuda)(?=\()", re.DOTALL)


def _code(archive: ZipArchive, devices: DeviceMap) -> dict[str, bytes]:
    """``torch.device("cuda:0")`` in ``code/``. What is shorter is filled with spaces after it, so that the offsets
    in ``.debug_pkl`` stay right; where it is longer, they go."""
    found: dict[str, bytes] = {}
    for name, record in archive.records.items():
        if not (name.startswith("code/") and name.endswith(".py")):
            continue
        source = archives.content(record, DEFAULT)
        text = source.read_at(0, source.size)
        new = _rewritten(name, text, devices)
        if new != text:
            found[name] = new
    return found


def _rewritten(name: str, text: bytes, devices: DeviceMap) -> bytes:
    parts: list[bytes] = []
    end = 0
    for _, literal, offset in torchscript_code.parse([(name, text)]).devices:
        new = devices(literal)
        if new is None:
            continue
        quote = text[offset : offset + 1]
        close = text.index(quote, offset + 1) + 1
        parts += [text[end:offset], (quote + new.encode() + quote).ljust(close - offset)]
        end = close
    text = b"".join([*parts, text[end:]])
    if devices.new("cuda") == "cpu":  # x.cuda() is an operator of its own
        text = _TO_CUDA.sub(lambda found: found[0] if found["call"] is None else b"torch.cpu ", text)
    return text


def named_in_text(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Plain values that read like a device: (name, text). They are the program's own, and are left alone."""
    return [
        (value.name, value.value)
        for value in checkpoint.values
        if isinstance(value.value, str) and looks_like_one(value.value) and value.type != "torch.device"
    ]
