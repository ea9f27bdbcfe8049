"""The noise that sampling starts from."""

import jax
import jax.numpy as jnp
from jaxtyping import Float32

from emv3_jax.diffusion.randomness import Purpose, key_for
from emv3_jax.geometry import CHANNELS


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
  def frame_noise(frame):
    key = key_for(seed, Purpose.INITIAL_NOISE, frame)
    return jax.random.normal(key, (height, width, channels), jnp.float32)

  return jax.vmap(frame_noise)(jnp.arange(start, start + frames))
