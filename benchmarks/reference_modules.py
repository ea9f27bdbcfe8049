"""The cases with the modules of the released PyTorch code, imported from a checkout of it."""

from collections.abc import Callable

from benchmarks import cases
from emv3_jax.errors import InputError
from emv3_jax.verify import foreign

IMAGE_DIM = 1280  # written into the released code


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


def _transformer(case: cases.Transformer, checkout: str):
  import torch
  if not case.audio:
    raise InputError("The released transformer always runs its audio expert; compare it with "
                     "--cases=transformer_audio.")
  config, (frames, rows, columns) = case.config, case.grid
  if config.image_dim != IMAGE_DIM:
    raise InputError(f"The released transformer takes CLIP states of {IMAGE_DIM} channels, not of "
                     f"{config.image_dim}; compare it with --size=full.")
  model = foreign.released_transformer(checkout, config).eval()
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
  model = foreign.build(foreign.load(checkout, *foreign.VAE),
                       latent_channels=case.config.z_dim).eval()
  x = pytorch.vae_input(case)
  return lambda: getattr(model, case.direction)(x)
