"""Findings as SARIF 2.1.0, which code scanning services read (OASIS, sections 3.13 to 3.28)."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

from ..errors import CheckpointError
from ..formats.known_names import NO_BUSINESS
from ..operations.scan import Finding, Scan

_RULES = {
    "call": "A pickle calls something that has no business in a checkpoint",
    "import": "A pickle imports something that has no business in a checkpoint",
    "patch": "A pickle changes a module or class",
    "archive": "Programs may see different contents in the archive",
    "unknown": "A pickle imports a class or function of a package that is not known",
    "unread": "Something in the file could not be looked into",
}
_LEVELS = {"unknown": "note", "unread": "warning"}
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def document(scans: list[Scan], errors: list[CheckpointError], version: str) -> dict[str, Any]:
    """One run over all files; what has no business is an error, what could not be read a warning, what is unknown a note.

    ``errors``: of files that could not be scanned at all. With one, or with anything unread, the run is no success.
    """
    rules = [
        {
            "id": f"ckpt/{kind}",
            "shortDescription": {"text": text},
            "defaultConfiguration": {"level": _LEVELS.get(kind, "error")},
        }
        for kind, text in _RULES.items()
    ]
    driver = {"name": "ckpt-inspect", "version": version, "rules": rules}
    unread = [(scan, text) for scan in scans for text in scan.unread]
    results = [_result(scan, finding) for scan in scans for finding in scan.findings]
    results += [_unread(scan, text) for scan, text in unread]
    notifications = [_notification("error", error.message, _file(error.path or "")) for error in errors]
    notifications += [_notification("warning", text, _file(scan.place(text)[0])) for scan, text in unread]
    invocation = {"executionSuccessful": not notifications, "toolExecutionNotifications": notifications}
    run = {"tool": {"driver": driver}, "invocations": [invocation], "results": results}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _result(scan: Scan, finding: Finding) -> dict[str, Any]:
    path, inside = scan.place(finding.where)
    place = f" in {finding.where}" if finding.where else ""
    level = "error" if finding.level == NO_BUSINESS else _LEVELS[finding.kind]
    return {
        **_ruled(finding.kind, level, f"{finding.text}{place}"),
        "locations": [{**_file(path), "logicalLocations": [{"fullyQualifiedName": inside or "file"}]}],
        "properties": {"name": finding.name, "offset": finding.offset, "times": finding.times},
    }


def _unread(scan: Scan, text: str) -> dict[str, Any]:
    return {**_ruled("unread", _LEVELS["unread"], text), "locations": [_file(scan.place(text)[0])]}


def _ruled(kind: str, level: str, text: str) -> dict[str, Any]:
    return {"ruleId": f"ckpt/{kind}", "ruleIndex": list(_RULES).index(kind), "level": level, "message": {"text": text}}


def _notification(level: str, text: str, location: dict[str, Any]) -> dict[str, Any]:
    return {"level": level, "message": {"text": text}, "locations": [location]}


def _file(path: str) -> dict[str, Any]:
    try:
        raw = os.fsencode(path.replace(os.sep, "/"))  # the bytes of the name, whether or not they are text
    except UnicodeEncodeError:  # a name in an index, of no file that there could be
        raw = path.encode("utf-8", "surrogatepass")
    return {"physicalLocation": {"artifactLocation": {"uri": quote(raw)}}}
