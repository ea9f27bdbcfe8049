"""Rectified flow: the straight path between clean latents and noise, and where on it to train.

    x_sigma = (1 - sigma) clean + sigma noise,    velocity = dx/dsigma = noise - clean,

sigma from 0 (clean) to 1 (noise). The network's timestep is tau = 1000 sigma.
"""

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float, Float32, Num
import numpy as np

from emv3_jax.arrays import AnyArray
from emv3_jax.errors import InputError
from emv3_jax.geometry import TAU_MAX
from emv3_jax.limits import LARGEST, check_ranges

DENSITIES = ("uniform", "logit_normal")

_Sigma = TypeVar("_Sigma", float, np.floating, np.ndarray, jax.Array)


def interpolate(clean: Num[AnyArray, "*shape"], noise: Num[AnyArray, "*shape"], sigma: ArrayLike
                ) -> Float32[jax.Array, "*shape"]:
  """x_sigma, with `sigma` [b] for `clean` and `noise` [b, ...], or one sigma for all."""
  sigma = _per_example(sigma, jnp.ndim(clean))
  return (1 - sigma) * jnp.float32(clean) + sigma * jnp.float32(noise)


def velocity_target(clean: Num[AnyArray, "*shape"], noise: Num[AnyArray, "*shape"]
                    ) -> Float32[jax.Array, "*shape"]:
  """The velocity, target of the prediction at every sigma: noise - clean, float32."""
  return jnp.float32(noise) - jnp.float32(clean)


def linear_error(clean: Num[AnyArray, "*shape c"], sigma: float | Float[AnyArray, ""]
                 ) -> Float32[jax.Array, ""]:
  """Error of the best guess of the velocity that is linear in x_sigma, each channel on its own.

  The least-squares (Wiener) predictor, which knows the channels' means and variances and nothing
  else: what a network has to beat to have learnt anything.

  Args:
    clean: [..., c], of which mean and variance are taken.
    sigma: a number above 0.

  Returns:
    Mean squared error, a float32 scalar.
  """
  variance = jnp.var(jnp.float32(clean), axis=tuple(range(clean.ndim - 1)))
  covariance = sigma - (1 - sigma) * variance  # of the velocity with x_sigma
  spread = (1 - sigma) ** 2 * variance + sigma ** 2
  return jnp.mean(1 + variance - covariance ** 2 / spread)


def tau(sigma: _Sigma) -> _Sigma:
  """The network's timestep: 1000 sigma, in [0, 1000]."""
  return TAU_MAX * sigma


def shift_sigma(sigma: _Sigma, shift: Any) -> _Sigma:
  """Moves sigmas towards noise: shift sigma / (1 + (shift - 1) sigma); keeps 0 and 1.

  Args:
    sigma: in [0, 1].
    shift: a number above 0, in the precision that is wanted.
  """
  return shift * sigma / (1 + (shift - 1) * sigma)


@dataclasses.dataclass(frozen=True)
class SigmaDensity:
  """The distribution that training draws sigma from.

  Attributes:
    name: `uniform` on [0, 1], or `logit_normal`, the sigmoid of a normal variable.
    mean: of the normal variable.
    std: of the normal variable.
    shift: applied last (`shift_sigma`); 1 leaves the density, 5 is that of sampling.
  """

  name: str = "uniform"
  mean: float = 0.0
  std: float = 1.0
  shift: float = 1.0

  def __post_init__(self):
    if self.name not in DENSITIES:
      raise InputError(f"Unknown sigma density {self.name!r}; known: {', '.join(DENSITIES)}.")
    if self.std <= 0 or self.shift <= 0:
      raise InputError(
          f"Sigma density: std is {self.std} and shift is {self.shift}; both must be above 0.")
    check_ranges("sigma", self, {"mean": (-100, 100), "std": (1e-6, 1000), "shift": (1e-3, LARGEST)})

  def draw(self, key: jax.Array, shape: tuple[int, ...] = ()) -> Float32[jax.Array, "*shape"]:
    """Sigmas of `shape` in [0, 1]; a pure function of `key`."""
    if self.name == "uniform":
      sigma = jax.random.uniform(key, shape)
    else:
      sigma = jax.nn.sigmoid(self.mean + self.std * jax.random.normal(key, shape))
    return shift_sigma(sigma, self.shift)


def _per_example(sigma: ArrayLike, ndim: int) -> jax.Array:
  sigma = jnp.asarray(sigma, jnp.float32)
  return sigma.reshape(sigma.shape + (1,) * (ndim - sigma.ndim))
