"""EchoMimicV3 in JAX: a portrait, a voice and a prompt become a talking human video.

  import emv3_jax
  model = emv3_jax.load("models/preview")  # or "tiny", the small default: puppets only
  request = emv3_jax.Request(image="portrait.png", audio="voice.wav", prompt="A person speaks.")
  clip = emv3_jax.sample(model, request)
  emv3_jax.write(clip, "clip.mp4")
  for frames in emv3_jax.stream(model, request):  # uint8 [n, H, W, 3], as soon as they are final
    print(frames.shape)
"""

import importlib
import os
import typing

from emv3_jax.errors import InputError
from emv3_jax.runtime import checkout

if typing.TYPE_CHECKING:
  from emv3_jax.sampling.clip import Clip, sample, stream
  from emv3_jax.sampling.model import Model, load
  from emv3_jax.sampling.output import write
  from emv3_jax.sampling.settings import Config, Request

__version__ = "0.1.0"

__all__ = ["Clip", "Config", "InputError", "Model", "Request", "load", "sample", "stream", "write"]

# Imported at the first use: networks, plans and benchmarks run where PyAV and its like are not installed, and a
# process that samples nothing starts in a part of the time.
_MODULES = {"Clip": "clip", "sample": "clip", "stream": "clip", "Model": "model", "load": "model",
            "write": "output", "Config": "settings", "Request": "settings"}

if not typing.TYPE_CHECKING:  # type checkers have the names from above, and report others
  def __getattr__(name: str):
    if name not in _MODULES:
      raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.sampling.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


checkout.add_folders_beside()
# transformers warns when it is imported without PyTorch, which nothing here needs.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
