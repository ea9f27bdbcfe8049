"""Folders that commands read: models, datasets, runs, files to convert; and damage to them."""

import functools
import json
import pathlib
import random
import shutil

import numpy as np
from safetensors.numpy import save

from tests.convert.test_conversion import official
from tests.fuzz import manifests, media
from tests.fuzz.damage import other_header, other_json, spoilt
from tests.fuzz.shell import ROOT
from tests.training import runs
from tests.verify import small_model

SOURCES = ("umt5", "wav2vec2", "clip", "vae", "preview", "flash", "base")


class Stock:
  """What inputs take copies of, made when it is first asked for; `run(name, arguments)` runs a command."""

  def __init__(self, root: pathlib.Path, run):
    self.root, self._run = root, run

  @functools.cached_property
  def training(self) -> pathlib.Path:
    """`config.py` of a run of two steps, and the dataset and weights that it names."""
    folder = self.root / "training"
    folder.mkdir()
    config = runs.config_of(folder, steps=2, log_every=1, checkpoint_every=1)
    runs.write_config(config, folder / "config.py")
    return folder

  @functools.cached_property
  def run(self) -> pathlib.Path:
    """The folder of that run, at its end."""
    folder = self.root / "run"
    code = self._run("train", [f"--config={self.training}/config.py", f"--workdir={folder}"])
    assert code == 0, f"the run to take copies of ended with {code}"
    return folder

  @functools.cached_property
  def clips(self) -> pathlib.Path:
    """A folder with a portrait, a voice, a manifest of one job, and in `made` the clip of it."""
    folder = self.root / "clips"
    folder.mkdir()
    job = {"name": "one", **job_of(*(media.write(folder, name, kind) for name, kind in media.OF_A_CLIP))}
    (folder / "jobs.jsonl").write_bytes(manifests.plain([job]))
    code = self._run("sample", [*sample_arguments(self.root), f"--manifest={folder}/jobs.jsonl",
                                f"--out={folder}/made"])
    assert code == 0, f"the clip to take copies of ended with {code}"
    return folder

  @functools.cached_property
  def prepared(self) -> pathlib.Path:
    """A folder with a video and its manifest, and in `data` the dataset that was made of them."""
    folder = self.root / "prepared"
    folder.mkdir()
    (folder / "clip0.mp4").write_bytes(media.talking())
    (folder / "clips.jsonl").write_bytes(manifests.plain([clip(0, "clip0.mp4")]))
    code = self._run("prepare", [*prepare_arguments(self.root), f"--manifest={folder}/clips.jsonl",
                                 f"--out={folder}/data"])
    assert code == 0, f"the dataset to take copies of ended with {code}"
    return folder

  @functools.cached_property
  def converted(self) -> pathlib.Path:
    """A model folder with a text encoder, and beside it the files that it was made of."""
    return small_model.make(self.root / "converted", ["text_encoder"])[0]

  @functools.cache  # noqa: B019 (there is one of them, and it lives as long as the process)
  def tensors(self, name: str) -> tuple[bytes, dict]:
    """A safetensors file of released names, and what its shapes do not tell."""
    tensors, given = official(name, np.random.default_rng(0))
    return save(tensors), given


def sample_arguments(root: pathlib.Path) -> list[str]:
  """The smallest clips of the tiny networks."""
  return [f"--config={ROOT}/configs/tiny.py", f"--config.program_cache={root}/programs",
          "--config.sampling.steps=1", "--config.sampling.enlarge=1"]


def job_of(audio: pathlib.Path, image: pathlib.Path) -> dict:
  """A line of a manifest of clips to make."""
  return {"audio": audio.name, "image": image.name, "prompt": "a puppet", "face_box": [10, 50, 10, 50],
          "seconds": 0.2}


def clip(number: int, video: str) -> dict:
  """A line of a manifest of clips to prepare."""
  return {"id": f"clip {number}", "video": video, "prompt": "a puppet", "face_box": "10,50,10,50"}


def prepare_arguments(root: pathlib.Path) -> list[str]:
  """Windows of 5 frames, encoded one at a time, as sampling encodes."""
  return [f"--config={ROOT}/configs/prepare_tiny.py", f"--config.program_cache={root}/programs",
          *(f"--config.prepare.{name}=1" for name in ("text_batch", "image_batch", "video_batch")),
          "--config.prepare.frames=5"]


def spoil(folder: pathlib.Path, rng: random.Random) -> None:
  """Damages one or two things in a folder: bytes of a file, a part of its JSON, or what is there at all."""
  for _ in range(rng.choice((1, 1, 2))):
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    # A few large folders would be all that is ever looked into.
    plain = [path for path in files if path.suffix in (".json", ".jsonl", ".safetensors", ".npy")]
    if not files:
      return
    path, kind = rng.choice(plain if plain and rng.random() < 0.6 else files), rng.randrange(8)
    if path.suffix == ".json" and kind < 4:
      try:
        path.write_text(json.dumps(other_json(json.loads(path.read_bytes()), rng)))
      except (ValueError, RecursionError):  # damaged before
        path.write_bytes(rng.choice((b"[" * 100_000, b"\xff\xfe", b"{}")))
    elif path.suffix == ".safetensors" and kind < 4 and path.stat().st_size > 20:
      path.write_bytes(other_header(path.read_bytes(), rng))
    elif kind < 5:
      path.write_bytes(spoilt(path.read_bytes(), rng))
    else:
      _misplace(path if kind < 7 else rng.choice([path.parent, path]), rng)


def _misplace(path: pathlib.Path, rng: random.Random) -> None:
  """Something else, or nothing, where a file or folder was."""
  kind = rng.randrange(6)
  other = path.with_name(f"{path.name}.away")
  path.rename(other)
  if kind == 0:
    path.mkdir()
  elif kind == 1:
    path.write_bytes(b"[" * 100_000)
  elif kind == 2:
    path.symlink_to(path.name)
  elif kind == 3:
    path.symlink_to(rng.choice(("absent", "/dev/null", "/dev/full")))
  elif kind == 4:
    path.write_bytes(b"")
  if rng.random() < 0.8:
    shutil.rmtree(other) if other.is_dir() else other.unlink()
