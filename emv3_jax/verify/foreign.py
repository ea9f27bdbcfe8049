"""Classes of other people's code: imported from a checkout, built, and named where they do not fit.

Nothing here imports PyTorch itself.
"""

import dataclasses
import importlib
import inspect
import pathlib
import sys

from emv3_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class ReleasedCode:
  """Where the released code of a variant is; each as (module, class).

  Attributes:
    transformer: its network.
    takes_gain: whether that is called with the gain of the audio, too.
    audio_encoder: its wav2vec2; None: it takes the library transformers' as it is.
    solver: its UniPC; None: it takes diffusers' Euler.
  """

  transformer: tuple[str, str]
  takes_gain: bool = False
  audio_encoder: tuple[str, str] | None = None
  solver: tuple[str, str] | None = None

  @property
  def classes(self) -> list[tuple[str, str]]:
    return [place for place in (self.transformer, self.audio_encoder, self.solver) if place]


RELEASED_CODE = {
    "preview": ReleasedCode(
        ("src.wan_transformer3d_audio", "WanTransformerAudioMask3DModel"), takes_gain=True),
    "flash": ReleasedCode(
        ("src.wan_transformer3d_audio_2512", "WanTransformerAudioMask3DModel"),
        audio_encoder=("src.wav2vec2", "Wav2Vec2Model"),
        solver=("src.fm_solvers_unipc", "FlowUniPCMultistepScheduler")),
}
VAE = "src.wan_vae", "AutoencoderKLWan"


def load(checkout: str, module: str, name: str) -> type:
  """The class `name` of `module`, a dotted name under the checkout.

  Raises:
    InputError: no such file, its imports fail, or it has no such class.
  """
  root = pathlib.Path(checkout).resolve()
  file = root.joinpath(*module.split(".")).with_suffix(".py")
  if not file.is_file():
    raise InputError(f"--reference={checkout}: there is no {file.relative_to(root)}; expected a "
                     "checkout of the released EchoMimicV3 code.")
  if str(root) not in sys.path:
    sys.path.insert(0, str(root))
  try:
    return getattr(importlib.import_module(module), name)
  except Exception as error:  # whatever foreign code raises when it is imported
    raise InputError(f"--reference={checkout}: cannot import {name} from {module} "
                     f"({type(error).__name__}: {error}); install what that code needs.") from error


def released_transformer(checkout: str, config):
  """The released transformer (a PyTorch module) of a `TransformerConfig`."""
  return made(
      load(checkout, *RELEASED_CODE[config.variant].transformer), model_type="i2v", patch_size=(1, 2, 2),
      text_len=config.text_tokens, text_dim=config.text_dim, in_dim=config.in_channels,
      out_dim=config.out_channels, dim=config.dim, ffn_dim=config.ffn_dim,
      freq_dim=config.freq_dim, num_heads=config.num_heads, num_layers=config.num_layers,
      qk_norm=True, cross_attn_norm=True, eps=config.eps)


def made(cls: type, **sizes):
  """An instance of those sizes.

  Raises:
    InputError: the constructor fails or does not know one of the sizes.
  """
  known = inspect.signature(cls.__init__).parameters
  unknown = [name for name in sizes if name not in known]
  other = "it is of another version than this comparison knows."
  if unknown:
    raise InputError(f"{cls.__name__} does not take {', '.join(unknown)}; {other}")
  try:
    return cls(**sizes)
  except Exception as error:  # whatever foreign code raises
    raise InputError(f"{cls.__name__} cannot be built ({type(error).__name__}: {error}); "
                     f"{other}") from error
