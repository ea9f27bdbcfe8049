"""Measures what int8 weights change: full-width networks with random weights, and a clip of the small default.

  python scripts/int8_error.py                       # about 5 GB and ten minutes of two cores
  python scripts/int8_error.py --layers=30           # all layers of the transformer: 12 GB

Prints a line of JSON for each: the error of a network is the norm of the difference to float32 over the norm of the
output, with bfloat16 weights and activations beside it; that of a clip the PSNR of its frames to those of float32.
"""

import argparse
from collections.abc import Callable
import dataclasses
import functools
import json
import math
import pathlib

import jax
import numpy as np

import emv3_jax
from emv3_jax.configs import tiny
from emv3_jax.models import int8, transformer, umt5
from emv3_jax.models.network import Network, Params
from emv3_jax.models.precision import FLOAT32, Precision
from emv3_jax.models.rope import rope_table, time_sinusoid
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.settings import Config, Request

INT8 = Precision("int8", "float32")
PRECISIONS = {"int8": INT8, "bfloat16": Precision("bfloat16", "bfloat16")}
ASSETS = pathlib.Path(emv3_jax.__file__).parent / "assets/tiny"
GRID = (3, 16, 16)  # latent frames, rows and columns of tokens


def velocity(layers: int, precision: Precision) -> tuple[Network, Callable, tuple]:
  """The transformer at its full width, and what it is called with."""
  config = transformer.TransformerConfig(num_layers=layers)
  normal = functools.partial(np.random.default_rng(1).standard_normal, dtype=np.float32)
  f, h, w = GRID
  conditions = normal((1, 60, 4096)), normal((1, 257, 1280)), normal((1, 2 * (4 * f - 3), 768))
  video = normal((1, f, 2 * h, 2 * w, 16)), normal((1, f, 2 * h, 2 * w, 20)), time_sinusoid(np.array([400.0]), 256)
  network, table = transformer.network(config, precision), rope_table(GRID, config.head_dim)

  def run(params, conditions, video):
    model = network.bind(params)
    return model(*video, model.project(*conditions), rope=table)

  return network, run, (conditions, video)


def text_states(layers: int, precision: Precision) -> tuple[Network, Callable, tuple]:
  """umT5 at its full width with a few of its layers and words."""
  network = umt5.network(umt5.UMT5Config(vocab_size=1000, num_layers=layers), precision)
  ids = np.random.default_rng(1).integers(0, 1000, (1, 60), np.int32)
  return network, lambda params, ids: network.bind(params)(ids), (ids,)


def errors(make, layers: int) -> dict[str, float]:
  network, run, args = make(layers, FLOAT32)
  params = network.untrained(0)
  queries = params["blocks"]["attn"]["q"] if "attn" in params["blocks"] else {}
  for name in queries:  # umT5 does not divide its logits: its queries are small
    queries[name] *= 64 ** -0.5
  want = np.asarray(jax.jit(run)(params, *args))
  found = {}
  for name, precision in PRECISIONS.items():
    network, run, args = make(layers, precision)
    got = np.asarray(jax.jit(run)(converted(params, network.abstract), *args))
    found[name] = float(np.linalg.norm(got - want) / np.linalg.norm(want))
  return found


def converted(params: Params, kinds: Params) -> Params:
  """The parameters with the dtypes of `kinds`, quantised where it is."""
  convert = lambda kind, leaf: int8.like(leaf if int8.is_pair(kind) else leaf.astype(kind.dtype), kind)
  return jax.tree.map(convert, kinds, params, is_leaf=int8.is_pair)


def psnr(steps: int) -> float:
  """A clip of the small default with int8 transformer and umT5, against the same in float32."""
  config = config_lib.build(Config, tiny.get_config())
  config = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, steps=steps or None))
  quantised = dataclasses.replace(config.precision, transformer=INT8, text_encoder=INT8)
  request = Request(audio=ASSETS / "speech.wav", image=ASSETS / "portrait.png", seed=1,
                    prompt=(ASSETS / "prompt.txt").read_text().strip(), face_box=(ASSETS / "face_box.txt").read_text().strip())
  frames = [emv3_jax.sample(emv3_jax.load(config=each), request).frames.astype(np.float64)
            for each in (config, dataclasses.replace(config, precision=quantised))]
  return 10 * math.log10(255 ** 2 / np.square(frames[0] - frames[1]).mean())


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--layers", type=int, default=12, help="of the transformer")
  parser.add_argument("--text_layers", type=int, default=3, help="of umT5")
  parser.add_argument("--steps", type=int, default=0, help="of the clip; 0: those that the model recommends")
  flags = parser.parse_args()
  for name, make, layers in (("transformer", velocity, flags.layers), ("text_encoder", text_states, flags.text_layers)):
    print(json.dumps({"network": name, "layers": layers, "relative_error": errors(make, layers)}), flush=True)
  print(json.dumps({"clip": "small default", "steps": flags.steps, "psnr": psnr(flags.steps)}), flush=True)


if __name__ == "__main__":
  main()
