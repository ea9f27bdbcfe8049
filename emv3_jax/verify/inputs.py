"""Inputs of both sides: small inputs of all networks, random ones drawn from a seed."""

import dataclasses
import pathlib

import numpy as np

from emv3_jax import geometry, tasks, variants
from emv3_jax.components.config import ModelConfig
from emv3_jax.conditioning import image as image_lib
from emv3_jax.conditioning.text import Tokenizer
from emv3_jax.diffusion.noise import initial_noise
from emv3_jax.errors import InputError
from emv3_jax.geometry import TOKEN
from emv3_jax.io.image_files import load_image
from emv3_jax.models import wav2vec2
from emv3_jax.tasks import masks
from emv3_jax.variants import Variant

_ASSETS = pathlib.Path(__file__).parents[1] / "assets/tiny"
PROMPT = " ".join(["A person is speaking to the camera, calm and friendly."] * 12)  # > 128 tokens
TEXT_STEP = 64  # tokens; prompts are cut to a multiple, since masked tokens change nothing
DRAWN_TOKENS = 192
TAUS = (1000.0, 637.0, 12.0)


@dataclasses.dataclass(frozen=True)
class Size:
  """Sizes of the comparison.

  Attributes:
    frames: video frames, 4k + 1.
    height, width: in pixels, multiples of 16.
    steps: steps of the sampling run.
    seed: seed of all random inputs.
  """

  frames: int = 9
  height: int = 64
  width: int = 96
  steps: int = 4
  seed: int = 0

  def __post_init__(self):
    if self.frames < 5 or not geometry.is_clip_length(self.frames):
      raise InputError(f"--frames={self.frames}; wanted 4k + 1, at least 5.")
    for name in ("height", "width"):
      side = getattr(self, name)
      if side < 32 or side % TOKEN:
        raise InputError(f"--{name}={side}; wanted a multiple of {TOKEN}, at least 32.")
    if self.steps < 2 or self.seed < 0:
      raise InputError(f"--steps={self.steps}, --seed={self.seed}; at least 2 steps and seed 0.")

  @property
  def latent(self) -> tuple[int, int, int]:
    return geometry.latent_frames(self.frames), *geometry.latent_size((self.height, self.width))


@dataclasses.dataclass(frozen=True)
class Inputs:
  """Inputs of the five networks. Arrays are float32, unless noted otherwise, with channels last.

  Attributes:
    ids, mask: [2, m] int32 and bool: the prompt and the negative prompt of the released settings.
    pixels: [1, S, S, 3] for CLIP.
    waveform: [1, n] for wav2vec2.
    variant: variant of the transformer; preview without a transformer.
    videos: [2, F, H, W, 3] in [-1, 1]: a moving video, and the same with all frames but the first masked.
    condition_mask: [f, H8, W8, 4] mask channels of the masked video.
    latents: [1, f, H8, W8, 16] for the VAE's decoder, and as the transformer's noisy latents.
    noise: initial noise of the sampling run, of the shape of `latents`.
    face_mask: [1, tokens] (preview), or None.
  """

  ids: np.ndarray
  mask: np.ndarray
  pixels: np.ndarray
  waveform: np.ndarray
  variant: Variant
  videos: np.ndarray
  condition_mask: np.ndarray
  latents: np.ndarray
  noise: np.ndarray
  face_mask: np.ndarray | None

  @property
  def audio_options(self) -> dict:
    """Options of the audio encoder's call."""
    return self.variant.encoder_options(self.videos.shape[1])


@dataclasses.dataclass
class Conditions:
  """Conditions of the transformer: random until the encoders have run, then the states of the encoders.

  Attributes:
    prompt, negative: [1, text_tokens, text_dim], zeros after the last token.
    image: [1, image_tokens, image_dim].
    audio: [1, 2F, d] (preview) or [1, F, 5, l, d] (flash).
    condition: [1, f, H8, W8, 20].
  """

  prompt: np.ndarray
  negative: np.ndarray
  image: np.ndarray
  audio: np.ndarray
  condition: np.ndarray


def make_inputs(config: ModelConfig, variant: str | None, tokenizer: pathlib.Path,
                size: Size) -> Inputs:
  """Makes inputs of the networks of `config`.

  The portrait is that of the embedded default model; the waveform is random.

  Args:
    config: configs of the folder's networks.
    variant: variant of its transformer; None without one.
    tokenizer: tokenizer file of the folder; if it does not exist, token ids are random.
    size: sizes of the comparison.
  """
  hearing = variants.of(variant or "preview")
  draw = np.random.default_rng(size.seed)
  normal = lambda *shape: draw.standard_normal(shape, np.float32)
  text = config.text_encoder
  if tokenizer.exists():
    negative = hearing.settings["negative_prompt"]
    ids, mask = Tokenizer.load(tokenizer).tokenize([PROMPT, negative])
    used = -(-int(mask.sum(axis=1).max()) // TEXT_STEP) * TEXT_STEP
    ids, mask = ids[:, :used] % text.vocab_size, mask[:, :used]
  else:
    ids = draw.integers(0, text.vocab_size, (2, DRAWN_TOKENS)).astype(np.int32)
    mask = np.arange(DRAWN_TOKENS) < np.array([[DRAWN_TOKENS], [17]])

  picture = load_image(_ASSETS / "portrait.png")
  side = config.image_encoder.image_size
  pixels = image_lib.clip_vision_pixels(picture) if side == image_lib.CLIP_VISION_SIDE else normal(side, side, 3)
  first = image_lib.to_pixels(image_lib.resize_lanczos(picture, (size.height, size.width)))
  moving = np.stack([np.roll(first, 2 * frame, axis=1) for frame in range(size.frames)])
  given = tasks.of("i2v").condition_mask(size.frames)
  rows, columns = geometry.token_grid((size.height, size.width))
  face = np.zeros((rows, columns), np.float32)
  face[:-1, 1:] = 1
  samples = wav2vec2.num_samples(2 * size.frames, config.audio_encoder)
  return Inputs(
      ids=ids, mask=mask, pixels=pixels[None], waveform=0.1 * normal(1, samples),
      variant=hearing,
      videos=np.stack([moving, masks.masked_video(moving, given)]),
      condition_mask=masks.mask_latents(given, (size.height, size.width)),
      latents=normal(1, *size.latent, config.vae.z_dim),
      noise=np.asarray(initial_noise(size.seed, *size.latent, config.vae.z_dim))[None],
      face_mask=face.reshape(1, -1) if hearing.face_mask else None)


def make_conditions(config: ModelConfig, inputs: Inputs, size: Size) -> Conditions:
  """Makes random conditions with the shapes of the encoders' states."""
  draw = np.random.default_rng(size.seed + 1)
  normal = lambda *shape: draw.standard_normal(shape, np.float32)
  network = config.transformer
  text = lambda: normal(1, network.text_tokens, network.text_dim)
  audio = normal(1, *variants.of(network.variant).input_shape(network, size.frames))
  return Conditions(
      prompt=text(), negative=text(), image=normal(1, network.image_tokens, network.image_dim),
      audio=audio, condition=make_condition(inputs, normal(*inputs.latents.shape)))


def padded(states: np.ndarray, mask: np.ndarray, tokens: int) -> np.ndarray:
  """Cuts umT5's states [m, d] of one prompt to its length and zero-pads them to [1, tokens, d]."""
  result = np.zeros((1, tokens, states.shape[-1]), np.float32)
  result[0, :mask.sum()] = states[mask]
  return result


def make_condition(inputs: Inputs, latents: np.ndarray) -> np.ndarray:
  """Joins the mask and the masked video's latents [1, f, H8, W8, 16] to the condition [1, f, H8, W8, 20]."""
  return np.asarray(masks.condition(inputs.condition_mask[None], latents))


def audio_condition(inputs: Inputs, states: np.ndarray) -> np.ndarray:
  """Converts wav2vec2's states [1, n, ...] to the audio input of the transformer, see `Conditions`."""
  return inputs.variant.network_input(states[0])[None]
