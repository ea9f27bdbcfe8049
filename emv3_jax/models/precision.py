"""The dtypes that a network keeps its parameters in and computes in."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Precision:
  """dtypes of one network, by name so that configs and JSON can hold them.

  Reductions, norms, softmax and attention accumulate in float32, whatever these are.

  Attributes:
    params: dtype of the stored parameters.
    compute: dtype of activations and matrix products.
  """

  params: str = "float32"
  compute: str = "float32"

  def __post_init__(self):
    for field in dataclasses.fields(self):
      name = getattr(self, field.name)
      if name not in ("float32", "bfloat16"):
        raise ValueError(f"Precision.{field.name} is {name!r}; known: float32, bfloat16.")

  @property
  def matmul(self) -> jax.lax.Precision | None:
    """HIGHEST in float32, where TPUs and GPUs would otherwise round inputs to fewer bits."""
    return jax.lax.Precision.HIGHEST if self.compute == "float32" else None

  @property
  def param_dtype(self) -> jnp.dtype:
    return jnp.dtype(self.params)

  @property
  def compute_dtype(self) -> jnp.dtype:
    return jnp.dtype(self.compute)


FLOAT32 = Precision()
