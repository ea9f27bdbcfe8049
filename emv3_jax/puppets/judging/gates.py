"""What a trained part has to show before the transformer is trained on it: held-out puppets."""

from collections.abc import Sequence

import jax
import numpy as np

from emv3_jax.geometry import RATE
from emv3_jax.io.pixels import to_uint8
from emv3_jax.metrics.lip_sync import correlation
from emv3_jax.models.network import Network, Params
from emv3_jax.puppets import world
from emv3_jax.puppets.training.footage import Footage
from emv3_jax.puppets.world import readers
from emv3_jax.puppets.world.sentences import Sentence, speech
from emv3_jax.variants.preview import PREVIEW

# Of the stages whose weights are kept; `vae` need not pass, it is where `wide` starts.
WANTED = {"wide": {"opening_r": 0.95, "mouth_psnr": 28.0, "hand_psnr": 28.0},
          "audio": {"opening_r": 0.9}}
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
  """Fits a ridge regression from a frame's two tokens to its opening; tries it on other voices.

  Returns:
    opening_r: correlation over all frames of held-out sentences; median_r, least_r: of one.
  """
  run = jax.jit(lambda params, waveform: network.bind(params)(waveform))

  def read(spoken: Sentence):
    samples = speech(spoken.name)
    features = run(params, PREVIEW.waveform(samples, spoken.frames)[None])[0]
    features = np.asarray(features, np.float64).reshape(spoken.frames, -1)
    return features, world.mouth_curve(samples, RATE, spoken.frames)

  features, openings = map(np.concatenate, zip(*map(read, known), strict=True))
  mean, target = features.mean(0), openings.mean()
  centred = features - mean
  covariance = centred.T @ centred / len(centred)
  ridge = RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
  slope = np.linalg.solve(covariance + ridge, centred.T @ (openings - target) / len(centred))
  guesses, truths = [], []
  for spoken in held_out:
    features, opening = read(spoken)
    guesses.append((features - mean) @ slope + target)
    truths.append(opening)
  each = [correlation(*pair) for pair in zip(guesses, truths, strict=True)]
  return {"opening_r": correlation(np.concatenate(guesses), np.concatenate(truths)),
          "median_r": float(np.median(each)), "least_r": float(np.min(each))}
