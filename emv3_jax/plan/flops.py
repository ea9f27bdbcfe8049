"""Floating-point operations of a program: those of its matrix products and convolutions.

They are counted in the program as JAX traces it, where the length of every loop is known. A
compiler's report counts a loop's body once and omits kernels such as splash attention; programs to be
counted are therefore traced with plain attention.
"""

from collections.abc import Iterator
import math
from typing import Any

import jax
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def count(traced: jax.stages.Traced) -> int:
  """Counts the operations of one run; a multiplication and an addition are two.

  Raises:
    ValueError: there is a loop without a fixed length.
  """
  return _of_jaxpr(traced.jaxpr.jaxpr)


def _of_jaxpr(jaxpr: Jaxpr) -> int:
  return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(eqn: JaxprEqn) -> int:
  name = eqn.primitive.name
  if name == "dot_general":
    (contracted, _), _ = eqn.params["dimension_numbers"]
    lhs = _array(eqn.invars[0]).shape
    return 2 * _array(eqn.outvars[0]).size * math.prod(lhs[axis] for axis in contracted)
  if name == "conv_general_dilated":
    kernel, numbers = _array(eqn.invars[1]), eqn.params["dimension_numbers"]
    return 2 * _array(eqn.outvars[0]).size * (kernel.size // kernel.shape[numbers.rhs_spec[0]])
  inner = [_of_jaxpr(jaxpr) for jaxpr in _jaxprs_of(eqn)]
  if name == "while" and any(inner):
    raise ValueError("A loop of unknown length: its operations cannot be counted.")
  if name == "cond":
    return max(inner)
  return sum(inner) * (eqn.params["length"] if name == "scan" else 1)


def _array(variable: Any) -> ShapedArray:
  return variable.aval


def _jaxprs_of(eqn: JaxprEqn) -> Iterator[Jaxpr]:
  for value in eqn.params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, Jaxpr):
        yield item
