"""`python -m emv3_jax.verify` at full size, on files of the released names with random values.

    python scripts/verify_full_size.py --work=DIR [--variant=flash] [--reference=CHECKOUT]

Writes the files of some components into DIR, converts them, verifies them in a process of its own
and deletes everything, before it goes on to the next (DIR needs 25 GB, 20 GB of them for umT5).
Prints rows, seconds and peak memory. Needs the extra `parity`.
"""

import argparse
import json
import math
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import ml_dtypes  # noqa: E402
import numpy as np  # noqa: E402

from emv3_jax import variants  # noqa: E402
from emv3_jax.convert import released  # noqa: E402

CODES = {"float32": "F32", "bfloat16": "BF16"}
NORMAL = np.random.default_rng(0).standard_normal(1 << 22, np.float32)
GAINS = ("norm.weight", "gamma", "weight_g", "norm1.weight", "norm2.weight", "norm3.weight",
         "norm_q.weight", "norm_k.weight", "norm_k_img.weight", "norm_k_audio.weight",
         "proj.0.weight", "proj.4.weight")
GROUPS = (("text_encoder",), ("image_encoder",), ("audio_encoder",), ("vae", "transformer"))


def values(name: str, shape: tuple[int, ...], start: int) -> np.ndarray:
  """At most a block of values, float32, for a tensor that repeats them."""
  block = np.roll(NORMAL, start)[:math.prod(shape)]
  if name.endswith(GAINS):
    return 1 + 0.1 * block
  if name.endswith("bias"):
    return 0.1 * block
  if "embedding.weight" in name and len(shape) == 2 and shape[0] > 1 << 17:
    return block  # the table of umT5
  scale = math.prod(shape[1:]) ** -0.5
  # umT5 does not divide its logits by the root of the head's width: its queries are smaller.
  return block * np.float32(scale / 8 if name.endswith("attn.q.weight") and "blocks" in name
                            else scale)


def write(path: pathlib.Path, component: str, variant: str | None) -> None:
  """A safetensors file, written piece by piece."""
  header, end, tensors = {}, 0, released.tensors(component, variant)
  for name, (shape, dtype) in tensors.items():
    size = math.prod(shape) * np.dtype(getattr(ml_dtypes, dtype, dtype)).itemsize
    header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [end, end + size]}
    end += size
  path.parent.mkdir(parents=True)
  with path.open("wb") as file:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for number, (name, (shape, dtype)) in enumerate(tensors.items()):
      block = values(name, shape, 9973 * number).astype(getattr(ml_dtypes, dtype, dtype))
      left = math.prod(shape)
      while left:
        file.write(block[:left].tobytes())
        left -= min(left, len(block))


def verify(work: pathlib.Path, group: tuple[str, ...], flags) -> dict:
  """Files, folder and comparison of some components."""
  try:
    for component in group:
      variant = flags.variant if component == "transformer" else None
      write(work / component / "model.safetensors", component, variant)
      subprocess.run([sys.executable, "-m", "convert", work / component, work / "model"], cwd=ROOT,
                     check=True)
    parts = ",".join((*group, "run") if "transformer" in group else group)
    command = [sys.executable, "-m", "emv3_jax.verify", f"--checkpoint={work / 'model'}",
               f"--sources={work}", f"--parts={parts}", f"--steps={flags.steps}", "--json"]
    command += [f"--reference={flags.reference}"] if flags.reference else []
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=False)
    return json.loads(done.stdout)
  finally:
    shutil.rmtree(work)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--work", type=pathlib.Path, required=True, help="folder to work in")
  parser.add_argument("--variant", default="preview", choices=variants.names())
  parser.add_argument("--reference", help="checkout of the released code")
  parser.add_argument("--steps", type=int, default=4)
  parser.add_argument("--groups", default=",".join(group[0] for group in GROUPS),
                      help="first components of the groups to verify")
  flags = parser.parse_args()
  held, rows, costs = True, [], []
  for group in GROUPS:
    if group[0] in flags.groups.split(","):
      found = verify((flags.work / group[0]).absolute(), group, flags)
      held = held and found["holds"]
      rows += [f"| {row['module']} | {row['error']:.1e} | {row['tolerance']:.0e} | "
               f"{'holds' if row['holds'] else 'FAILS ' + row['remark']} |" for row in found["rows"]]
      costs += [f"| {part} | {seconds:.0f} | {found['peak_memory_gib'].get(part, math.nan):.1f} |"
                for part, seconds in found["seconds"].items()]
      print(*rows, "", *costs, sep="\n", flush=True)
  print(f"against {found['against']}; {found['versions']}")
  return 0 if held else 1


if __name__ == "__main__":
  sys.exit(main())
