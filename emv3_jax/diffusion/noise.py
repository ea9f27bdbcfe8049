"""The noise that sampling starts from."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float32
import numpy as np

from emv3_jax.diffusion.randomness import Purpose, check_seed, folded_key
from emv3_jax.geometry import CHANNELS
from emv3_jax.runtime import kept_programs


def initial_noise(seed: int, frames: int, height: int, width: int, channels: int = CHANNELS,
                  start: int = 0) -> Float32[jax.Array, "f H8 W8 c"]:
  """Standard normal latents, each latent frame drawn from (seed, its index) alone.

  A longer clip therefore starts from the same noise as a shorter one, and so does another window
  size. A seed is not comparable with the released scripts, whose noise is drawn in bfloat16 on the
  GPU's generator.

  Args:
    seed: 0 to 2^32 - 1.
    frames: latent frames f.
    height: latent rows H/8.
    width: latent columns W/8.
    channels: latent channels.
    start: index of the first latent frame; a long clip's noise is made piece by piece.

  Raises:
    InputError: the seed is out of range.
  """
  check_seed(seed)
  return _program(frames, height, width, channels)(np.uint32(seed), np.int32(start))


@functools.cache
def _program(frames: int, height: int, width: int, channels: int):
  def frame_noise(seed, frame):
    key = folded_key(seed, Purpose.INITIAL_NOISE, frame)
    return jax.random.normal(key, (height, width, channels), jnp.float32)

  def run(seed, start):
    return jax.vmap(frame_noise, (None, 0))(seed, start + jnp.arange(frames))

  return kept_programs.jit(run, f"{frames} {height} {width} {channels}")
