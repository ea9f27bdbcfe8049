"""Inputs for the commands that make clips and datasets; `tests.fuzz.more_commands` has the others."""

import os
import pathlib
import random
import shutil

from emv3_jax.data.index import read_index
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.sampling.settings import Config, SamplingConfig
from tests.fuzz import manifests, media, paths, settings
from tests.fuzz.folders import Stock, clip, job_of, prepare_arguments, sample_arguments, spoil
from tests.fuzz.shell import ROOT
from tests.fuzz.verdict import Case, are_clips, is_clip

TINY = f"--config={ROOT}/configs/tiny.py"
_NETWORKS = ("model.", "precision.", "mesh.")
_SAMPLING = [f"sampling.{name}" for name in settings.names_of(SamplingConfig)] + [
    name for name in settings.names_of(Config) if not name.startswith((*_NETWORKS, "sampling."))]
_TASKS = {"i2v": ("image",), "t2v": (), "flf2v": ("image", "last_image"), "lipsync": ("video",)}
_FLAGS = {"seconds": ("0.2", "0", "-1", "1e-9", "nan", "inf", "0.01"), "seed": ("0", "-1", "4294967296"),
          "face_box": ("auto", "none", "0,64,0,64", "1,2,3", "64,0,64,0", "a.npy", "nan,1,0,1"),
          "task": (*_TASKS, "i2i"), "negative_prompt": ("", "x", "🎉", "\ud83d", "\udcff"),
          "prompt": ("", "x" * 20_000, "a\nb", "\udcff", "\u202e"), "no_paste": (), "save_latents": (),
          "verify": (), "json": (), "strict": (), "process_id": ("0", "-1", "x"),
          "coordinator": ("x", ""), "num_processes": ("0", "1", "x"), "mesh": ("data=2",)}


def _caches(arguments: list[str], folder: pathlib.Path) -> tuple[str, ...]:
  """Folders that the settings name for what is kept."""
  given = settings.values_of(arguments, "--config.prompt_cache", "--config.program_cache")
  return tuple(os.path.normpath(os.path.join(folder, name)) for name in given)


def _kind(name: str) -> str:
  return {"audio": "sound", "video": "video"}.get(name, "picture")


def _own_model(folder: pathlib.Path, rng: random.Random) -> str:
  """A model folder that is damaged, or no model folder."""
  place = folder / "model"
  if rng.random() < 0.3:
    place.mkdir()
    return paths.source(place, rng)
  shutil.copytree(media.TINY / "model", place)
  spoil(place, rng)
  return str(place)


def sample_settings(folder: pathlib.Path, stock: Stock, rng: random.Random) -> Case:
  """Overrides of any field, printed."""
  arguments = [TINY, *settings.overrides(settings.names_of(Config), rng.choice((1, 1, 2, 5)), rng),
               "--print_config"]
  if rng.random() < 0.2:
    arguments.append(f"--checkpoint={_own_model(folder, rng)}")
  return Case("sample", arguments, folder)


def sample_clip(folder: pathlib.Path, stock: Stock, rng: random.Random) -> Case:
  """One clip with something wrong or odd in its files, paths, flags or settings."""
  task = rng.choice(("i2v", "i2v", "i2v", "flf2v", "lipsync"))
  files = ("audio", *_TASKS[task])
  wrong = rng.sample((*files, *files, *files, "out", "flags", "settings", "checkpoint", "file", "path"),
                     rng.choice((1, 1, 1, 2)))
  given = {name: media.write(folder, name, _kind(name), rng, spoil=name in wrong) for name in files}
  named = {name: str(path) for name, path in given.items()}
  if "path" in wrong:
    name = rng.choice(files)
    named[name] = paths.source(given[name], rng)
  out = str(folder / "clip.mp4")
  if "out" in wrong:
    out = paths.target(folder, "clip.mp4", list(given.values()), rng)
  arguments = [*sample_arguments(stock.root), "--prompt=a puppet", "--face_box=10,50,10,50", "--seconds=0.2",
               *([f"--task={task}"] if task != "i2v" else []), f"--out={out}"]
  arguments += [f"--{name}={path}" for name, path in named.items()]
  if "flags" in wrong:
    arguments += settings.flags(_FLAGS, rng.choice((1, 2)), rng)
  if "settings" in wrong:
    arguments += settings.overrides(_SAMPLING, rng.choice((1, 2)), rng)
  if "checkpoint" in wrong:
    arguments.append(f"--checkpoint={_own_model(folder, rng)}")
  if "file" in wrong:
    own = folder / "config.py"
    shutil.copy(ROOT / "configs/tiny.py", own)
    if rng.random() < 0.5:
      own.write_bytes(rng.choice((b"", b"\0", b"def get_config(): return 1", b"1/0", b"raise SystemExit(0)",
                                  b"get_config = 3", b"def get_config(): raise KeyError", b"import absent",
                                  b"def get_config(:", b"\xff", b"# coding: x\n", b"def get_config(): yield")))
    arguments[0] = f"--config={paths.source(own, rng)}"
  video = os.path.join(folder, out)
  outputs = tuple(os.path.splitext(video)[0] + ending for ending in (os.path.splitext(video)[1], ".json",
                                                                     ".latents.npy"))
  outputs = tuple(path for path in outputs if path not in {*named.values(), *map(str, given.values())})
  return Case("sample", arguments, folder, outputs, whole=lambda code, stdout: is_clip(video),
              notes=_caches(arguments, folder))


def sample_manifest(folder: pathlib.Path, stock: Stock, rng: random.Random) -> Case:
  """A manifest with anything in it."""
  wrong = rng.choice(("lines", "lines", "media", "media", "media", "path", "out", "flags", "again"))
  jobs = []
  for number in range(rng.choice((1, 2, 3))):
    jobs.append(job_of(*(
        media.write(folder, f"{name}{number}", kind, rng, spoil=wrong == "media" and rng.random() < 0.6)
        for name, kind in media.OF_A_CLIP)))
  keys = ["name", "seed", "video", "last_image", "negative_prompt", "task", "paste", "seconds", "face_box"]
  manifest = folder / "jobs.jsonl"
  manifest.write_bytes(manifests.content(jobs, keys, rng) if wrong == "lines" else
                       manifests.plain(jobs))
  named = paths.source(manifest, rng, pipe=False) if wrong == "path" else str(manifest)
  out = paths.target(folder, "clips", [manifest], rng) if wrong == "out" else str(folder / "clips")
  arguments = [*sample_arguments(stock.root), f"--manifest={named}", f"--out={out}"]
  if wrong == "flags":
    arguments += settings.flags(_FLAGS, 1, rng)
  if wrong == "again":  # over clips that are there, of which something is damaged
    shutil.copytree(stock.clips / "made", out)
    spoil(pathlib.Path(out), rng)
    arguments[-2] = f"--manifest={stock.clips}/jobs.jsonl"
    arguments += rng.choice(([], ["--verify"], ["--save_latents"], ["--strict"]))
  place = pathlib.Path(os.path.join(folder, out))
  return Case("sample", arguments, folder, (str(place),), codes=(0, 1),
              whole=lambda code, stdout: are_clips(place, code))


def prepare(folder: pathlib.Path, stock: Stock, rng: random.Random) -> Case:
  """Clips of any kind to a dataset."""
  wrong = rng.choice(("lines", "media", "media", "path", "out", "settings", "checkpoint", "again", "report", "report"))
  clips = []
  for number in range(rng.choice((1, 2))):
    video = media.write(folder, f"clip{number}", "video", rng, spoil=wrong == "media")
    clips.append(clip(number, video.name))
  name, content = "clips.jsonl", manifests.plain(clips)
  if wrong == "lines":
    name, content = manifests.of_clips(clips, ["mouth_box", "report", "id", "type"], rng)
  manifest = folder / name
  manifest.write_bytes(content)
  named = paths.source(manifest, rng, pipe=False) if wrong == "path" else str(manifest)
  out = paths.target(folder, "data", [manifest], rng) if wrong == "out" else str(folder / "data")
  if wrong == "again":
    shutil.copytree(stock.prepared / "data", out)
    spoil(pathlib.Path(out), rng)
    named = str(stock.prepared / "clips.jsonl")
  if wrong == "report":  # a clip that the model made
    made = folder / "made"
    shutil.copytree(stock.clips / "made", made)
    spoil(made, rng)
    manifest.write_bytes(manifests.plain([{"id": "a", "video": "made/one.mp4", "report": "made/one.json"}]))
  arguments = [*prepare_arguments(stock.root), f"--manifest={named}", f"--out={out}",
               *(["--skip_bad"] if rng.random() < 0.3 else [])]
  if wrong == "settings":
    names = [f"prepare.{name}" for name in settings.names_of(PrepareConfig)]
    arguments += settings.overrides([*names, *names, *settings.names_of(Config)], rng.choice((1, 2)), rng)
  if wrong == "checkpoint":
    arguments.append(f"--checkpoint={_own_model(folder, rng)}")
  place = pathlib.Path(os.path.join(folder, out))
  return Case("prepare", arguments, folder, codes=(0, 1), notes=(str(place),),  # reasons of rejections
              whole=lambda code, stdout: None if read_index(place).shards else "no shards")
