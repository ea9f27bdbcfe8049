"""Inputs for training, conversion, comparison, planning and puppets."""

import json
import os
import pathlib
import pickle
import random
import shutil

from emv3_jax.io.model_card import CARD, read_model_card
from emv3_jax.puppets.world.mp4 import MANIFEST
from emv3_jax.training.settings import Config
from tests.fuzz import paths, settings
from tests.fuzz.commands import TINY
from tests.fuzz.damage import network_fields, other_header, spoilt
from tests.fuzz.folders import SOURCES, Stock, spoil
from tests.fuzz.verdict import Case

_TRAIN_FLAGS = {"profile_steps": ("0:1", "1:0", "a", "0:9999999999"), "json": (), "mesh": ("data=2",),
                "process_id": ("0", "x"), "coordinator": ("x",), "num_processes": ("1",),
                "export": ("", "x")}
_REAL = [name for name in settings.names_of(Config) if not name.startswith("mesh.")]
_TARGETS = ("", "v5e", "v5e:0x0", "v5e:2x2x2", "v9:1", "h100", "h100:1x1", "v5e:x", "cpu", "v5e:2x2,", ",",
            "V5E:2x2", "v5e:-1x2", "v5e:" + "9" * 5000 + "x1", "v5e:2\n", "v5e：2x2")
_CONVERT_FLAGS = {"component": ("auto", "transformer", "vae", "text_encoder", "x"), "replace": (),
                  "dtype": ("keep", "bfloat16", "float64"), "key": ("ema", "", "model", "\udcff", "a.b"),
                  "config_json": ("{}", "[]", "{", '{"num_heads": 3}', "absent.json", "/dev/null", "[" * 3000,
                                  '{"vae": 1}', '{"text_encoder": {"num_heads": 1e999}}', "\udcff")}
_VERIFY_FLAGS = {"parts": ("vae", "run", "x", "", "text_encoder,", ","), "frames": ("5", "6", "-1", "1e3"),
                 "height": ("32", "33", "0"), "width": ("-16", "x"), "steps": ("0", "1"), "seed": ("-1", "x"),
                 "sources": ("absent", "", ",", "/dev/null"), "reference": ("absent", "/dev/null", ".")}


def train_settings(folder: pathlib.Path, stock: Stock, rng: random.Random) -> Case:
  arguments = [f"--config={stock.training}/config.py",
               *settings.overrides(settings.names_of(Config), rng.choice((1, 1, 2, 5)), rng), "--print_config"]
  return Case("train", arguments, folder)


def train_run(folder: pathlib.Path, stock: Stock, rng: random.Random) -> Case:
  """A run anew, or one that goes on from a folder, whose settings, folders or dataset are damaged."""
  wrong = rng.choice(("settings", "settings", "data", "weights", "run", "run", "run", "workdir", "flags"))
  arguments = [f"--config={stock.training}/config.py"]
  workdir, data = folder / "run", stock.training / "data"
  if wrong == "run" or rng.random() < 0.4:
    shutil.copytree(stock.run, workdir)
  if wrong == "run":
    spoil(workdir, rng)
    if rng.random() < 0.3:
      arguments.append(f"--export{rng.choice(('', f'={folder}/model', f'={workdir}/model'))}")
  if wrong == "data":
    own = folder / "data"
    shutil.copytree(data, own)
    spoil(own, rng)
    arguments.append(f"--config.data={paths.source(own, rng) if rng.random() < 0.3 else own}")
  if wrong == "weights":
    own = folder / "weights"
    shutil.copytree(stock.training / "weights", own)
    spoil(own, rng)
    arguments.append(f"--config.checkpoint={paths.source(own, rng) if rng.random() < 0.3 else own}")
  if wrong == "settings":
    arguments += settings.overrides(_REAL, rng.choice((1, 2)), rng)
  if wrong == "flags":
    arguments += settings.flags(_TRAIN_FLAGS, 1, rng)
  named = paths.target(folder, "work", [], rng) if wrong == "workdir" else str(workdir)
  place = os.path.join(folder, named)
  exported = settings.values_of(arguments, "--export")
  made = (place, *(os.path.join(folder, name) for name in exported))
  return Case("train", [*arguments, f"--workdir={named}"], folder, made, codes=(0, 1, 75), notes=(place,),
              whole=lambda code, stdout: None)


def plan(folder: pathlib.Path, stock: Stock, rng: random.Random) -> Case:
  """Targets that are none, or meshes that are not theirs: nothing is compiled."""
  config, command = rng.choice(((TINY, "sample"), (f"--config={stock.training}/config.py", "train")))
  target, mesh = rng.choice(_TARGETS), []
  if rng.random() < 0.4:
    target, mesh = "v5e:2x2", [f"--mesh={rng.choice(('data=3', 'x=4', '=', 'data', 'data=4,data=1', 'data=-4', ','))}"]
  return Case(command, [config, f"--plan={target}", *mesh, *(["--json"] if rng.random() < 0.3 else [])], folder,
              codes=())


def _source(folder: pathlib.Path, stock: Stock, rng: random.Random) -> tuple[pathlib.Path, dict]:
  """A file or folder to convert, and what its shapes do not tell."""
  content, given = stock.tensors(rng.choice(SOURCES))
  place = folder / "source"
  place.mkdir()
  name = rng.choice(("model.safetensors", "model.safetensors", "x.safetensors", "model.pth", "model.bin", "x"))
  kind = rng.randrange(7)
  if kind < 4:
    content = (spoilt, other_header)[kind % 2](content, rng)
  elif kind == 4:
    content = rng.choice((pickle.dumps({"a": os.getcwd}), pickle.dumps([1]), b"", b"PK\3\4", b"\x80\2."))
  (place / name).write_bytes(content)
  if rng.random() < 0.3:
    (place / rng.choice(("config.json", "model.safetensors.index.json", CARD, "model_index.json"))).write_text(
        rng.choice((json.dumps(network_fields(rng)), "[" * 100_000, "", "null",
                    json.dumps({"weight_map": {"a": rng.choice((name, "../x", "absent", 3))}}))))
  return rng.choice((place, place / name)), given


def convert(folder: pathlib.Path, stock: Stock, rng: random.Random) -> Case:
  """Files that are damaged, or to a place or by a path that is odd; read into a folder, or shown."""
  source, given = _source(folder, stock, rng)
  named = paths.source(source, rng) if rng.random() < 0.2 else str(source)
  arguments = [f"--config_json={json.dumps(given)}"]
  if rng.random() < 0.4:
    arguments += settings.flags(_CONVERT_FLAGS, rng.choice((1, 2)), rng)
  if rng.random() < 0.3:
    return Case("convert", [*arguments, "--inspect", "--", named], folder, codes=(0, 1))
  out = paths.target(folder, "model", [], rng) if rng.random() < 0.3 else str(folder / "model")
  place = os.path.join(folder, out)
  return Case("convert", [*arguments, "--", named, out], folder, (place,),
              whole=lambda code, stdout: None if read_model_card(place).components else "no components")


def export(folder: pathlib.Path, stock: Stock, rng: random.Random) -> Case:
  """A model folder that is damaged, or by an odd path, or to one."""
  model = folder / "mine"
  shutil.copytree(stock.converted, model)
  wrong = rng.choice(("model", "model", "path", "out", "flags"))
  if wrong == "model":
    spoil(model, rng)
  named = paths.source(model, rng) if wrong == "path" else str(model)
  out = paths.target(folder, "out.safetensors", [model / CARD], rng) if wrong == "out" else f"{folder}/out.safetensors"
  arguments = ["--export", "--component=text_encoder"]
  if wrong == "flags":
    arguments += settings.flags(_CONVERT_FLAGS, 1, rng)
  place = os.path.join(folder, out)
  return Case("convert", [*arguments, "--", named, out], folder, (place,),
              whole=lambda code, stdout: None if os.path.getsize(place) > 1000 else "a short file")


def verify(folder: pathlib.Path, stock: Stock, rng: random.Random) -> Case:
  """Folders and flags that are none: nothing is compared."""
  model = folder / "mine"
  shutil.copytree(stock.converted, model)
  arguments = ["--parts=text_encoder"]
  if rng.random() < 0.5:
    (model / CARD).write_bytes(rng.choice((b"", b"{}", b"[]", b"[" * 100_000, b"\xff", b'{"components": 3}')))
    arguments += settings.flags(_VERIFY_FLAGS, 1, rng)
    named = paths.source(model, rng) if rng.random() < 0.3 else str(model)
  else:
    arguments += settings.overrides(["sampling.steps"], 1, rng) + settings.flags(_VERIFY_FLAGS, 2, rng)
    named = str(folder / "absent")
  return Case("verify", [*arguments, f"--checkpoint={named}"], folder, codes=())


def puppets(folder: pathlib.Path, stock: Stock, rng: random.Random) -> Case:
  out = paths.target(folder, "puppets", [], rng) if rng.random() < 0.5 else str(folder / "puppets")
  known = {"seed": ("0", "-1", str(2 ** 64)), "first": ("-1", "3", str(2 ** 64)),
           "split": ("train", "crowd", "held_out", "x", "")}
  arguments = [f"--out={out}", f"--count={rng.choice(('1', '1', '2', '0', '-1', 'x', '1e3'))}",
               f"--frames={rng.choice(('1', '2', '5', '5', '0', '-5', 'x', str(10 ** 12)))}"]
  if rng.random() < 0.5:
    name = rng.choice(sorted(known))
    arguments.append(f"--{name}={rng.choice(known[name])}")
  place = os.path.join(folder, out)
  return Case("puppets", arguments, folder, (place,),
              whole=lambda code, stdout: None if os.path.exists(os.path.join(place, MANIFEST)) else "no manifest")
