"""What a file is that is no checkpoint, from its first bytes, and the way out."""

from __future__ import annotations

import os
import re
from html import unescape

from ..errors import CheckpointError, CorruptError, FormatError, UnsupportedError
from ..model.source import Source
from ..model.spelling import shell_path, shell_word

# first bytes -> what it is, what to type next
_MAGICS: tuple[tuple[bytes, str, str | None], ...] = (
    (b"GGUF", "a GGUF file (llama.cpp)", "Read it with the gguf package; it is no PyTorch format."),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture", None),
    (b"\xff\xd8\xff", "a JPEG picture", None),
    (b"GIF8", "a GIF picture", None),
    (b"%PDF", "a PDF document", None),
    (b"\x93NUMPY", "a numpy .npy array", "Open it with numpy.load."),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras, h5py)", "Open it with h5py."),
    (b"\x1f\x8b", "gzip-compressed", "Unpack it first: gunzip -c FILE > OUT"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it first: 7z x FILE"),
    (b"Rar!\x1a\x07", "a RAR archive", "Unpack it first: unrar x FILE"),
    (b"BZh", "bzip2-compressed", "Unpack it first: bunzip2 -k FILE"),
    (b"\xfd7zXZ\x00", "xz-compressed", "Unpack it first: unxz -k FILE"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", "Unpack it first: unzstd FILE"),
    (b"\x04\x22\x4d\x18", "lz4-compressed", "Unpack it first: unlz4 FILE"),
    (b"\x7fELF", "a compiled program or library (ELF)", None),
    (b"SQLite format 3\x00", "an SQLite database", None),
    (b"PAR1", "a Parquet file", None),
    (b"TFL3", "a TensorFlow Lite model", None),
    (b"PYTORCH1", "a preview format of PyTorch 1.0 that no released torch opens", None),
    (b"PK\x05\x06", "an empty zip archive", None),
)

_ONNX = re.compile(rb"\x08[\x01-\x14]\x12.{0,40}(?:pytorch|onnx|tf2onnx|skl2onnx|keras2onnx)", re.DOTALL)
_LFS = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\s+oid sha256:([0-9a-f]{8,64})\s+size (\d{1,20})\s*")


def explain(source: Source, head: bytes) -> CheckpointError:
    """The error for a file that no format claims; it says what the file is."""
    path = source.path
    if source.size == 0:
        return FormatError("the file is empty (0 bytes)", path=path, hint="Save, download or copy it again.")
    found = _lfs(path, head, source.size) or _page(path, head, source.size)
    if found is not None:
        return found
    if head[4:8] == b"PTMF":
        return UnsupportedError(
            "a mobile flatbuffer module (.ptl)",
            path=path,
            hint="Load it with torch.jit.load(path) and save it anew.",
        )
    for magic, what, hint in _MAGICS:
        if head.startswith(magic):
            return FormatError(f"{what}, not a checkpoint", path=path, hint=_filled(hint, path))
    if head[4:8] == b"TFL3":
        return FormatError("a TensorFlow Lite model, not a PyTorch checkpoint", path=path)
    if _ONNX.match(head):
        return UnsupportedError(
            "an ONNX model", path=path, hint="Open it with onnx.load; its weights are initializers."
        )
    if source.size >= 48 and source.read_at(source.size - 8, 8) == b"\x57\xfb\x80\x8b\x24\x75\x47\xdb":
        return UnsupportedError(
            "a TensorFlow checkpoint index",
            path=path,
            hint="List it with tf.train.list_variables on the path without .index.",
        )
    first_name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if first_name.endswith(b"/data.pkl"):  # a local header, but for its magic number
        return CorruptError(
            f"a torch archive whose first bytes are damaged: {head[:4].hex(' ')} where 50 4b 03 04 should be",
            path=path,
            offset=0,
            hint=f"What is whole: ckpt salvage {shell_path(path)} -o OUT",
        )
    before = head.find(b"PK\x03\x04")
    if before > 0 and b"/data.pkl" in head:
        return FormatError(
            f"a torch archive with {before:,} bytes in front of it: torch refuses it",
            path=path,
            hint=_filled(f"Cut them off: tail -c +{before + 1} FILE > OUT", path),
        )
    return FormatError(
        _unknown(head, source.size),
        path=path,
        hint="If it should be a checkpoint, download or copy it again.",
    )


def _filled(hint: str | None, path: str) -> str | None:
    """A command with the file's own name, to be pasted."""
    if hint is None:
        return None
    out = path.rpartition(".")[0] if path.endswith((".gz", ".bz2", ".xz", ".zst", ".lz4")) else path + ".unpacked"
    return re.sub(r"\bOUT\b", lambda _: shell_path(out), re.sub(r"\bFILE\b", lambda _: shell_path(path), hint))


def _lfs(path: str, head: bytes, size: int) -> FormatError | None:
    match = _LFS.match(head)
    if match is None:
        return None
    oid, real = match[1].decode(), int(match[2])
    return FormatError(
        f"a git-LFS pointer to {real:,} bytes (object {oid[:12]}…), not the file itself ({size} bytes)",
        path=path,
        hint=_lfs_pull(path),
    )


def _lfs_pull(path: str) -> str:
    """The command that fetches the file itself: with its path where it lies in a repository, else by its name."""
    folder, name = os.path.split(os.path.realpath(path))
    root = folder
    while not os.path.exists(os.path.join(root, ".git")):
        above = os.path.dirname(root)
        if above == root:
            return f"Fetch it, in the repository: git lfs pull --include={shell_word('*' + name)}"
        root = above
    inside = os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")
    here = os.path.join(os.path.realpath("."), "")
    there = "" if here.startswith(os.path.join(root, "")) else f" -C {shell_path(root)}"
    return f"Fetch it: git{there} lfs pull --include={shell_word(inside)}"


def _page(path: str, head: bytes, size: int) -> FormatError | None:
    start = head.lstrip()[:1024].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<!doctype", b"<body")) or b"<title" in start:
        found = re.search(rb"<title[^>]*>(.{0,200}?)</title", head, re.DOTALL | re.IGNORECASE)
        title = " ".join(unescape(found[1].decode("utf-8", "replace")).split()) if found else ""
        said = f" (title: {title})" if title else ""
        return FormatError(
            f"an HTML page{said}, {size:,} bytes, not a checkpoint: the download saved a web page",
            path=path,
            hint="Download it again with the link to the file itself; a login or a virus warning gives a page.",
        )
    if start.startswith(b"<?xml"):
        return FormatError(f"an XML document, {size:,} bytes, not a checkpoint: often a server's error message", path=path,
                           hint="Open it in a text editor: it says what the server refused.")  # fmt: skip
    return None


def _bytes(size: int) -> str:
    return f"{size:,} byte{'s' if size != 1 else ''}"


def _unknown(head: bytes, size: int) -> str:
    if head[:5] == b'{"' or head[:1] in (b"{", b"["):
        return f"a JSON document, {_bytes(size)}, not a checkpoint"
    if head and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head[:512]):
        first = head.split(b"\n")[0][:60].decode()
        return f"a text file, {_bytes(size)}, not a checkpoint; it begins with {first!r}"
    return f"not a checkpoint of any known format ({_bytes(size)}, it begins with {head[:8].hex(' ')})"
