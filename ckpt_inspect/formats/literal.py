"""An inert value as text that a person can read: containers indented, unknown objects as class and fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..model.graph import Dict, Opaque, Persistent, Set
from . import objects, values

_DEEPEST = 12
_LINES = 2000
_ITEMS = 200

Tensor = Callable[[Any], str | None]


def literal(node: Any, tensor: Tensor, all_of_it: bool = False) -> Iterator[str]:
    """Lines of Python-like text.

    Args:
        node: any value of the inert graph.
        tensor: gives the text of a node that is a tensor, None for any other.
        all_of_it: more than 2,000 lines, and more than 200 items of one container.
    """
    for index, line in enumerate(_lines(node, tensor, "", "", 0, (), _ITEMS if not all_of_it else 1 << 40)):
        if index >= _LINES and not all_of_it:
            yield "…"
            return
        yield line


def _lines(
    node: Any, tensor: Tensor, indent: str, before: str, depth: int, above: tuple[int, ...], most: int
) -> Iterator[str]:
    text = _short(node, tensor)
    if text is not None:
        yield f"{indent}{before}{text}"
        return
    if id(node) in above or depth >= _DEEPEST:
        yield f"{indent}{before}…"
        return
    opening, inside, closing = _inside(node)
    if not inside:
        yield f"{indent}{before}{opening}{closing}"
        return
    yield f"{indent}{before}{opening}"
    for label, child in inside[:most]:
        yield from _lines(child, tensor, indent + "  ", label, depth + 1, (*above, id(node)), most)
    if len(inside) > most:
        yield f"{indent}  … {len(inside) - most:,} more"
    yield f"{indent}{closing}"


def _short(node: Any, tensor: Tensor) -> str | None:
    """A value that takes one line; None: it is to be entered."""
    if type(node) in (Opaque, Persistent):
        found = tensor(node)
        if found is not None:
            return found
    if type(node) is Opaque:
        known = values.known(node)
        return known.text if known is not None else None
    return values.leaf(node).text if values.is_leaf(node) and type(node) is not Set else None


def _inside(node: Any) -> tuple[str, list[tuple[str, Any]], str]:
    """Opening text, labelled children, closing text."""
    if type(node) is Dict:
        return "{", [(f"{_key(key)}: ", value) for key, value in node.items()], "}"
    if type(node) in (list, tuple):
        opening, closing = ("[", "]") if type(node) is list else ("(", ")")
        return opening, [("", item) for item in node], closing
    if type(node) is Set:
        return "{", [("", item) for item in node.members], "}"
    if type(node) is Opaque:
        return _object(node)
    return f"<{type(node).__name__.lower()}>", [], ""


def _object(node: Opaque) -> tuple[str, list[tuple[str, Any]], str]:
    name = values.leaf_of_unknown(node).text.strip("<>")
    if objects.is_mapping(node):
        return f"{name}({{", [(f"{_key(key)}: ", value) for key, value in objects.mapping_items(node)], "})"
    inside: list[tuple[str, Any]] = []
    if type(node.args) is tuple:
        inside += [("", argument) for argument in node.args]
    elif node.args is not None:
        inside.append(("", node.args))
    inside += [("", item) for item in node.joined("APPENDS")]
    fields = objects.fields(node)
    inside += [(f"{field} = ", value) for field, value in fields.items()]
    if not fields:
        inside += [("state = ", state) for state in node.states]
    return f"{name}(", inside, ")"


def _key(key: Any) -> str:
    return values.leaf(key).text
