"""Findings as SARIF 2.1.0, which code scanning services read (OASIS, sections 3.13 to 3.28)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

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


def document(scans: Iterable[Scan], version: str) -> dict[str, Any]:
    """One run over all files; what has no business is an error, what could not be read a warning, what is unknown a note."""
    rules = [
        {
            "id": f"ckpt/{kind}",
            "shortDescription": {"text": text},
            "defaultConfiguration": {"level": _LEVELS.get(kind, "error")},
        }
        for kind, text in _RULES.items()
    ]
    driver = {"name": "ckpt-inspect", "version": version, "rules": rules}
    results = [
        _result(scan, finding)
        for scan in scans
        for finding in [*scan.findings, *(Finding("unread", "", text, "", "", 0, 1) for text in scan.unread)]
    ]
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def _result(scan: Scan, finding: Finding) -> dict[str, Any]:
    place = f" in {finding.where}" if finding.where else ""
    location = {
        "physicalLocation": {"artifactLocation": {"uri": quote(scan.path.replace(os.sep, "/"), errors="replace")}},
        "logicalLocations": [{"fullyQualifiedName": finding.where or "file"}],
    }
    return {
        "ruleId": f"ckpt/{finding.kind}",
        "ruleIndex": list(_RULES).index(finding.kind),
        "level": "error" if finding.level == NO_BUSINESS else _LEVELS[finding.kind],
        "message": {"text": f"{finding.text}{place}"},
        "locations": [location],
        "properties": {"name": finding.name, "offset": finding.offset, "times": finding.times},
    }
