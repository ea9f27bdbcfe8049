"""The causal 3D VAE of Wan 2.1: video to latents of 1/4 the frames and 1/8 the sides, and back.

Causal in time: the first frame is a latent of its own, each further latent stands for four frames.
Both directions run over the clip in chunks of a few latents, in one `lax.scan` that carries the
last frames each layer saw, so that memory for activations does not grow with the length. Decoding a
chunk is also a step of its own, `VAE.decode_group`, for clips whose frames do not fit together.
"""

from collections.abc import Callable
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Shaped

from emv3_jax.arrays import AnyArray
from emv3_jax.models.causal_conv import CONV_METHODS, CachedFrames, CausalCache, run_in_chunks
from emv3_jax.models.execution import Constrain, unconstrained
from emv3_jax.models.network import Network
from emv3_jax.models.precision import FLOAT32, Precision
from emv3_jax.models.vae_coders import Decoder, Encoder, VAEConfig
from emv3_jax.models.vae_layers import VIDEO_AXES, linear

Postprocess = Callable[[jax.Array], jax.Array]

# Frames at a time in the layers next to the pixels, whose activations are the largest of all.
FINE_FRAMES = 1


class VAE(nnx.Module):
  """Encoder and decoder with the linear layers next to the latents."""

  def __init__(self, config: VAEConfig, *, precision: Precision, method: str,
               fine_frames: int = FINE_FRAMES, rngs: nnx.Rngs):
    options: dict[str, Any] = dict(fine_frames=fine_frames, precision=precision, method=method,
                                   rngs=rngs)
    self.encoder = Encoder(config, **options)
    self.to_moments = linear(2 * config.z_dim, 2 * config.z_dim, precision, rngs)
    self.from_latents = linear(config.z_dim, config.z_dim, precision, rngs)
    self.decoder = Decoder(config, **options)
    self.config, self.precision = config, precision

  def encode(self, video: AnyArray, *, chunk: int = 1, constrain: Constrain = unconstrained
             ) -> Float32[jax.Array, "b f H8 W8 c"]:
    """The mean of the latent distribution, normalised by the config's statistics.

    Args:
      video: [b, F, H, W, 3] with F = 4k + 1 and H, W multiples of 8; floating point in [-1, 1],
        or uint8, of which 0 stands for -1 and 255 for 1.
      chunk: latent frames that are computed at a time.
      constrain: pins the sharding of activations, axes batch, height and width.

    Returns:
      [b, (F - 1) / 4 + 1, H / 8, W / 8, z_dim] float32.

    Raises:
      ValueError: a shape that does not fit.
    """
    self._check_video(video)
    ratio = self.config.frames_per_latent
    mean, inverse_std = self._statistics()

    def encode_chunk(cache, start, size):
      first, count = (0, 1) if cache.first else ((start - 1) * ratio + 1, size * ratio)
      frames = jax.lax.dynamic_slice_in_dim(video, first, count, axis=1)
      frames = constrain(self._pixels(frames), *VIDEO_AXES)
      moments = self.to_moments(self.encoder(frames, cache, constrain))
      mu = moments[..., :self.config.z_dim]
      return ((mu - mean) * inverse_std).astype(jnp.float32)

    return in_chunks(encode_chunk, (video.shape[1] - 1) // ratio + 1, chunk)

  def decode(self, latents: AnyArray, *, chunk: int = 1, postprocess: Postprocess | None = None,
             constrain: Constrain = unconstrained) -> Shaped[jax.Array, "b F H W 3"]:
    """The video of normalised latents, not clamped.

    Args:
      latents: [b, f, h, w, z_dim].
      chunk: latent frames that are computed at a time.
      postprocess: applied to the frames of each chunk [b, n, H, W, 3] in the compute dtype before
        they are put together, e.g. to clamp them and turn them into uint8.
      constrain: pins the sharding of activations, axes batch, height and width.

    Returns:
      [b, 4 (f - 1) + 1, 8 h, 8 w, 3], in the compute dtype or that of `postprocess`.

    Raises:
      ValueError: a shape that does not fit.
    """
    self._check_latents(latents)

    def decode_chunk(cache, start, size):
      z = jax.lax.dynamic_slice_in_dim(latents, start, size, axis=1)
      return self._decode(z, cache, postprocess, constrain)

    return in_chunks(decode_chunk, latents.shape[1], chunk)

  def decode_group(
      self, latents: AnyArray, cached: CachedFrames | None = None, *,
      postprocess: Postprocess | None = None, constrain: Constrain = unconstrained
      ) -> tuple[Shaped[jax.Array, "b F H W 3"], CachedFrames]:
    """The frames of the next latents of a clip, for clips that are decoded group by group.

    Args:
      latents: [b, n, h, w, z_dim]; n = 1 for the first group of a clip.
      cached: what the group before returned; None for the first group.
      postprocess, constrain: as of `decode`.

    Returns:
      Frames [b, 4 n, 8 h, 8 w, 3], of the first group [b, 1, 8 h, 8 w, 3]; and the cached frames of
      the layers, whose shapes are the same for every group.

    Raises:
      ValueError: a shape that does not fit.
    """
    self._check_latents(latents)
    if cached is None and latents.shape[1] != 1:
      raise ValueError(f"VAE.decode_group: the first group has {latents.shape[1]} latents, "
                       "expected 1.")
    cache = CausalCache(cached)
    return self._decode(latents, cache, postprocess, constrain), cache.stored

  def _decode(self, latents: Float[AnyArray, "b f H8 W8 c"], cache: CausalCache,
              postprocess: Postprocess | None, constrain: Constrain) -> Shaped[jax.Array, "b F H W 3"]:
    mean, inverse_std = self._statistics()
    z = jnp.asarray(latents, self.precision.compute_dtype) / inverse_std + mean
    frames = self.decoder(constrain(self.from_latents(z), *VIDEO_AXES), cache, constrain)
    return frames if postprocess is None else postprocess(frames)

  def _check_latents(self, latents: AnyArray) -> None:
    if latents.ndim != 5 or latents.shape[1] == 0 or latents.shape[-1] != self.config.z_dim:
      raise ValueError(f"VAE.decode: latents of shape {latents.shape}, expected "
                       f"[b, f, h, w, {self.config.z_dim}] with f >= 1.")

  def _statistics(self) -> tuple[Float[jax.Array, "c"], Float[jax.Array, "c"]]:
    """Mean and 1 / std, rounded to the compute dtype as the released code does."""
    mean = jnp.asarray(self.config.latent_mean, jnp.float32)
    inverse_std = 1 / jnp.asarray(self.config.latent_std, jnp.float32)
    dtype = self.precision.compute_dtype
    return mean.astype(dtype), inverse_std.astype(dtype)

  def _pixels(self, frames: jax.Array) -> jax.Array:
    if frames.dtype == jnp.uint8:
      frames = frames.astype(jnp.float32) / 127.5 - 1
    return frames.astype(self.precision.compute_dtype)

  def _check_video(self, video: AnyArray) -> None:
    ratio, side = self.config.frames_per_latent, self.config.pixels_per_latent
    if video.ndim != 5 or video.shape[-1] != 3:
      raise ValueError(f"VAE.encode: video of shape {video.shape}, expected [b, F, H, W, 3].")
    if video.dtype != jnp.uint8 and not jnp.issubdtype(video.dtype, jnp.floating):
      raise ValueError(f"VAE.encode: video of dtype {video.dtype}, expected floating point "
                       "in [-1, 1] or uint8.")
    frames, height, width = video.shape[1:4]
    if frames == 0 or frames % ratio != 1 % ratio:
      raise ValueError(f"VAE.encode: {frames} frames, expected {ratio}k + 1; drop or repeat some.")
    if height % side or width % side:
      raise ValueError(f"VAE.encode: frames of {height}x{width} pixels, expected multiples of "
                       f"{side}; crop or resize them.")


def in_chunks(run: Callable, length: int, chunk: int) -> jax.Array:
  """Joins `run(cache, start, size)`: latent 0 alone, then `chunk` latents at a time."""
  if chunk < 1:
    raise ValueError(f"VAE: chunk is {chunk}, expected at least 1 latent frame.")
  cache = CausalCache()
  first = run(cache, 0, 1)
  if length == 1:
    return first
  others, _ = run_in_chunks(run, cache.stored, 1, length, chunk)
  return jnp.concatenate([first, others], axis=1)


def network(config: VAEConfig, precision: Precision = FLOAT32, *, conv: str = "auto",
            fine_frames: int = FINE_FRAMES) -> Network[VAE]:
  """The VAE.

  Args:
    config, precision: of the network.
    conv: how 3D convolutions are written, see `causal_conv.conv3d`.
    fine_frames: frames at a time in the layers next to the pixels; with more a small VAE runs
      faster, and a large one takes more memory.
  """
  if conv not in CONV_METHODS:
    raise ValueError(f"VAE: conv is {conv!r}; known: {', '.join(CONV_METHODS)}.")
  return Network(lambda rngs: VAE(config, precision=precision, method=conv,
                                  fine_frames=fine_frames, rngs=rngs))
