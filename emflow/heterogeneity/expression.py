"""Conditions over the columns of a table, read as a syntax tree of a few allowed kinds: nothing is executed."""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Mapping

import numpy as np

from emflow.step import EmflowError

Value = np.ndarray | float | str
_LONGEST = 2000

_COMPARE: dict[type[ast.cmpop], Callable[[Value, Value], Value]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], np.ufunc] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
}
_FUNCTIONS: dict[str, tuple[int, Callable[..., Value]]] = {
    "abs": (1, np.abs),
    "sqrt": (1, np.sqrt),
    "log": (1, np.log),
    "exp": (1, np.exp),
    "percentile": (2, lambda values, part: float(np.percentile(values, float(part)))),
}


def evaluate(text: str, columns: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
    """Rows that a condition holds for.

    Allowed are names of columns, numbers, quoted text, ``+ - * / **``, comparisons (also in a chain, and
    ``in (…)``), ``and``, ``or``, ``not``, parentheses, and abs, sqrt, log, exp and percentile(column, 0…100).

    Parameters
    ----------
    columns
        Arrays (rows,) of float64 or of text, by name.

    Returns
    -------
    Bool, (rows,).

    Raises
    ------
    EmflowError
        If the condition is anything else, names an unknown column, or is no condition.
    """
    if len(text) > _LONGEST:
        raise EmflowError(
            f"The condition is longer than {_LONGEST} characters; divide it into several selections."
        )
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise EmflowError(
            f'"{text}" is no condition; expected one such as "z1 > 0.5 and state == 2".'
        ) from None
    with np.errstate(all="ignore"):  # a division by 0 or log(-1) makes a comparison false
        found = _Reader(text, columns).read(tree.body)
    if not isinstance(found, np.ndarray) or found.dtype != bool or found.shape != (rows,):
        raise EmflowError(
            f'"{text}" gives no yes or no for each particle; compare something, such as "z1 > 0".'
        )
    return found


class _Reader:
    """Reads one syntax tree."""

    def __init__(self, text: str, columns: Mapping[str, np.ndarray]) -> None:
        self._text, self._columns = text, columns

    def read(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=bool()):
                raise self._refuse("True and False")
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Constant(value=str() as words):
                return words
            case ast.Name(id=name):
                return self._column(name)
            case ast.BoolOp(op=op, values=parts):
                join = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return functools.reduce(join, [self._truth(part) for part in parts])
            case ast.UnaryOp(op=ast.Not(), operand=part):
                return ~self._truth(part)
            case ast.UnaryOp(op=ast.USub(), operand=part):
                return -self._number(part)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return np.asarray(_ARITHMETIC[type(op)](self._number(left), self._number(right)))[()]
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self._compare(left, ops, others)
            case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if name in _FUNCTIONS:
                count, function = _FUNCTIONS[name]
                if len(given) != count:
                    raise EmflowError(f'"{self._text}": {name} takes {count} values, not {len(given)}.')
                return function(*(self._number(part) for part in given))
        raise self._refuse(ast.unparse(node))

    def _compare(self, left: ast.expr, ops: list[ast.cmpop], others: list[ast.expr]) -> np.ndarray:
        held: list[np.ndarray] = []
        before = left
        for op, other in zip(ops, others, strict=True):
            if isinstance(op, ast.In | ast.NotIn) and isinstance(other, ast.Tuple | ast.List):
                known = self.read(before)
                each = [self._equal(known, self.read(part)) for part in other.elts]
                within = functools.reduce(np.logical_or, each) if each else self._equal(known, known) & False
                held.append(within if isinstance(op, ast.In) else ~within)
            elif isinstance(op, ast.Eq | ast.NotEq):
                same = self._equal(self.read(before), self.read(other))
                held.append(same if isinstance(op, ast.Eq) else ~same)
            elif type(op) in _COMPARE:
                held.append(np.asarray(_COMPARE[type(op)](self._number(before), self._number(other))))
            else:
                raise self._refuse(ast.unparse(other))
            before = other
        return functools.reduce(np.logical_and, held)

    def _equal(self, left: Value, right: Value) -> np.ndarray:
        texts = [
            isinstance(v, str) or (isinstance(v, np.ndarray) and v.dtype == object) for v in (left, right)
        ]
        if texts[0] != texts[1]:
            raise EmflowError(f'"{self._text}": compares text with a number; put text into quotation marks.')
        return np.asarray(left == right)

    def _column(self, name: str) -> np.ndarray:
        if name not in self._columns:
            known = ", ".join(sorted(self._columns))
            raise EmflowError(f'"{self._text}": there is no column {name}; there are {known}.')
        return self._columns[name]

    def _number(self, node: ast.expr) -> np.ndarray | float:
        value = self.read(node)
        if isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype == object):
            raise EmflowError(f'"{self._text}": {ast.unparse(node)} is text; expected a number there.')
        return value

    def _truth(self, node: ast.expr) -> np.ndarray:
        value = self.read(node)
        if not isinstance(value, np.ndarray) or value.dtype != bool or not value.ndim:
            raise EmflowError(f'"{self._text}": {ast.unparse(node)} is no comparison; expected one there.')
        return value

    def _refuse(self, what: str) -> EmflowError:
        return EmflowError(
            f'"{self._text}": {what} is not allowed in a condition; use columns, numbers, comparisons, and, or, not.'
        )
