"""Shapes and dtypes of arrays are checked while tests run, as far as signatures state them.

`--jaxtyping-packages=emv3_jax,tests.type_checks.checked` (in pyproject.toml) gives each function of
the package to `checked`.
"""

import inspect
import typing

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray

# An int passes as a float, as it does for static checkers.
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function):
  """`function` with its arguments and result checked, where an array's shape is among them."""
  return _beartype(function) if any(map(_states_shape, function.__annotations__.values())) else function


def _states_shape(annotation) -> bool:
  if inspect.isclass(annotation) and issubclass(annotation, AbstractArray):
    return True
  return any(map(_states_shape, typing.get_args(annotation)))
