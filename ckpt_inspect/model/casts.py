"""Which tensor is to have which dtype (design 4, dtype casts), and what was lost on the way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import translate

from ..dtypes import BY_NAME
from ..errors import SelectionError
from .checkpoint import Checkpoint, may_be_weights
from .section import Section

TARGETS = (
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
)  # fmt: skip
_ALIASES = {
    "double": "float64", "fp64": "float64", "float": "float32", "fp32": "float32", "half": "float16", "fp16": "float16",
    "bf16": "bfloat16", "float8": "float8_e4m3fn", "fp8": "float8_e4m3fn",
}  # fmt: skip
SOURCES = frozenset([*TARGETS, "float8_e8m0fnu"])


def known(name: str) -> str:
    """A dtype that tensors can be cast to, by torch's name or a usual short one.

    Raises:
        SelectionError: there is none of this name; those that are are named.
    """
    plain = name.removeprefix("torch.")
    plain = _ALIASES.get(plain, plain)
    if plain in TARGETS:
        return plain
    close = get_close_matches(plain, [*TARGETS, *_ALIASES], n=1)
    meant = f"Did you mean {close[0]}? " if close else ""
    raise SelectionError(f"{name!r} is no dtype to cast to", hint=f"{meant}Known: {', '.join(TARGETS)}.")


class DtypeMap:
    """The dtype that each tensor is to have.

    Args:
        asked: ``DTYPE`` for all floating tensors of weight sections, ``GLOB=DTYPE`` for those whose key or name
            matches. An optimizer is touched only by a pattern that begins with its section. The last that matches counts.
    """

    def __init__(self, asked: Sequence[str]) -> None:
        self.rules: list[tuple[str | None, re.Pattern[str] | None, str]] = []
        self.met: set[str] = set()
        for text in asked:
            glob, equals, name = text.rpartition("=")
            pattern = re.compile(translate(glob)) if equals else None
            self.rules.append((glob if equals else None, pattern, known(name)))

    def __call__(self, section: Section, key: str, weights: bool) -> str | None:
        """What a tensor is to become; None: it was not asked for.

        Args:
            weights: whether the section is one that a plain ``DTYPE`` is meant for.
        """
        name = section.name_of(key)
        if section.kind == "optimizer" and key.rpartition("/")[2] == "step":
            return None
        for glob, pattern, dtype in reversed(self.rules):
            if glob is None or pattern is None:
                if weights:
                    return dtype
                continue
            pointer = section.pointer
            addressed = bool(pointer) and (glob == pointer or (glob.startswith(pointer + "/") and pattern.match(name)))
            if addressed or (weights and (pattern.match(key) or pattern.match(name))):
                self.met.add(glob)
                return dtype
        return None

    def unmet(self) -> list[str]:
        """Patterns that matched nothing."""
        return [glob for glob, _, _ in self.rules if glob is not None and glob not in self.met]


def weight_sections(checkpoint: Checkpoint) -> set[str]:
    """Pointers of the sections that hold weights; of a file without any, those that hold tensors at all."""
    found = {
        pointer for pointer, section in checkpoint.sections.items()
        if section.kind in ("state_dict", "module") and may_be_weights(pointer)
    }  # fmt: skip
    others = {
        p for p, section in checkpoint.sections.items() if section.kind in ("tensor", "other") and may_be_weights(p)
    }
    return found or others


class Losses:
    """What casting lost, counted while it was done.

    Attributes:
        overflowed: tensor -> finite values that became infinite or NaN.
        underflowed: tensor -> values that became zero.
        largest: the largest absolute error of a value that stayed finite, and the tensor it is in.
        refuse: whether an overflow is an error.
    """

    def __init__(self, refuse: bool = False) -> None:
        self.overflowed: dict[str, int] = {}
        self.underflowed: dict[str, int] = {}
        self.largest: tuple[float, str] = (0.0, "")
        self.refuse = refuse


def is_lossless(old: str, new: str) -> bool:
    """Whether every value of ``old`` has an equal one in ``new``."""
    wider = {
        "float32": {"float64"}, "float16": {"float32", "float64"}, "bfloat16": {"float32", "float64"},
        "float8_e8m0fnu": {"float32", "float64", "bfloat16"},
    }  # fmt: skip
    eights = {"float16", "bfloat16", "float32", "float64"} if old.startswith("float8") else set()
    return new in wider.get(old, eights)


def itemsize(name: str) -> int:
    return BY_NAME[name].itemsize
