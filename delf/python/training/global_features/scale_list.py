"""Lists of scales, as text with arithmetic in it."""

import ast
import operator

from delf.python import errors

_ARITHMETIC = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
  ast.Pow: operator.pow,
  ast.USub: operator.neg,
}


def parse(text):
  """Reads a list of scales.

  Args:
    text: Such as "[1, 2**(1/2), 1/2**(1/2)]": numbers and arithmetic.

  Returns:
    tuple of float over 0.

  Raises:
    InputError: If it is something else.
  """
  try:
    node = ast.parse(text, mode="eval").body
    scales = tuple(_value(element) for element in node.elts)
    if scales and all(0 < scale < float("inf") for scale in scales):
      return scales
  except (AttributeError, ArithmeticError, SyntaxError, TypeError, ValueError):
    pass
  raise errors.InputError(
    "--multiscale as a list of scales over 0, such as [1, 1/2]", repr(text)
  )


def _value(node):
  """Returns the float of an expression; others raise TypeError or the like."""
  if isinstance(node, ast.BinOp):
    return _ARITHMETIC.get(type(node.op))(_value(node.left), _value(node.right))
  if isinstance(node, ast.UnaryOp):
    return _ARITHMETIC.get(type(node.op))(_value(node.operand))
  return float(node.value)
