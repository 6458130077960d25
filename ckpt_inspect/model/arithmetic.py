"""Integer arithmetic in the braces of a rule: ``{n+1}``, ``{2*n-2}``, ``{(n+1)//2}``.

It is parsed and computed here, never run as Python.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Expression = int | str | tuple[str, "Expression", "Expression"]  # a number, a name, (operator, left, right)

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(r"\s*(?:([0-9]{1,18}(?![0-9]))|([A-Za-z_][A-Za-z0-9_]*)|(//|[-+*%()]))\s*")
_LONGEST = 100  # characters: bounds the depth of the parser
_LARGEST = 10**36


def parse(text: str) -> Expression:
    """The expression that ``text`` spells.

    Raises:
        ValueError: it spells none; the message says what is wrong.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"is longer than {_LONGEST} characters")
    tokens: list[str] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(
                "uses / where // is meant" if text[at] == "/" else f"has {text[at:]!r}, which is no arithmetic"
            )
        tokens.append(match[match.lastindex or 0])
        at = match.end()
    if not tokens:
        raise ValueError("is empty")
    parser = _Parser(tokens)
    found = parser.sum()
    if parser.tokens:
        raise ValueError(f"does not go on with {parser.tokens[-1]!r} there")
    return found


class _Parser:
    """Recursive descent; the tokens still to come are a stack."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens[::-1]

    def _accept(self, *wanted: str) -> str | None:
        return self.tokens.pop() if self.tokens and self.tokens[-1] in wanted else None

    def sum(self) -> Expression:
        left = self.product()
        while operator := self._accept("+", "-"):
            left = (operator, left, self.product())
        return left

    def product(self) -> Expression:
        left = self.factor()
        while operator := self._accept("*", "//", "%"):
            left = (operator, left, self.factor())
        return left

    def factor(self) -> Expression:
        if self._accept("-"):
            return ("-", 0, self.factor())
        if self._accept("("):
            inner = self.sum()
            if not self._accept(")"):
                raise ValueError("lacks a closing parenthesis")
            return inner
        token = self.tokens.pop() if self.tokens else ""
        if token.isdecimal():
            return int(token)
        if IDENTIFIER.fullmatch(token):
            return token
        raise ValueError(f"lacks a number or a name before {token!r}" if token else "ends too early")


def names(expression: Expression) -> set[str]:
    """The names in it."""
    if isinstance(expression, tuple):
        return names(expression[1]) | names(expression[2])
    return {expression} if isinstance(expression, str) else set()


def value(expression: Expression, numbers: Mapping[str, int]) -> int:
    """What it comes to.

    Raises:
        ArithmeticError: a division by zero, or a number beyond all reason.
    """
    if isinstance(expression, int):
        return expression
    if isinstance(expression, str):
        return numbers[expression]
    operator, left, right = expression[0], value(expression[1], numbers), value(expression[2], numbers)
    if operator == "+":
        found = left + right
    elif operator == "-":
        found = left - right
    elif operator == "*":
        found = left * right
    elif operator == "//":
        found = left // right
    else:
        found = left % right
    if abs(found) > _LARGEST:
        raise OverflowError("the number gets too large")
    return found


def linear(expression: Expression) -> tuple[str, int, int] | None:
    """``(name, a, b)`` where the expression is ``a*name + b`` with ``a`` not 0; None where it is nothing so simple."""
    found = _terms(expression)
    if found is None:
        return None
    terms, constant = found
    terms = {name: factor for name, factor in terms.items() if factor}
    if len(terms) != 1:
        return None
    ((name, factor),) = terms.items()
    return name, factor, constant


def _terms(expression: Expression) -> tuple[dict[str, int], int] | None:
    """Factors of the names, and the constant; None where it is no sum of such."""
    if isinstance(expression, int):
        return {}, expression
    if isinstance(expression, str):
        return {expression: 1}, 0
    operator, left, right = expression[0], _terms(expression[1]), _terms(expression[2])
    if left is None or right is None or operator in ("//", "%"):
        return None
    if operator == "*":
        if left[0] and right[0]:
            return None
        (terms, constant), by = (left, right[1]) if left[0] else (right, left[1])
        return {name: factor * by for name, factor in terms.items()}, constant * by
    sign = 1 if operator == "+" else -1
    terms = dict(left[0])
    for name, factor in right[0].items():
        terms[name] = terms.get(name, 0) + sign * factor
    return terms, left[1] + sign * right[1]


def solved(name: str, factor: int, constant: int) -> str:
    """``n`` out of ``v = factor*n + constant``, as the text of an expression in which ``v`` is called ``n`` too."""
    difference = shifted(name, -constant) if factor > 0 else f"{constant}-{name}"
    return difference if abs(factor) == 1 else f"({difference})//{abs(factor)}"


def shifted(text: str, by: int) -> str:
    """``text`` and a number: ``n``, ``n+1``, ``n-2``."""
    return f"{text}{by:+d}" if by else text
