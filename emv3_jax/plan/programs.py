"""Programs of sampling that can be planned, traced for devices that need not be available."""

from collections.abc import Callable
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from emv3_jax import geometry, sharding, variants
from emv3_jax.attention.local import attend_xla
from emv3_jax.components import programs as component_programs
from emv3_jax.diffusion import guidance
from emv3_jax.errors import InputError
from emv3_jax.geometry import TOKEN
from emv3_jax.models.network import Params, named_leaves
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.plan import flops, meshes
from emv3_jax.sampling.cached_steps import make_cached_denoiser
from emv3_jax.sampling.denoise import Conditions, Denoiser, make_denoiser
from emv3_jax.sampling.guidance_settings import guidance_of
from emv3_jax.sampling.settings import Config, SamplingConfig
from emv3_jax.sharding.pictures import picture_split


@dataclasses.dataclass(frozen=True)
class Window:
  """Size of the clip that is planned: 4k+1 frames of height x width pixels.

  Attributes:
    clip_frames: 4k+1, of the clip that one or several such windows make; 0 where none is given.
  """

  frames: int
  height: int
  width: int
  clip_frames: int = 0

  @property
  def is_of_longer(self) -> bool:
    """Whether the window is one of several of a clip."""
    return self.clip_frames > self.frames

  @property
  def latents(self) -> tuple[int, int, int]:
    """Latent frames, height and width (f, H8, W8)."""
    return geometry.latent_frames(self.frames), *geometry.latent_size((self.height, self.width))

  @property
  def positions(self) -> int:
    """Number of token positions of a frame."""
    return math.prod(self.grid)

  @property
  def grid(self) -> tuple[int, int]:
    """Rows and columns of tokens (h, w)."""
    return geometry.token_grid((self.height, self.width))


@dataclasses.dataclass(frozen=True)
class Deployment:
  """The devices of a program: platform `cpu`, `gpu` or `tpu`, mesh, and sizes of its axes."""

  platform: str
  mesh: Mesh
  config: sharding.MeshConfig

  def whole(self, shape: tuple[int, ...], dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    """Returns the shape of an array that is replicated on every device."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(self.mesh, PartitionSpec()))


@dataclasses.dataclass(frozen=True)
class Program:
  """A traced program.

  Attributes:
    traced: traced program, to lower and compile.
    params: shapes of its parameters, with shardings.
    flops: operations of one run on all devices together, without padding.
    padding: factor of the operations with padding, or with repeated computation.
    gathers_narrow: whether parameters are gathered in a narrower dtype than they are stored in.
  """

  traced: jax.stages.Traced
  params: Params
  flops: int
  padding: float = 1.0
  gathers_narrow: bool = False

  def matrices(self) -> set[tuple[int, ...]]:
    """Returns the shapes of the matrices; of stacked ones, those of one layer."""
    shapes = {leaf.shape[name.startswith("blocks."):]
              for name, leaf in named_leaves(self.params).items()}
    return {shape for shape in shapes if len(shape) > 1}

  def stacks(self) -> set[tuple[int, ...]]:
    """Returns the shapes of the matrices that are stacked over layers."""
    return {leaf.shape for name, leaf in named_leaves(self.params).items()
            if name.startswith("blocks.") and leaf.ndim > 2}


def largest_window(config: Config) -> Window:
  """Returns the config's largest window: its fixed size, or a square of its largest area."""
  settings = config.settings
  side = math.isqrt(settings.max_area) // TOKEN * TOKEN
  return Window(settings.max_frames, settings.height or side, settings.width or side)


def num_rows(config: Config, windows: str = "blended") -> int:
  """Returns the rows of the batch that a sampling step of the most branches runs at once for one clip.

  Args:
    config: of sampling.
    windows: mode of `diffusion.windows`.
  """
  settings = config.settings
  if settings.branches == "in_turn":
    return 1
  found = guidance_of(settings, config.model.transformer.variant)
  return len(guidance.largest(found.schedule(settings.steps, windows)))


@functools.cache
def plain_denoiser(net: TransformerConfig, settings: SamplingConfig) -> Denoiser:
  """Builds a denoiser for one device, with attention whose operations can be counted."""
  return Denoiser(sharding.on_mesh(net, local=attend_xla), settings)


def conditions(net: TransformerConfig, window: Window, array: Callable, b: int = 1) -> Conditions:
  """Returns the shapes of the conditions of b windows; `array` makes a shape."""
  f, height8, width8 = window.latents
  variant = variants.of(net.variant)
  return Conditions(
      text={"prompt": array((b, net.text_tokens, net.text_dim))},
      image=array((b, net.image_tokens, net.image_dim)),
      audio=array((b, *variant.input_shape(net, window.frames))),
      condition=array((b, f, height8, width8, net.in_channels - net.out_channels)),
      face_mask=array((b, window.positions)) if variant.face_mask else None)


def sample_step(config: Config, window: Window, deployment: Deployment) -> Program:
  """Traces all guidance branches and one solver step, for one clip of one window.

  With a step cache it is a step that keeps the residual of the blocks.
  """
  net = config.model.transformer
  noise = (1, *window.latents, net.out_channels)
  denoiser = make_denoiser(
      net, config.settings, deployment.mesh, precision=config.precision.transformer,
      attention=deployment.config.attention, platform=deployment.platform)
  params = denoiser.transformer.abstract
  runs = denoiser if config.settings.cache.kind in (None, "none") else make_cached_denoiser(denoiser)
  traced = runs.trace_step(params, deployment.whole(noise), conditions(net, window, deployment.whole))

  plain = plain_denoiser(net, config.settings)
  counted = plain.trace_step(plain.transformer.network.abstract, array(noise),
                             conditions(net, window, array))
  rows = num_rows(config)
  return Program(traced, params, flops.count(counted),
                 meshes.padded(rows, deployment.config) / rows)


def array(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def vae_decode(config: Config, window: Window, deployment: Deployment) -> Program:
  """Traces the VAE's decoder, from latents to uint8 frames."""
  latents = deployment.whole((1, *window.latents, config.model.vae.z_dim))
  return _vae(component_programs.vae_decode, config, window, deployment, latents)


def vae_encode(config: Config, window: Window, deployment: Deployment) -> Program:
  """Traces the VAE's encoder, from float32 frames in [-1, 1] to latents."""
  video = jax.ShapeDtypeStruct(
      (1, window.frames, window.height, window.width, 3), jnp.float32,
      sharding=sharding.picture_sharding(deployment.mesh, 1, window.latents[1:]))
  return _vae(component_programs.vae_encode, config, window, deployment, video)


def _vae(make: Callable, config: Config, window: Window, deployment: Deployment,
         array: jax.ShapeDtypeStruct) -> Program:
  network = component_programs.network(config.model, config.precision, "vae")
  size8 = window.latents[1:]
  params = sharding.abstract_on(network.abstract, deployment.mesh, "vae")
  traced = make(network, deployment.mesh, size8).trace(params, array)
  return Program(traced, params, flops.count(traced), copies(deployment.mesh.size, size8))


def copies(devices: int, size8: tuple[int, int]) -> float:
  """Returns how often pictures of `size8` are computed where they do not divide over the devices."""
  return picture_split(devices, 1, size8).copies


PROGRAMS: dict[str, Callable[[Config, Window, Deployment], Program]] = {
    "sample_step": sample_step, "vae_decode": vae_decode, "vae_encode": vae_encode}
OF_PICTURES = ("vae_decode", "vae_encode")  # split over the mesh by rows and columns


def check_window(window: Window) -> None:
  """Checks the size of a window.

  Raises:
    InputError: no clip can have these sides or this number of frames.
  """
  sides = window.height, window.width
  if not geometry.is_clip_length(window.frames) or any(side < TOKEN or side % TOKEN for side in sides):
    raise InputError(f"A window of {window.frames} frames of {window.height}x{window.width} cannot "
                     f"be planned: frames are 4k+1, sides multiples of {TOKEN}, at least {TOKEN}.")
