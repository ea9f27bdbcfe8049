"""The cases with the modules of the released PyTorch code, imported from a checkout of it."""

from collections.abc import Callable
import importlib
import inspect
import pathlib
import sys

from benchmarks import cases
from emv3_jax.errors import InputError

TRANSFORMER = "src.wan_transformer3d_audio", "WanTransformerAudioMask3DModel"
VAE = "src.wan_vae", "AutoencoderKLWan"


def build(case: cases.Case, checkout: str) -> tuple[Callable[[], None], float | None]:
  """Makes a module with random weights; it is called as the released pipeline calls it.

  Returns:
    A function that runs it once, and None: its operations are not counted.

  Raises:
    InputError: the checkout cannot be imported from, or the case has no counterpart in it.
  """
  try:
    from benchmarks import pytorch
  except ModuleNotFoundError as error:
    raise InputError(f"The comparison with the released code needs the package {error.name}; run "
                     "pip install -e '.[parity]'.") from error
  run = (_transformer if isinstance(case, cases.Transformer) else _vae)(case, checkout)
  return pytorch.without_gradients(run), None


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
  sys.path.insert(0, str(root))
  try:
    return getattr(importlib.import_module(module), name)
  except Exception as error:  # whatever foreign code raises when it is imported
    raise InputError(f"--reference={checkout}: cannot import {name} from {module} "
                     f"({type(error).__name__}: {error}); install what that code needs.") from error


def _transformer(case: cases.Transformer, checkout: str):
  import torch
  if not case.audio:
    raise InputError("The released transformer always runs its audio expert; compare it with "
                     "--cases=transformer_audio.")
  config, (frames, rows, columns) = case.config, case.grid
  model = _made(
      load(checkout, *TRANSFORMER), model_type="i2v", patch_size=(1, 2, 2),
      text_len=config.text_tokens, text_dim=config.text_dim, in_dim=config.in_channels,
      out_dim=config.out_channels, dim=config.dim, ffn_dim=config.ffn_dim,
      freq_dim=config.freq_dim, num_heads=config.num_heads, num_layers=config.num_layers,
      qk_norm=True, cross_attn_norm=True, eps=config.eps)
  latents = torch.randn(1, config.out_channels, *case.latent_grid)
  text = torch.randn(config.text_tokens, config.text_dim)
  audio = torch.randn(1, case.audio_tokens, config.audio_dim)
  options = dict(
      t=torch.tensor([700.0]), context=([text], audio, frames, torch.ones(1, rows * columns), 1.0),
      seq_len=frames * rows * columns, clip_fea=torch.randn(1, config.image_tokens, config.image_dim),
      y=torch.randn(1, config.in_channels - config.out_channels, *case.latent_grid))
  return lambda: model(x=latents, **options)


def _vae(case: cases.VAE, checkout: str):
  from benchmarks import pytorch
  model = _made(load(checkout, *VAE), latent_channels=case.config.z_dim)
  x = pytorch.vae_input(case)
  return lambda: getattr(model, case.direction)(x)


def _made(cls: type, **sizes):
  """An instance of those sizes.

  Raises:
    InputError: the constructor fails or does not know one of the sizes.
  """
  known = inspect.signature(cls.__init__).parameters
  unknown = [name for name in sizes if name not in known]
  other = "the checkout is of another version than this comparison knows."
  if unknown:
    raise InputError(f"{cls.__name__} does not take {', '.join(unknown)}; {other}")
  try:
    return cls(**sizes).eval()
  except Exception as error:  # whatever foreign code raises
    raise InputError(f"{cls.__name__} cannot be built ({type(error).__name__}: {error}); "
                     f"{other}") from error
