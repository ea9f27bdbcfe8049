"""Rotary position embedding over (frame, row, column), and the sinusoid of the timestep.

Angles are computed in float64 on the host and passed into the network as float32 tables: computed
in float32 they would be off by up to 6e-5 rad.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Num
import numpy as np

from emv3_jax.arrays import AnyArray

THETA = 10000.0

RopeTable = tuple[AnyArray, AnyArray]  # cosine and sine, each float32 [s, k/2]
PaddedTable = tuple[AnyArray, AnyArray, AnyArray]  # the same, and int32: how many latent frames are the clip's
_Angles = Float32[AnyArray, "s pairs"]


@dataclasses.dataclass(frozen=True)
class Riflex:
  """RIFLEx: slows one temporal frequency so that a longer clip stays within its first period.

  Attributes:
    k: which temporal frequency, counted from 1.
    frames: number of latent frames of the clip.
    scale: further slowing; the released scripts leave it at 4.886.
  """

  k: int
  frames: int
  scale: float = 4.886

  def __post_init__(self):
    if self.k < 1 or self.frames < 1 or self.scale <= 0:
      raise ValueError(f"{self}: k and frames must be at least 1, scale above 0.")

  @property
  def frequency(self) -> float:
    return 0.9 * 2 * np.pi / self.frames / self.scale


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
  """Complex pairs given to (frame, row, column): 22, 21, 21 for a head of 128."""
  side = head_dim // 6
  return head_dim // 2 - 2 * side, side, side


def rope_table(grid: tuple[int, int, int], head_dim: int,
               riflex: Riflex | None = None) -> tuple[_Angles, _Angles]:
  """Cosine and sine of every token's rotation angles.

  Args:
    grid: (f, h, w) latent frames, token rows, token columns.
    head_dim: k, even.
    riflex: changes one temporal frequency.

  Returns:
    (cos, sin), each float32 [f*h*w, k/2], tokens space-major (h w f), pairs in the order frame,
    row, column; each axis has its own ladder of frequencies and starts at position 0.

  Raises:
    ValueError: `riflex.k` exceeds the number of temporal frequencies.
  """
  f, h, w = grid
  frequencies = [THETA ** -(np.arange(n, dtype=np.float64) / n) for n in axis_pairs(head_dim)]
  if riflex is not None:
    temporal = frequencies[0]
    if riflex.k > len(temporal):
      raise ValueError(f"Riflex.k is {riflex.k}; there are {len(temporal)} temporal frequencies.")
    temporal[riflex.k - 1] = riflex.frequency
  rows, columns, frames = np.meshgrid(np.arange(h), np.arange(w), np.arange(f), indexing="ij")
  angles = np.concatenate(
      [position.reshape(-1, 1) * ladder
       for position, ladder in zip((frames, rows, columns), frequencies, strict=True)], axis=1)
  return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def apply_rope(x: Float[AnyArray, "b s n k"], table: tuple[_Angles, _Angles]) -> Float[jax.Array, "b s n k"]:
  """Rotates the interleaved pairs (2i, 2i+1) of each head, in float32.

  Args:
    x: [b, s, n, k].
    table: (cos, sin), each [s, k/2].

  Returns:
    [b, s, n, k] in the dtype of `x`.
  """
  return _rotate(x, *(jnp.repeat(jnp.asarray(t), 2, axis=-1)[:, None] for t in table))


@jax.custom_vjp
def _rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  # Partners are fetched by rolls: splitting the last axis into [k/2, 2] pads badly on TPU. Rolled
  # in x's own dtype they would be kept beside x, 0.09 GiB of 66,816 tokens.
  x32 = x.astype(jnp.float32)
  even = jnp.arange(x.shape[-1]) % 2 == 0
  partner = jnp.where(even, -jnp.roll(x32, -1, -1), jnp.roll(x32, 1, -1))
  return (x32 * cos + partner * sin).astype(x.dtype)


def _rotate_forward(x, cos, sin):
  return _rotate(x, cos, sin), (cos, sin)


def _rotate_backward(tables, gradient):
  cos, sin = tables
  return _rotate(gradient, cos, -sin), None, None


_rotate.defvjp(_rotate_forward, _rotate_backward)


def _angular_speeds(dim: int) -> np.ndarray:
  half = dim // 2
  return THETA ** -(np.arange(half, dtype=np.float64) / half)


def time_sinusoid(tau: Num[AnyArray, "*shape"] | float, dim: int) -> Float32[np.ndarray, "*shape d"]:
  """Sinusoid of the timestep, computed in float64 on the host.

  Args:
    tau: timesteps in [0, 1000], any shape.
    dim: even number of channels.

  Returns:
    float32 [..., dim], cosines first.
  """
  angles = np.asarray(tau, np.float64)[..., None] * _angular_speeds(dim)
  return np.concatenate([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


def time_sinusoid_on_device(tau: Num[AnyArray, "*shape"], dim: int
                            ) -> Float32[jax.Array, "*shape d"]:
  """`time_sinusoid` of timesteps drawn on the device (training), in float32: up to 6e-5 rad off."""
  angles = tau.astype(jnp.float32)[..., None] * _angular_speeds(dim).astype(np.float32)
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
