"""The whole path at full size: official files with random weights, conversion, one short clip.

    python scripts/full_size.py --image=portrait.jpg --audio=voice.wav --prompt=TEXT --work=DIR

Writes files of the released names, shapes and layouts into DIR (about 27 GB at the peak), converts
them, samples a few frames at a small size with every network at full size, prints seconds and peak
memory by part as a table, and deletes what it made. Needs PyTorch to write the .pth files
(`pip install -e '.[convert]'`).
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
from safetensors.numpy import save_file  # noqa: E402

from emv3_jax.errors import InputError  # noqa: E402
from tests.convert.released_names import checkpoint  # noqa: E402

NEEDED_GB = 45
BLOCK = np.random.default_rng(0).standard_normal(1 << 20, np.float32)


def random_tensor(name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
  """Values of about the size that trained ones have, from one repeated block of normals."""
  if name.endswith(("norm.weight", "gamma", "weight_g")) or ".norm" in name and "weight" in name:
    return np.ones(shape, getattr(ml_dtypes, dtype, dtype))
  fan_in = max(1, math.prod(shape[1:]))
  return np.asarray(np.resize(BLOCK, shape) * np.float32(fan_in ** -0.5)).astype(
      getattr(ml_dtypes, dtype, dtype))


def write_safetensors(path: pathlib.Path, names: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  save_file({name: random_tensor(name, *entry) for name, entry in checkpoint(names).items()}, path)


def write_pth(path: pathlib.Path, names: str, zero: bool = False) -> None:
  """A .pth of the released names; `zero` gives zeros, whose pages are never touched."""
  import torch
  path.parent.mkdir(parents=True, exist_ok=True)
  if zero:
    tensors = {name: torch.zeros(shape, dtype=getattr(torch, dtype))
               for name, (shape, dtype) in checkpoint(names).items()}
  else:
    tensors = {name: torch.from_numpy(random_tensor(name, *entry))
               for name, entry in checkpoint(names).items()}
  torch.save(tensors, path)


def sources(work: pathlib.Path) -> list[tuple[str, pathlib.Path, callable]]:
  """What is converted, in order: label, path given to the converter, how to write it."""
  base = work / "Wan2.1-Fun-V1.1-1.3B-InP"

  def tokenizer():
    folder = base / "google/umt5-xxl"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "emv3_jax/assets/tiny/tokenizer.json", folder)

  def umt5():
    write_pth(base / "models_t5_umt5-xxl-enc-bf16.pth", "umt5_xxl_encoder", zero=True)
    tokenizer()

  return [
      ("umT5-XXL (zeros) and tokenizer", base, umt5),
      ("CLIP", base, lambda: write_pth(
          base / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
          "clip_xlm_roberta_vit_h_14")),
      ("VAE", base, lambda: write_pth(base / "Wan2.1_VAE.pth", "wan_vae")),
      ("transformer (preview)", work / "EchoMimicV3/transformer", lambda: write_safetensors(
          work / "EchoMimicV3/transformer/diffusion_pytorch_model.safetensors",
          "preview_transformer")),
      ("wav2vec2", work / "wav2vec2-base-960h", lambda: write_safetensors(
          work / "wav2vec2-base-960h/model.safetensors",
          "wav2vec2_base_960h_checkpoint_ForCTC")),
  ]


def convert(source: pathlib.Path, dest: pathlib.Path) -> dict:
  """Converts in a process of its own; returns its seconds and peak memory."""
  finished = subprocess.run(
      [sys.executable, "-m", "tests.convert.peak_memory", source, dest], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, check=True)
  return json.loads(finished.stdout.splitlines()[-1])


def size_gb(path: pathlib.Path) -> float:
  return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e9


def check_disk(work: pathlib.Path) -> None:
  work.mkdir(parents=True, exist_ok=True)
  free = shutil.disk_usage(work).free / 1e9
  if free < NEEDED_GB:
    raise InputError(f"{work} has {free:.0f} GB free, {NEEDED_GB} GB are needed; choose another "
                     "--work.")


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--image", required=True)
  parser.add_argument("--audio", required=True)
  parser.add_argument("--prompt", default="A person is speaking.")
  parser.add_argument("--face_box", default="auto")
  parser.add_argument("--seconds", default="0.36", help="of audio: 0.36 is 9 frames")
  parser.add_argument("--side", type=int, default=128, help="about this many pixels square")
  parser.add_argument("--steps", type=int, default=2)
  parser.add_argument("--work", type=pathlib.Path, required=True, help="empty folder to work in")
  parser.add_argument("--out", default="outputs/full_size/clip.mp4")
  flags = parser.parse_args()
  check_disk(flags.work)
  model = flags.work / "model"
  rows = []
  try:
    for label, source, write in sources(flags.work):
      write()
      gigabytes = size_gb(source)
      figures = convert(source, model)
      rows.append((f"convert {label}", figures["seconds"], figures["peak_bytes"] / 2**30,
                   f"{gigabytes:.2f} GB of files"))
      shutil.rmtree(source)
    subprocess.run(
        [sys.executable, "run_sample.py", "--config=configs/echomimic_v3_preview.py",
         f"--checkpoint={model}", f"--image={flags.image}", f"--audio={flags.audio}",
         f"--prompt={flags.prompt}", f"--face_box={flags.face_box}", f"--seconds={flags.seconds}",
         f"--config.sampling.steps={flags.steps}",
         f"--config.sampling.max_area={flags.side ** 2}", "--config.prompt_cache=",
         f"--out={flags.out}"], cwd=ROOT, check=True)
    report = json.loads((ROOT / flags.out).with_suffix(".json").read_text())
    rows += [(f"sample {part}", seconds, report["peak_memory_gib"].get(part, float("nan")), "")
             for part, seconds in report["seconds"].items()]
  finally:
    shutil.rmtree(flags.work, ignore_errors=True)
  print("| part | seconds | peak GiB | |\n|---|---|---|---|")
  for part, seconds, peak, remark in rows:
    print(f"| {part} | {seconds:.1f} | {peak:.2f} | {remark} |")
  return 0


if __name__ == "__main__":
  try:
    sys.exit(main())
  except InputError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(2)
