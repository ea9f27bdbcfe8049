"""Classes of external code: imported from a checkout and instantiated, with errors if they do not fit.

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
  """Classes of the released code of a variant, each as (module, class).

  Attributes:
    transformer: its transformer.
    takes_gain: whether the transformer's call also takes the gain of the audio.
    audio_encoder: its wav2vec2; None if it uses that of the library transformers unchanged.
    solver: its UniPC; None if it uses diffusers' Euler.
  """

  transformer: tuple[str, str]
  takes_gain: bool = False
  audio_encoder: tuple[str, str] | None = None
  solver: tuple[str, str] | None = None

  @property
  def classes(self) -> list[tuple[str, str]]:
    return [path for path in (self.transformer, self.audio_encoder, self.solver) if path]


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
  """Imports the class `name` of `module`, a dotted name below the checkout.

  Raises:
    InputError: there is no such file, its imports fail, or it has no such class.
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
  except Exception as error:  # external code may raise any error when it is imported
    raise InputError(f"--reference={checkout}: cannot import {name} from {module} "
                     f"({type(error).__name__}: {error}); install what that code needs.") from error


def released_transformer(checkout: str, config):
  """Builds the released transformer (a PyTorch module) of a `TransformerConfig`."""
  return build(
      load(checkout, *RELEASED_CODE[config.variant].transformer), model_type="i2v", patch_size=(1, 2, 2),
      text_len=config.text_tokens, text_dim=config.text_dim, in_dim=config.in_channels,
      out_dim=config.out_channels, dim=config.dim, ffn_dim=config.ffn_dim,
      freq_dim=config.freq_dim, num_heads=config.num_heads, num_layers=config.num_layers,
      qk_norm=True, cross_attn_norm=True, eps=config.eps)


def build(cls: type, **sizes):
  """Builds an instance of a class with the given sizes.

  Raises:
    InputError: the constructor fails, or does not take one of the sizes.
  """
  parameters = inspect.signature(cls.__init__).parameters
  unknown = [name for name in sizes if name not in parameters]
  other = "it is of another version than this comparison knows."
  if unknown:
    raise InputError(f"{cls.__name__} does not take {', '.join(unknown)}; {other}")
  try:
    return cls(**sizes)
  except Exception as error:  # external code may raise any error
    raise InputError(f"{cls.__name__} cannot be built ({type(error).__name__}: {error}); "
                     f"{other}") from error
