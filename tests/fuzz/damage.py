"""Damage to the bytes of files, and values of any kind for JSON."""

import json
import random

import numpy as np

NAMES = ("", ".", "a\nb\nc\nd\ne", "x" * 5000, "\ud83d", "blocks.999999999.norm1.weight", "blocks.-1.q",
         "blocks.0.norm1.weight.", "model.model.model.norm.weight", "__metadata__", "\u2028", "norm.weight\0")
VALUES = (None, True, -1, 0, 3, 1 << 70, 1e999, float("nan"), "", "x", [], {}, [[]], [None], {"a": []}, "F32")
_FIELDS = ("num_heads", "dim", "d_model", "num_layers", "num_hidden_layers", "patch_size", "vision_config",
           "conv_stride", "conv_kernels", "latents_mean", "latent_std", "ffn_dim", "vocab_size", "text_len",
           "attention_head_dim", "num_attention_heads", "transformer", "text_encoder", "variant")


def value(rng: random.Random):
  return rng.choice(VALUES)


def changed(content: bytes, rng: random.Random) -> bytes:
  """Some bytes of the first thousand replaced, or a piece lost or doubled."""
  data = bytearray(content)
  kind = rng.randrange(4)
  at = rng.randrange(min(len(data), 1000))
  if kind == 0:
    for _ in range(rng.randrange(1, 30)):
      data[rng.randrange(min(len(data), 1000))] = rng.randrange(256)
  elif kind == 1:
    del data[at:]
  elif kind == 2:
    del data[at:at + rng.randrange(1, 100)]
  else:
    data[at:at] = data[:rng.randrange(1, 200)]
  return bytes(data)


def spoilt(content: bytes, rng: random.Random) -> bytes:
  """As `changed`, or damaged anywhere: bits, a hole of zeros, an early end, other content altogether."""
  if not content:
    return rng.randbytes(50)
  kind = rng.randrange(8)
  if kind < 2:
    return changed(content, rng)
  at = rng.randrange(len(content) + 1)
  if kind == 2:
    return content[:at]
  if kind == 3:
    data = bytearray(content)
    for _ in range(rng.choice((1, 10, 100))):
      data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)
  if kind == 4:
    return content[:at] + bytes(min(1000, len(content) - at)) + content[at + 1000:]
  return (b"", rng.randbytes(rng.choice((1, 8, 3000))), content + rng.randbytes(50))[kind - 5]


def other_header(content: bytes, rng: random.Random) -> bytes:
  """Names, dtypes, shapes and offsets of some tensors of a safetensors file replaced."""
  end = 8 + int.from_bytes(content[:8], "little")
  header = json.loads(content[8:end])
  if "__metadata__" in header and rng.random() < 0.4:
    header["__metadata__"] = other_json(header["__metadata__"], rng)
  names = sorted(header.keys() - {"__metadata__"})
  for name in rng.sample(names, min(len(names), rng.randrange(1, 4))):
    kind = rng.randrange(6)
    if kind == 0:
      header[rng.choice(NAMES)] = header.pop(name)
    elif kind == 1:
      header[name] = value(rng)
    elif kind == 2:
      header[name]["dtype"] = rng.choice(("F64", "I8", "F8_E4M3", "BOOL", "F4", value(rng)))
    elif kind == 3:
      header[name]["shape"] = rng.choice(([], [0], [1] * 70, [value(rng)], value(rng)))
    elif kind == 4:
      header[name]["data_offsets"] = rng.choice(([0], [9, 3], [value(rng), 4], value(rng)))
    else:
      shape = header[name]["shape"]
      header[name]["shape"] = rng.choice((shape[::-1], [1, *shape], [int(np.prod(shape))], [*shape, 0]))
      if header[name]["shape"][-1] == 0:
        header[name]["data_offsets"] = [0, 0]
  text = json.dumps(header).encode()
  return len(text).to_bytes(8, "little") + text + content[end:]


def network_fields(rng: random.Random) -> dict:
  """Fields of config files and of networks, with values of any kind."""
  return {name: value(rng) for name in rng.sample(_FIELDS, rng.randrange(1, 6))}


def other_json(content, rng: random.Random):
  """A JSON value with one part of it, at any depth, replaced, lost or renamed."""
  if not isinstance(content, (dict, list)) or not content or rng.random() < 0.15:
    return value(rng)
  if isinstance(content, list):
    at = rng.randrange(len(content))
    return [*content[:at], other_json(content[at], rng), *content[at + 1:]]
  name, kind = rng.choice(sorted(content)), rng.randrange(6)
  kept = {key: part for key, part in content.items() if key != name}
  if kind == 0:
    return kept
  return kept | ({rng.choice(NAMES): content[name]} if kind == 1 else {name: other_json(content[name], rng)})
