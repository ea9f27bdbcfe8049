"""Shapes and dtypes of arrays are checked while tests run, as far as signatures state them.

`--jaxtyping-packages=emv3_jax,tests.type_checks.checked` (in pyproject.toml) gives each function of
the package to `checked`.
"""

import inspect
import typing

from beartype import BeartypeConf, BeartypeHintOverrides, beartype
from jaxtyping import AbstractArray
import numpy as np

# As static checkers have it, an int passes as a float; so do numpy's numbers.
_beartype = beartype(conf=BeartypeConf(hint_overrides=BeartypeHintOverrides({
    int: int | np.integer, float: float | int | np.floating | np.integer})))


def checked(function):
  """`function` with its arguments and result checked, where an array's shape is among them."""
  return _beartype(function) if any(map(_states_shape, function.__annotations__.values())) else function


def _states_shape(annotation) -> bool:
  if inspect.isclass(annotation) and issubclass(annotation, AbstractArray):
    return True
  return any(map(_states_shape, typing.get_args(annotation)))
