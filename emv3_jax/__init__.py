"""EchoMimicV3 in JAX: a portrait, a voice and a prompt become a talking human video.

  import emv3_jax
  model = emv3_jax.load("models/preview")  # or "tiny", the small default: puppets only
  request = emv3_jax.Request(image="portrait.png", audio="voice.wav", prompt="A person speaks.")
  clip = emv3_jax.sample(model, request)
  emv3_jax.write(clip, "clip.mp4")
"""

import pathlib

from emv3_jax.errors import InputError
from emv3_jax.sampling.clip import Clip, sample
from emv3_jax.sampling.model import Model, load
from emv3_jax.sampling.output import write
from emv3_jax.sampling.settings import Config, Request

__version__ = "0.1.0"

__all__ = ["Clip", "Config", "InputError", "Model", "Request", "load", "sample", "write"]

# A wheel carries configs/ and convert/ within this package; in a checkout they lie beside it.
if not (pathlib.Path(__file__).parent / "configs").exists():
  __path__.append(str(pathlib.Path(__file__).parents[1]))
