"""The whole path at full size: official files with random weights, conversion, one short clip.

    python scripts/full_size.py --image=portrait.jpg --audio=voice.wav --prompt=TEXT --work=DIR

Writes files of the released names, shapes and layouts into DIR (about 27 GB at the peak), converts
them, samples a few frames at a small size with every network at full size, starts a second time for
another seed, prints seconds and peak memory by part and the seconds of both starts by kind, and
deletes what it made. Needs PyTorch to write the .pth files (`pip install -e '.[convert]'`).
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

from emv3_jax.convert import released  # noqa: E402
from emv3_jax.errors import InputError  # noqa: E402
from emv3_jax.runtime.start_up import KINDS  # noqa: E402

TINY = ROOT / "emv3_jax/assets/tiny"
NEEDED_GB = 45
BLOCK = np.random.default_rng(0).standard_normal(1 << 20, np.float32)


def random_tensor(name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
  """Values of about the size that trained ones have, from one repeated block of normals."""
  if name.endswith(("norm.weight", "gamma", "weight_g")) or ".norm" in name and "weight" in name:
    return np.ones(shape, getattr(ml_dtypes, dtype, dtype))
  fan_in = max(1, math.prod(shape[1:]))
  return np.asarray(np.resize(BLOCK, shape) * np.float32(fan_in ** -0.5)).astype(
      getattr(ml_dtypes, dtype, dtype))


def write_safetensors(path: pathlib.Path, component: str, variant: str | None = None) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  save_file({name: random_tensor(name, *entry)
             for name, entry in released.tensors(component, variant).items()}, path)


def write_pth(path: pathlib.Path, component: str, zero: bool = False) -> None:
  """A .pth of the released names; `zero` gives zeros, whose pages are never touched."""
  import torch
  path.parent.mkdir(parents=True, exist_ok=True)
  if zero:
    tensors = {name: torch.zeros(shape, dtype=getattr(torch, dtype))
               for name, (shape, dtype) in released.tensors(component).items()}
  else:
    tensors = {name: torch.from_numpy(random_tensor(name, *entry))
               for name, entry in released.tensors(component).items()}
  torch.save(tensors, path)


def sources(work: pathlib.Path) -> list[tuple[str, pathlib.Path, callable]]:
  """What is converted, in order: label, path given to the converter, how to write it."""
  base = work / "Wan2.1-Fun-V1.1-1.3B-InP"

  def tokenizer():
    folder = base / "google/umt5-xxl"
    folder.mkdir(parents=True)
    shutil.copy(TINY / "tokenizer.json", folder)

  def umt5():
    write_pth(base / "models_t5_umt5-xxl-enc-bf16.pth", "text_encoder", zero=True)
    tokenizer()

  return [
      ("umT5-XXL (zeros) and tokenizer", base, umt5),
      ("CLIP", base, lambda: write_pth(
          base / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", "image_encoder")),
      ("VAE", base, lambda: write_pth(base / "Wan2.1_VAE.pth", "vae")),
      ("transformer (preview)", work / "EchoMimicV3/transformer", lambda: write_safetensors(
          work / "EchoMimicV3/transformer/diffusion_pytorch_model.safetensors", "transformer",
          "preview")),
      ("wav2vec2", work / "wav2vec2-base-960h", lambda: write_safetensors(
          work / "wav2vec2-base-960h/model.safetensors", "audio_encoder")),
  ]


def convert(source: pathlib.Path, dest: pathlib.Path) -> dict:
  """Converts in a process of its own; returns its seconds and peak memory."""
  finished = subprocess.run(
      [sys.executable, "-m", "scripts.peak_memory", source, dest], cwd=ROOT, text=True,
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


def convert_all(work: pathlib.Path, model: pathlib.Path) -> list[tuple[str, float, float, str]]:
  """Writes and converts one part after another; rows of the table."""
  rows = []
  for label, source, write in sources(work):
    write()
    gigabytes = size_gb(source)
    figures = convert(source, model)
    rows.append((f"convert {label}", figures["seconds"], figures["peak_bytes"] / 2**30,
                 f"{gigabytes:.2f} GB of files"))
    shutil.rmtree(source)
  return rows


def start(flags, model: pathlib.Path, seed: int) -> dict:
  """Samples in a process of its own; returns what --json says, and its report's peak memory."""
  video = ROOT / flags.out
  finished = subprocess.run(
      [sys.executable, "run_sample.py", "--config=configs/echomimic_v3_preview.py", "--json",
       f"--checkpoint={model}", f"--image={flags.image}", f"--audio={flags.audio}",
       f"--prompt={flags.prompt}", f"--face_box={flags.face_box}", f"--seconds={flags.seconds}",
       f"--config.sampling.steps={flags.steps}", f"--seed={seed}",
       f"--config.sampling.height={flags.side}", f"--config.sampling.width={flags.side}",
       f"--config.prompt_cache={flags.work / 'prompts'}",
       f"--config.program_cache={flags.work / 'programs'}", f"--out={flags.out}"],
      cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE)
  report = json.loads(video.with_suffix(".json").read_text())
  return {**json.loads(finished.stdout), "peaks": report["peak_memory_gib"]}


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--image", default=TINY / "portrait.png")
  parser.add_argument("--audio", default=TINY / "speech.wav")
  parser.add_argument("--prompt", default="A person is speaking.")
  parser.add_argument("--face_box", default=(TINY / "face_box.txt").read_text().strip())
  parser.add_argument("--seconds", default="0.68", help="of audio: 0.68 is 17 frames")
  parser.add_argument("--side", type=int, default=64, help="of the square pictures, in pixels")
  parser.add_argument("--steps", type=int, default=2)
  parser.add_argument("--work", type=pathlib.Path, required=True, help="empty folder to work in")
  parser.add_argument("--model", type=pathlib.Path,
                      help="where to keep the converted model; one that is there is taken as it is")
  parser.add_argument("--out", default="outputs/full_size/clip.mp4")
  flags = parser.parse_args()
  model = flags.model or flags.work / "model"
  rows = []
  try:
    if not model.exists():
      check_disk(flags.work)
      rows += convert_all(flags.work, model)
    starts = [start(flags, model, seed) for seed in (1, 2)]
  finally:
    shutil.rmtree(flags.work, ignore_errors=True)
  rows += [(f"sample {part}", seconds, starts[0]["peaks"].get(part, float("nan")), "")
           for part, seconds in starts[0]["parts"].items()]
  print("| part | seconds | peak GiB | |\n|---|---|---|---|")
  for part, seconds, peak, remark in rows:
    print(f"| {part} | {seconds:.1f} | {peak:.2f} | {remark} |")
  print("\n| seconds | first start | second start |\n|---|---|---|")
  for kind in (*KINDS, "total"):
    print(f"| {kind} |" + "".join(f" {found['seconds'][kind]:.1f} |" for found in starts))
  for kind in starts[0]["programs"]:
    print(f"| programs {kind} |" + "".join(f" {found['programs'][kind]} |" for found in starts))
  return 0


if __name__ == "__main__":
  try:
    sys.exit(main())
  except InputError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(2)
