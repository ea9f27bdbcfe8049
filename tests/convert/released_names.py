"""Names, shapes and dtypes of the released checkpoints, and files made from them.

Tests convert such files: the released names with random values, at full size or shrunken.
"""

import functools
import gzip
import json
import pathlib

import ml_dtypes
import numpy as np

from tests import golden_data

CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "int64": "I64"}


@functools.cache
def _content() -> dict:
  return json.loads(gzip.decompress((golden_data.LOCAL / "keys" / "released.json.gz").read_bytes()))


def checkpoint(name: str) -> dict[str, tuple[tuple[int, ...], str]]:
  """{tensor name: (shape, dtype)} of a released file, e.g. "preview_transformer"."""
  return {key: (tuple(shape), dtype) for key, (shape, dtype) in _content()["checkpoints"][name].items()}


def names_map(name: str) -> dict[str, str]:
  """{official name: other name}, e.g. "diffusers_vae"."""
  return _content()["maps"][name]


def random_tensors(shapes: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
  """Small tensors with random bits of finite numbers."""
  return {name: rng.standard_normal(shape, np.float32).astype(dtype)
          for name, (shape, dtype) in shapes.items()}


def write_safetensors(path: pathlib.Path, shapes: dict, seed: int = 0) -> None:
  """Writes a full-size file tensor by tensor: random 16-bit or 32-bit patterns without NaN."""
  rng = np.random.default_rng(seed)
  header, end = {}, 0
  for name, (shape, dtype) in shapes.items():
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(getattr(ml_dtypes, dtype, dtype)).itemsize
    header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [end, end + size]}
    end += size
  with path.open("wb") as file:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for entry in header.values():
      left = entry["data_offsets"][1] - entry["data_offsets"][0]
      while left:
        piece = rng.integers(0, 0x3f, min(left, 1 << 24), np.uint8)  # exponents far from NaN
        file.write(piece.tobytes())
        left -= piece.size
