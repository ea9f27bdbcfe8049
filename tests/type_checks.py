"""Shapes and dtypes of arrays are checked while tests run, as far as signatures state them.

`--jaxtyping-packages=emv3_jax,tests.type_checks.checked` (in pyproject.toml) has jaxtyping decorate each
function and dataclass of the package. Most state no shape and stay as they are: decorated, nested
functions above all, they would cost a tenth of the tests' time.
"""

import functools
import inspect
import typing

from beartype import BeartypeConf, FrozenDict, beartype
import jaxtyping
import numpy as np

# As static checkers have it, an int passes as a float; so do numpy's numbers.
checked = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({
    int: int | np.integer, float: float | int | np.floating | np.integer})))
_decorate = jaxtyping.jaxtyped


def _where_stated(thing=None, *, typechecker):
  """`jaxtyping.jaxtyped`, which leaves what states no shape as it is."""
  if thing is None:
    return functools.partial(_where_stated, typechecker=typechecker)
  function = thing.__init__ if inspect.isclass(thing) else getattr(thing, "fget", thing)
  function = getattr(function, "__func__", function)
  hints = getattr(function, "__annotations__", {}).values()
  return _decorate(thing, typechecker=typechecker) if any(map(_states_shape, hints)) else thing


def _states_shape(annotation) -> bool:
  if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
    return True
  return any(map(_states_shape, typing.get_args(annotation)))


jaxtyping.jaxtyped = _where_stated
