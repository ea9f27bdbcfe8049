"""What a trained part has to show before the transformer is trained on it: held-out puppets."""

from collections.abc import Callable, Sequence
import dataclasses

import jax
import numpy as np

from emv3_jax.conditioning.text import Tokenizer
from emv3_jax.geometry import FRAMES, RATE
from emv3_jax.io.pixels import to_uint8
from emv3_jax.models.network import Network, Params
from emv3_jax.puppets import world
from emv3_jax.puppets.training import audio, text
from emv3_jax.puppets.training.footage import Footage
from emv3_jax.puppets.training.settings import TextSettings
from emv3_jax.puppets.world import readers
from emv3_jax.puppets.world.sentences import Sentence, speech
from emv3_jax.variants.preview import PREVIEW

WANTED = {"vae": {"opening_r": 0.95, "mouth_psnr": 28.0, "hand_psnr": 28.0},
          "audio": {"opening_r": 0.9, "latent_r": 0.9}, "text": {"read": 0.98, "worst_read": 0.9}}
CAPTIONS = 8  # batches of training captions that linear maps are fitted to
RIDGE = 1e-2  # of the features' variance


def unmet(stage: str, figures: dict[str, float]) -> list[str]:
  """The figures of a stage that fall short, as `name found < wanted`."""
  return [f"{name} {figures[name]:.4g} < {least:g}"
          for name, least in WANTED.get(stage, {}).items() if not figures[name] >= least]


def check_vae(network: Network, params: Params, footage: Footage) -> dict[str, float]:
  """Reconstructs clips and compares them with the truth.

  Returns:
    opening_r: correlation over all frames of the opening that `readers` see with the true one;
    mouth_psnr, hand_psnr: in dB, of the pixels where a mouth and a hand may be; psnr of all.
  """
  def rebuild(params, video):
    vae = network.bind(params)
    return vae.decode(vae.encode(video), postprocess=to_uint8)

  rebuild = jax.jit(rebuild)
  seen, squares = [], {"mouth_psnr": [], "hand_psnr": [], "psnr": []}
  for clip, frames in enumerate(footage.frames):
    video = np.asarray(rebuild(params, frames[None]))[0]
    error = np.square(video.astype(np.float32) - frames)
    seen.append(readers.opening(video))
    squares["mouth_psnr"].append(error[footage.mouth(clip)].ravel())
    squares["hand_psnr"].append(error[:, footage.hand(clip)].ravel())
    squares["psnr"].append(error.ravel())
  decibels = {name: float(10 * np.log10(255 ** 2 / np.concatenate(parts).mean()))
              for name, parts in squares.items()}
  return {"opening_r": correlation(np.concatenate(seen), footage.opening.ravel()), **decibels}


def check_audio(network: Network, params: Params, known: Sequence[Sentence],
                held_out: Sequence[Sentence]) -> dict[str, float]:
  """Fits ridge regressions from features to the mouth's opening; tries them on other voices.

  Returns:
    opening_r: from a frame's two tokens, correlation over all frames of held-out sentences;
      opening_median_r, opening_least_r: of one sentence;
    latent_r, ...: from the mean over the 17 tokens that the transformer hears at a latent frame, without an
      order, to the openings of its four frames.
  """
  run = jax.jit(lambda params, waveform: network.bind(params)(waveform))
  pool = lambda features: np.asarray(audio.windows(features[None])[0], np.float64).mean(1)

  def read(spoken: Sentence):
    samples, frames = speech(spoken.name), spoken.frames // FRAMES * FRAMES + 1
    opening = world.mouth_curve(samples, RATE, frames)
    features = run(params, PREVIEW.waveform(samples, frames)[None])[0]
    return (np.asarray(features, np.float64).reshape(frames, -1), opening[:, None],
            pool(features), opening[1:].reshape(-1, FRAMES))

  train, test = [[read(spoken) for spoken in each] for each in (known, held_out)]
  figures = {}
  for name, inputs, outputs in (("opening", 0, 1), ("latent", 2, 3)):
    guess = _ridge(*(np.concatenate([each[index] for each in train]) for index in (inputs, outputs)))
    pairs = [(guess(each[inputs]).ravel(), each[outputs].ravel()) for each in test]
    each = [correlation(*pair) for pair in pairs]
    figures |= {f"{name}_r": correlation(*map(np.concatenate, zip(*pairs, strict=True))),
                f"{name}_median_r": float(np.median(each)), f"{name}_least_r": min(each)}
  return figures


def _ridge(features: np.ndarray, targets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
  """The ridge regression from [n, d] to [n, k], as a function."""
  mean, target = features.mean(0), targets.mean(0)
  centred = features - mean
  covariance = centred.T @ centred / len(centred)
  ridge = RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
  slope = np.linalg.solve(covariance + ridge, centred.T @ (targets - target) / len(centred))
  return lambda inputs: (inputs - mean) @ slope + target


def check_text(network: Network, params: Params, settings: TextSettings,
               tokenizer: Tokenizer) -> dict[str, float]:
  """Fits linear maps from tokens of training captions to what they tell; tries them on held-out ones.

  Returns:
    read: share of what is told that is read right, of single tokens; worst_read: of the attribute
      that is read worst.
  """
  run = jax.jit(lambda params, ids, mask: network.bind(params)(ids, mask))

  settings = dataclasses.replace(settings, fragments=0.0)

  def states(step, split):
    told = text.batch(settings, tokenizer, step, split)
    values = np.asarray(run(params, told["ids"], told["mask"]), np.float64)
    row, token = np.nonzero(told["mask"])
    return values[row, token], {name: label[row] for name, label in told["labels"].items()}

  known = [states(settings.steps + index, "crowd") for index in range(CAPTIONS)]
  features = np.concatenate([each for each, _ in known])
  held_out, wanted = states(0, "held_out")
  with_one = lambda x: np.concatenate([x, np.ones((len(x), 1))], 1)
  right = []
  for name, options in text.ATTRIBUTES.items():
    label = np.concatenate([labels[name] for _, labels in known])
    told = label != text.UNTOLD
    slopes = np.linalg.lstsq(with_one(features[told]), np.eye(len(options))[label[told]], rcond=None)[0]
    read, told = (with_one(held_out) @ slopes).argmax(-1), wanted[name] != text.UNTOLD
    right.append(float((read == wanted[name])[told].mean()))
  return {"read": float(np.mean(right)), "worst_read": min(right)}


def correlation(left: np.ndarray, right: np.ndarray) -> float:
  """Pearson's r of two [n]; 0 where one of them does not change."""
  if not (np.ptp(left) and np.ptp(right)):
    return 0.0
  return float(np.corrcoef(left, right)[0, 1])
