"""The dtypes that a network keeps its parameters in and computes in."""

import dataclasses

import jax
import jax.numpy as jnp

INT8 = "int8"
_FLOATS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Precision:
  """dtypes of one network, by name so that configs and JSON can hold them.

  Reductions, norms, softmax and attention accumulate in float32, whatever these are.

  Attributes:
    params: dtype of the stored parameters; `int8` is that of the matrices of the layers (see `int8`), beside
      which everything else has the compute dtype.
    compute: dtype of activations and matrix products.
  """

  params: str = "float32"
  compute: str = "float32"

  def __post_init__(self):
    for field, known in (("params", (*_FLOATS, INT8)), ("compute", _FLOATS)):
      name = getattr(self, field)
      if name not in known:
        raise ValueError(f"Precision.{field} is {name!r}; known: {', '.join(known)}.")

  @property
  def matmul(self) -> jax.lax.Precision | None:
    """HIGHEST in float32, where TPUs and GPUs would otherwise round inputs to fewer bits."""
    return jax.lax.Precision.HIGHEST if self.compute == "float32" else None

  @property
  def is_int8(self) -> bool:
    return self.params == INT8

  @property
  def floats(self) -> "Precision":
    """The dtypes of what is not quantised."""
    return Precision(self.compute, self.compute) if self.is_int8 else self

  @property
  def param_dtype(self) -> jnp.dtype:
    return jnp.dtype(self.floats.params)

  @property
  def compute_dtype(self) -> jnp.dtype:
    return jnp.dtype(self.compute)


FLOAT32 = Precision()
