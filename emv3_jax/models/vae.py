"""The causal 3D VAE of Wan 2.1: video to latents of 1/4 the frames and 1/8 the sides, and back.

Causal in time: the first frame is a latent of its own, each further latent stands for four frames.
Both directions run over the clip in pieces of a few latents, in one `lax.scan` that carries the
last frames each layer saw, so that memory for activations does not grow with the length.
"""

from collections.abc import Callable
import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp

from emv3_jax.limits import CHANNELS, LARGEST, check_ranges
from emv3_jax.models.causal_conv import CONV_METHODS, CausalConv, Memory, run_in_pieces
from emv3_jax.models.network import Network
from emv3_jax.models.precision import FLOAT32, Precision
from emv3_jax.models.token_layers import identity
from emv3_jax.models.vae_layers import (
    VIDEO_AXES,
    Constrain,
    Downsample,
    Middle,
    RMSNorm,
    Stage,
    Upsample,
    linear,
    numbered,
    run_stages,
)

# Frames at a time in the layers next to the pixels, whose activations are the largest of all.
FINE_FRAMES = 1


@dataclasses.dataclass(frozen=True)
class VAEConfig:
  """Sizes of the VAE; the defaults are Wan 2.1's.

  Attributes:
    base_dim: channels at full resolution.
    z_dim: latent channels.
    multipliers: channels of each stage of the encoder, in base_dim; between two stages the sides
      are halved.
    num_res_blocks: residual blocks of an encoder stage; a decoder stage has one more.
    temporal_downsample: whether the frame rate is halved too, for each step between two stages.
    latent_mean, latent_std: statistics [z_dim] that normalise the latents.
  """

  base_dim: int = 96
  z_dim: int = 16
  multipliers: tuple[int, ...] = (1, 2, 4, 4)
  num_res_blocks: int = 2
  temporal_downsample: tuple[bool, ...] = (False, True, True)
  latent_mean: tuple[float, ...] = (
      -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
      0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
  latent_std: tuple[float, ...] = (
      2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
      3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)

  def __post_init__(self):
    check_ranges("vae", self, {
        "base_dim": CHANNELS, "z_dim": CHANNELS, "multipliers": CHANNELS,
        "num_res_blocks": (1, 1000), "latent_mean": (-LARGEST, LARGEST),
        "latent_std": (1 / LARGEST, LARGEST)})
    if len(self.temporal_downsample) != len(self.multipliers) - 1:
      raise ValueError(
          f"VAEConfig.temporal_downsample has {len(self.temporal_downsample)} entries, expected "
          f"one for each step between the {len(self.multipliers)} stages.")
    for name in ("latent_mean", "latent_std"):
      if len(getattr(self, name)) != self.z_dim:
        raise ValueError(f"VAEConfig.{name} has {len(getattr(self, name))} entries, expected "
                         f"z_dim = {self.z_dim}.")

  @property
  def frames_per_latent(self) -> int:
    return 2 ** sum(self.temporal_downsample)

  @property
  def pixels_per_latent(self) -> int:
    return 2 ** len(self.temporal_downsample)

  @property
  def steps_at_video_rate(self) -> int:
    """How many of the encoder's steps come before the frame rate changes."""
    return (*self.temporal_downsample, True).index(True)


class Encoder(nnx.Module):
  """Video in [-1, 1] to the moments of the latents, before the last linear layer."""

  def __init__(self, config: VAEConfig, fine_frames: int, **options):
    channels = [config.base_dim * m for m in config.multipliers]
    steps = [Downsample(c, in_time, **options)
             for c, in_time in zip(channels[:-1], config.temporal_downsample, strict=True)]
    inputs = channels[:1] + channels[:-1]
    self.conv_in = CausalConv(3, channels[0], **options)
    self.stages = numbered(
        Stage(c_in, c_out, config.num_res_blocks, step, **options)
        for c_in, c_out, step in zip(inputs, channels, steps + [None], strict=True))
    self.middle = Middle(channels[-1], **options)
    self.norm_out = RMSNorm(channels[-1], precision=options["precision"])
    self.conv_out = CausalConv(channels[-1], 2 * config.z_dim, **options)
    self.num_fine, self.fine_frames = config.steps_at_video_rate, fine_frames

  def __call__(self, video: jax.Array, memory: Memory, constrain: Constrain) -> jax.Array:
    """[b, 1 or 4n, H, W, 3] -> [b, 1 or n, H / 8, W / 8, 2 z_dim]."""
    stages = list(self.stages.values())
    fine, coarse = stages[:self.num_fine], stages[self.num_fine:]

    def from_pixels(frames, memory):
      return run_stages(fine, self.conv_in(frames, memory), memory, constrain)

    x = memory.in_pieces(from_pixels, video, self.fine_frames)
    x = run_stages(coarse, x, memory, constrain)
    x = self.middle(x, memory)
    return self.conv_out(jax.nn.silu(self.norm_out(x)), memory)


class Decoder(nnx.Module):
  """Latents after the first linear layer to video; mirrors the encoder."""

  def __init__(self, config: VAEConfig, fine_frames: int, **options):
    channels = [config.base_dim * m for m in reversed(config.multipliers)]
    in_time = reversed(config.temporal_downsample)
    steps = [Upsample(c, t, **options) for c, t in zip(channels[:-1], in_time, strict=True)]
    inputs = channels[:1] + [c // 2 for c in channels[:-1]]  # an upsampling halves the channels
    self.conv_in = CausalConv(config.z_dim, channels[0], **options)
    self.middle = Middle(channels[0], **options)
    self.stages = numbered(
        Stage(c_in, c_out, config.num_res_blocks + 1, step, **options)
        for c_in, c_out, step in zip(inputs, channels, steps + [None], strict=True))
    self.norm_out = RMSNorm(channels[-1], precision=options["precision"])
    self.conv_out = CausalConv(channels[-1], 3, **options)
    self.num_coarse = len(steps) - config.steps_at_video_rate
    self.fine_frames = fine_frames

  def __call__(self, latents: jax.Array, memory: Memory, constrain: Constrain) -> jax.Array:
    """[b, 1 or n, h, w, z_dim] -> [b, 1 or 4n, 8 h, 8 w, 3]."""
    stages = list(self.stages.values())
    coarse, fine = stages[:self.num_coarse], stages[self.num_coarse:]

    def to_pixels(x, memory):
      x = run_stages(fine, x, memory, constrain)
      return self.conv_out(jax.nn.silu(self.norm_out(x)), memory)

    x = self.middle(self.conv_in(latents, memory), memory)
    x = run_stages(coarse, x, memory, constrain)
    return memory.in_pieces(to_pixels, x, self.fine_frames)


class VAE(nnx.Module):
  """Encoder and decoder with the linear layers next to the latents."""

  def __init__(self, config: VAEConfig, *, precision: Precision, method: str,
               fine_frames: int = FINE_FRAMES, rngs: nnx.Rngs):
    options = dict(fine_frames=fine_frames, precision=precision, method=method, rngs=rngs)
    self.encoder = Encoder(config, **options)
    self.to_moments = linear(2 * config.z_dim, 2 * config.z_dim, precision, rngs)
    self.from_latents = linear(config.z_dim, config.z_dim, precision, rngs)
    self.decoder = Decoder(config, **options)
    self.config, self.precision = config, precision

  def encode(self, video: jax.Array, *, chunk: int = 1,
             constrain: Constrain = identity) -> jax.Array:
    """The mean of the latent distribution, normalised by the config's statistics.

    Args:
      video: [b, F, H, W, 3] with F = 4k + 1 and H, W multiples of 8; floating point in [-1, 1],
        or uint8, of which 0 stands for -1 and 255 for 1.
      chunk: latent frames that are computed at a time.
      constrain: pins the sharding of an activation, `constrain(x, *axis_names)`.

    Returns:
      [b, (F - 1) / 4 + 1, H / 8, W / 8, z_dim] float32.

    Raises:
      ValueError: a shape that does not fit.
    """
    self._check_video(video)
    ratio = self.config.frames_per_latent
    mean, inverse_std = self._statistics()

    def encode_chunk(memory, start, size):
      first, count = (0, 1) if memory.first else ((start - 1) * ratio + 1, size * ratio)
      frames = jax.lax.dynamic_slice_in_dim(video, first, count, axis=1)
      frames = constrain(self._pixels(frames), *VIDEO_AXES)
      moments = self.to_moments(self.encoder(frames, memory, constrain))
      mu = moments[..., :self.config.z_dim]
      return ((mu - mean) * inverse_std).astype(jnp.float32)

    return in_chunks(encode_chunk, (video.shape[1] - 1) // ratio + 1, chunk)

  def decode(self, latents: jax.Array, *, chunk: int = 1,
             finish: Callable[[jax.Array], jax.Array] = identity,
             constrain: Constrain = identity) -> jax.Array:
    """The video of normalised latents, not clamped.

    Args:
      latents: [b, f, h, w, z_dim].
      chunk: latent frames that are computed at a time.
      finish: applied to the frames of each chunk [b, n, H, W, 3] in the compute dtype before they
        are put together, e.g. to clamp them and turn them into uint8.
      constrain: pins the sharding of an activation, `constrain(x, *axis_names)`.

    Returns:
      [b, 4 (f - 1) + 1, 8 h, 8 w, 3], of the dtype that `finish` gives.

    Raises:
      ValueError: a shape that does not fit.
    """
    if latents.ndim != 5 or latents.shape[1] == 0 or latents.shape[-1] != self.config.z_dim:
      raise ValueError(f"VAE.decode: latents of shape {latents.shape}, expected "
                       f"[b, f, h, w, {self.config.z_dim}] with f >= 1.")
    mean, inverse_std = self._statistics()

    def decode_chunk(memory, start, size):
      z = jax.lax.dynamic_slice_in_dim(latents, start, size, axis=1)
      z = z.astype(self.precision.compute_dtype) / inverse_std + mean
      z = constrain(self.from_latents(z), *VIDEO_AXES)
      return finish(self.decoder(z, memory, constrain))

    return in_chunks(decode_chunk, latents.shape[1], chunk)

  def _statistics(self) -> tuple[jax.Array, jax.Array]:
    """Mean and 1 / std, rounded to the compute dtype as the released code does."""
    mean = jnp.asarray(self.config.latent_mean, jnp.float32)
    inverse_std = 1 / jnp.asarray(self.config.latent_std, jnp.float32)
    dtype = self.precision.compute_dtype
    return mean.astype(dtype), inverse_std.astype(dtype)

  def _pixels(self, frames: jax.Array) -> jax.Array:
    if frames.dtype == jnp.uint8:
      frames = frames.astype(jnp.float32) / 127.5 - 1
    return frames.astype(self.precision.compute_dtype)

  def _check_video(self, video: jax.Array) -> None:
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
  """Joins `run(memory, start, size)`: latent 0 alone, then `chunk` latents at a time."""
  if chunk < 1:
    raise ValueError(f"VAE: chunk is {chunk}, expected at least 1 latent frame.")
  memory = Memory()
  first = run(memory, 0, 1)
  if length == 1:
    return first
  others, _ = run_in_pieces(run, memory.kept, 1, length, chunk)
  return jnp.concatenate([first, others], axis=1)


def network(config: VAEConfig, precision: Precision = FLOAT32, *, conv: str = "auto",
            fine_frames: int = FINE_FRAMES) -> Network:
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
