"""Cases that are timed: their sizes, the same for every side."""

import dataclasses

from emv3_jax.errors import InputError
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.models.vae import VAEConfig


@dataclasses.dataclass(frozen=True)
class Transformer:
  """One forward pass of the preview transformer: the conditions embedded, all keys and values made.

  Attributes:
    grid: latent frames, token rows and columns.
    config: sizes of the network.
    audio: whether the audio expert runs. diffusers' module has none.
  """

  grid: tuple[int, int, int]
  config: TransformerConfig
  audio: bool

  @property
  def latent_grid(self) -> tuple[int, int, int]:
    frames, rows, columns = self.grid
    return frames, 2 * rows, 2 * columns

  @property
  def audio_tokens(self) -> int:
    """wav2vec2 tokens of the clip, two a video frame."""
    return 2 * (4 * (self.grid[0] - 1) + 1)


@dataclasses.dataclass(frozen=True)
class VAE:
  """Decoding or encoding one clip.

  Attributes:
    direction: `decode` or `encode`.
    latents: number of latent frames, of 4 (latents - 1) + 1 video frames.
    side: height and width in pixels.
    config: sizes of the network.
  """

  direction: str
  latents: int
  side: int
  config: VAEConfig

  @property
  def frames(self) -> int:
    return 4 * (self.latents - 1) + 1


Case = Transformer | VAE

_WIDE = TransformerConfig(num_layers=2)
_NARROW = TransformerConfig(dim=384, ffn_dim=2240, num_heads=3, num_layers=2, text_dim=512,
                            image_dim=320)


def _cases(transformer: TransformerConfig, side: int, vae: VAEConfig, latents: int, pixels: int):
  grid = (side, side, side)
  return {
      "transformer": Transformer(grid, transformer, audio=False),
      "transformer_audio": Transformer(grid, transformer, audio=True),
      "vae_decode": VAE("decode", latents, pixels, vae),
      "vae_encode": VAE("encode", latents, pixels, vae),
  }


SIZES = {
    "full": _cases(_WIDE, 16, VAEConfig(), 5, 128),
    "small": _cases(_NARROW, 8, VAEConfig(), 2, 32),
}
NAMES = tuple(SIZES["full"])


def find(name: str, size: str) -> Case:
  """The case of that name.

  Raises:
    InputError: unknown name or size.
  """
  if size not in SIZES:
    raise InputError(f"Unknown size {size!r}; known: {', '.join(SIZES)}.")
  if name not in NAMES:
    raise InputError(f"Unknown case {name!r}; known: {', '.join(NAMES)}.")
  return SIZES[size][name]
