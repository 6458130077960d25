"""What was scanned as lines: the facts first, then the names, then what is promised and what is not."""

from __future__ import annotations

from collections.abc import Iterator

from ..formats.known_names import HARMLESS, UNKNOWN
from ..operations.scan import Finding, Scan
from . import weights_only
from .text import Line, escape, plural

LABEL = 14
_FEW = 12
_LABELS = {
    "call": "would call",
    "import": "would import",
    "patch": "would change",
    "archive": "archive",
    "unknown": "unknown",
}


def lines(found: Scan, all_of_it: bool = True) -> Iterator[Line]:
    """The report; without ``all_of_it`` long lists are cut and say how much is left."""
    format = found.format or "not a checkpoint"
    yield [(escape(found.path), "file"), (f"   {format} · {plural(len(found.streams), 'pickle')}", "")]
    bad = found.no_business
    for finding in bad if all_of_it or len(bad) <= _FEW else bad[: _FEW - 1]:
        yield _finding(finding)
    if not all_of_it and len(bad) > _FEW:
        yield [(" " * LABEL, ""), (f"… and {len(bad) - _FEW + 1:,} more", "dim")]
    yield from _names(found, UNKNOWN, "unknown", "their package must be there, and its code is run", all_of_it)
    yield from _names(found, HARMLESS, "known", "rebuild tensors and plain values", all_of_it)
    if found.weights_only is not None and found.streams:
        yield [_label("weights_only"), weights_only.said(found.weights_only, all_of_it)]
    yield from _texts("not read", found.unread, "bad", all_of_it)
    yield from _texts("note", found.notes, "", all_of_it)
    if bad:
        yield [
            _label(""),
            (
                f"{plural(len(bad), 'thing')} that {'has' if len(bad) == 1 else 'have'} no business in a checkpoint",
                "bad",
            ),
        ]
    elif found.unread:
        yield [_label(""), ("nothing found that has no business in a checkpoint where one could look", "bad")]
    elif found.streams:
        yield [
            _label(""),
            ("nothing found that has no business in a checkpoint; that is no promise that the file is safe", ""),
        ]
    else:
        yield [_label(""), ("no pickle in it: nothing that loading could run", "good")]


def _texts(label: str, texts: list[str], style: str, all_of_it: bool) -> Iterator[Line]:
    for text in texts if all_of_it else texts[:_FEW]:
        yield [_label(label), (escape(text), style)]
    if not all_of_it and len(texts) > _FEW:
        yield [_label(""), (f"… and {len(texts) - _FEW:,} more", "dim")]


def _label(text: str) -> tuple[str, str]:
    return text.ljust(LABEL - 1) + " ", "label"


def _finding(finding: Finding) -> Line:
    text = finding.text.removeprefix(_LABELS[finding.kind] + " ")
    line: Line = [_label(_LABELS[finding.kind]), (escape(text), "bad")]
    if finding.times > 1:
        line.append((f"   ×{finding.times:,}", ""))
    if finding.where:
        line.append((f"   in {escape(finding.where)}", "section"))
    return line


def _names(found: Scan, kind: str, label: str, meaning: str, all_of_it: bool) -> Iterator[Line]:
    names = sorted(
        ((n, name) for name, (known, n) in found.names.items() if known == kind), key=lambda row: (-row[0], row[1])
    )
    if not names:
        return
    shown = names if all_of_it or len(names) <= _FEW else names[: _FEW - 1]
    listed = ", ".join(f"{escape(name)}" + (f" ×{n:,}" if n > 1 else "") for n, name in shown)
    left = len(names) - len(shown)
    more = f" and {left:,} more" if left else ""
    yield [_label(label), (listed + more, "class"), (f"   {meaning}", "dim")]
