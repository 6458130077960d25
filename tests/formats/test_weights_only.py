"""The table and the verdict of ``weights_only``, against the torch that is installed."""

from __future__ import annotations

import csv
import datetime
import re
import tempfile
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ckpt_inspect as ci
from ckpt_inspect.formats.weights_only import ALLOWED, TORCH
from tests.zoo import files

REAL = Path(__file__).parents[2].parent / "shared" / "real"
the_same_torch = pytest.mark.skipif(
    not torch.__version__.startswith(TORCH.rpartition(".")[0] + "."), reason=f"the table is of torch {TORCH}"
)


def verdict(path: Path) -> tuple[bool, list[str]]:
    found = ci.info(ci.open(str(path))).weights_only
    assert found.ok is not bool(found.blocked)
    return found.ok, found.blocked


def damaged(path: Path) -> bool:
    """A file with problems is never called fit, though torch may load it: it checks less."""
    return bool(ci.open(str(path)).problems)


def torch_loads(path: Path) -> tuple[bool, str]:
    """Whether torch does, with nothing allowed but its own table, and what it says."""
    with warnings.catch_warnings(), mock.patch("torch._weights_only_unpickler._marked_safe_globals_set", set()):
        warnings.simplefilter("ignore")
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            return False, str(error)
    return True, ""


@the_same_torch
def test_the_table_is_torchs() -> None:
    from torch._weights_only_unpickler import _get_allowed_globals

    assert frozenset(_get_allowed_globals()) == ALLOWED


@the_same_torch
@pytest.mark.parametrize("name", files.names(files.ZIP, files.LEGACY, odd=True))
def test_verdict_on_the_zoo(name: str, tmp_path: Path) -> None:
    path = files.FILES[name](tmp_path)
    ok, blocked = verdict(path)
    loads, complaint = torch_loads(path)
    assert ok is (loads and not damaged(path)), (blocked, complaint)


LEAVES = st.one_of(
    st.sampled_from(
        [None, True, 1.5, 2**40, 2**3000, "text", b"bytes", "\ud800", torch.float16, torch.device("cuda", 1)]
    ),
    st.sampled_from([torch.Size([2]), torch.strided, ..., slice(1), range(3), OrderedDict, torch.nn.Linear, len]),
    st.sampled_from(
        [datetime.date(2024, 1, 2), Path("a"), np.float32(1), np.arange(3), Fraction(1, 3), re.compile("a")]
    ),
    st.sampled_from(
        [bytearray(b"a"), complex(1, 2), {1, 2}, frozenset([1]), torch.ones(2), torch.nn.Parameter(torch.ones(1))]
    ),
    st.sampled_from(
        [
            torch.ones(2).untyped_storage(),
            torch.Generator().get_state(),
            torch.tensor(1j).conj(),
            torch.eye(2).to_sparse(),
        ]
    ),
)


@the_same_torch
@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        LEAVES,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.tuples(inner),
            st.dictionaries(st.sampled_from(["a", 1, (1, 2), None, 1.5]), inner, max_size=3),
            st.dictionaries(st.sampled_from("ab"), inner).map(OrderedDict),
            st.dictionaries(st.sampled_from("ab"), st.integers()).map(Counter),
            st.dictionaries(st.sampled_from("ab"), inner).map(lambda found: defaultdict(None, found)),
            st.lists(inner, max_size=2).map(deque),
        ),
        max_leaves=4,
    ),
    st.sampled_from([2, 2, 2, 2, 1, 3, 4, 5]),
    st.booleans(),
)
def test_verdict_on_what_people_put_in(value: Any, protocol: int, modern: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "some.pt")
        torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=modern)
        ok, blocked = verdict(path)
        loads, complaint = torch_loads(path)
        assert ok is loads, (blocked, complaint)


def manifest() -> list[dict[str, Any]]:
    try:
        with (REAL / "manifest.tsv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except FileNotFoundError:
        return []
    return [row for row in rows if row["kind"] in ("legacy pickle", "torch zip")]


@pytest.mark.skipif(not REAL.exists(), reason="the real files are not here")
@pytest.mark.parametrize("row", manifest(), ids=lambda row: row["local_path"])
def test_verdict_on_real_files(row: dict[str, Any]) -> None:
    """What torch 2.13 said is in the manifest; nothing is loaded here, for some of these are exploits."""
    ok, blocked = verdict(REAL / row["local_path"])
    assert ok is (row["weights_only_ok"] == "yes"), (blocked, row["weights_only_error"])
