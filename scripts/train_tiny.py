"""Trains the parts of the small default on puppets and puts them into a model folder.

  python scripts/train_tiny.py --stage=vae --workdir=DIR
  python scripts/train_tiny.py --stage=audio --workdir=DIR
  python scripts/train_tiny.py --stage=text --workdir=DIR
  python scripts/train_tiny.py --stage=model --workdir=DIR
  python scripts/train_tiny.py --stage=default --workdir=DIR --run=RUN

A stage that is stopped (exit code 75) goes on from its newest checkpoint when it is started again,
and ends with the same weights. At its end it writes them to DIR/model and is measured, as it was written, on held-out
puppets; one that falls short of its gate exits with 1. A part that DIR/model has already, of the same
settings, is measured only: DIR/model, a few megabytes, is all that has to be kept of it. --check measures
the newest checkpoint.
`model` adds the image encoder, whose weights stay random, and the tokenizer. `default` puts these and the
transformer of RUN, the folder of a run of run_train.py with configs/train_tiny_long.py, where
configs/tiny.py looks for its weights (or into --out).
"""

import dataclasses
import hashlib
import json
import pathlib
import sys

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from emv3_jax.conditioning.text import Tokenizer
from emv3_jax.configs import tiny
from emv3_jax.errors import InputError
from emv3_jax.io import checkpoints
from emv3_jax.io.component_links import link_component
from emv3_jax.io.model_card import CARD
from emv3_jax.models import clip, transformer, umt5, wav2vec2
from emv3_jax.models import vae as vae_network
from emv3_jax.models.network import Params
from emv3_jax.puppets.judging import gates
from emv3_jax.puppets.training import audio, footage, loop, speech, text, vae
from emv3_jax.puppets.training.settings import AudioSettings, TextSettings, VAESettings, phase_at
from emv3_jax.puppets.world.sentences import sentences
from emv3_jax.runtime import command_line, program_cache
from emv3_jax.training.run.export import OTHERS
from emv3_jax.training.run.lock import locked

SAVE_EVERY = {"vae": 100, "audio": 50, "text": 100}
SHORT = 1  # exit code of a part that the gates do not let pass
CHECKED = 40  # held-out puppets
STATISTICS = 200  # training puppets of which the latents' mean and variance are taken


class VAEStage:
  """The VAE, on windows of puppets."""

  def __init__(self, folder: pathlib.Path, settings: VAESettings):
    self.folder, self.settings = folder, settings
    # As a training runs it; `plain` is how sampling does.
    self.network = vae_network.network(tiny.MODEL.vae, conv="taps", fine_frames=4)
    self.plain = vae_network.network(tiny.MODEL.vae)
    self.init_params = lambda: vae.init_params(self.network, settings.seed)
    self.loss = vae.make_loss(self.network, settings)

  def batches(self):
    clips = self._clips(self.settings.split, self.settings.clips)
    phases = self.settings.phases
    return lambda step: footage.batch(clips, self.settings, phase_at(phases, step), step)

  def final_params(self, average: Params) -> Params:
    """The weights to keep: latents normalised."""
    encode = jax.jit(lambda params, video: self.plain.bind(params).encode(video))
    clips = self._clips(self.settings.split, self.settings.clips).frames[:STATISTICS]
    latents = np.concatenate([encode(average, part[None]) for part in clips])
    return vae.normalised(self.plain, average, self.settings.noise, latents)

  def check(self, params: Params) -> dict[str, float]:
    return gates.check_vae(self.plain, params, self._clips("held_out", CHECKED))

  def _clips(self, split: str, count: int) -> footage.Footage:
    return footage.rendered(self.folder.parent / "vae", self.settings.seed, count, split)


class AudioStage:
  """The audio encoder, on sentences."""

  def __init__(self, folder: pathlib.Path, settings: AudioSettings):
    self.folder, self.settings = folder, settings
    self.network = wav2vec2.network(tiny.MODEL.audio_encoder)
    self.init_params = lambda: audio.init_params(self.network, settings)
    self.loss = audio.make_loss(self.network, settings)

  def batches(self):
    phases = self.settings.phases
    return lambda step: speech.batch(self.settings, phase_at(phases, step), step)

  def final_params(self, average: Params) -> Params:
    return average["encoder"]

  def check(self, params: Params) -> dict[str, float]:
    return gates.check_audio(self.network, params, sentences("train"), sentences("held_out"))


class TextStage:
  """The text encoder, on captions."""

  def __init__(self, folder: pathlib.Path, settings: TextSettings):
    self.folder, self.settings = folder, settings
    self.network = umt5.network(tiny.MODEL.text_encoder)
    self.tokenizer = Tokenizer.load(tiny.ASSETS / "tokenizer.json")
    self.init_params = lambda: text.init_params(self.network, settings)
    self.loss = text.make_loss(self.network)

  def batches(self):
    return lambda step: text.batch(self.settings, self.tokenizer, step)

  def final_params(self, average: Params) -> Params:
    return average["encoder"]

  def check(self, params: Params) -> dict[str, float]:
    return gates.check_text(self.network, params, self.settings, self.tokenizer)


STAGES = {"vae": (VAEStage, VAESettings), "audio": (AudioStage, AudioSettings),
          "text": (TextStage, TextSettings)}
COMPONENTS = {"vae": "vae", "text": "text_encoder", "audio": "audio_encoder"}  # what is kept


def open_stage(name: str, workdir: pathlib.Path):
  make, settings = STAGES[name]
  loop.check_settings(workdir / name, settings())
  return make(workdir / name, settings())


def initial_state(stage) -> loop.State:
  return loop.initial_state(stage.init_params(), stage.settings.learning, stage.settings.steps)


def restored(stage) -> tuple[int, Params]:
  """Steps done and the average of the weights.

  Raises:
    InputError: the stage has no checkpoint.
  """
  found = loop.restore_average(stage.folder, lambda: initial_state(stage))
  if found is None:
    raise InputError(f"{stage.folder} holds no checkpoint; train that stage first.")
  return found


def trained(stage) -> tuple[int, Params]:
  """Steps done and the weights to keep.

  Raises:
    InputError: the stage has no checkpoint.
  """
  step, average = restored(stage)
  return step, stage.final_params(average)


def train(stage, name: str) -> None:
  settings = stage.settings
  step = loop.make_step(stage.loss, settings.learning, settings.steps)
  loop.train(initial_state(stage), step, stage.batches(), steps=settings.steps,
             folder=stage.folder, save_every=SAVE_EVERY[name])


def report(stage, name: str, step: int, params: Params) -> bool:
  """Prints what the gates measure, and warns of what they do not let pass; whether all does."""
  figures = {key: round(value, 4) for key, value in stage.check(params).items()}
  sys.stdout.write(json.dumps({"stage": name, "step": step, **figures}) + "\n")
  short = gates.unmet(name, figures)
  for shortfall in short:
    logging.warning("Stage %s at step %d: %s.", name, step, shortfall)
  return not short


def kept(stage, name: str, workdir: pathlib.Path) -> Params | None:
  """The weights of a part that WORKDIR/model has already, of these settings; None where it has none."""
  folder = workdir / "model"
  if not (folder / CARD).exists():
    return None
  card = checkpoints.read_model_card(folder).components.get(COMPONENTS[name])
  if card is None or card.sources[0].get("settings") != settings_digest(stage.settings):
    return None
  return checkpoints.load_component(folder, COMPONENTS[name], stage.network.abstract)


def keep(name: str, params: Params, workdir: pathlib.Path, settings: str = "") -> None:
  """Writes a part to WORKDIR/model, in bfloat16.

  Args:
    name: of its stage, or of its component.
    params: its weights.
    settings: digest of the stage's settings.
  """
  component = COMPONENTS.get(name, name)
  params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(jnp.bfloat16), params)
  source = {"file": f"scripts/train_tiny.py {name}", "settings": settings, **content(params)}
  checkpoints.save_component(workdir / "model", component, params, variant="preview", sources=[source],
                             config=dataclasses.asdict(getattr(tiny.MODEL, component)))


def train_part(name: str, workdir: pathlib.Path) -> bool:
  """Trains a part unless it is kept, keeps it, and measures what was written; whether the gates let it pass."""
  stage = open_stage(name, workdir)
  params = kept(stage, name, workdir)
  if params is None:
    with locked(stage.folder):
      train(stage, name)
    keep(name, trained(stage)[1], workdir, settings_digest(stage.settings))
    params = kept(stage, name, workdir)
  return report(stage, name, stage.settings.steps, params)


def write_model(workdir: pathlib.Path) -> None:
  """Writes what is not trained beside the parts: an image encoder of random weights, and the tokenizer.

  Raises:
    InputError: a part is not trained yet.
  """
  config = tiny.get_config()
  for name in COMPONENTS:
    if kept(open_stage(name, workdir), name, workdir) is None:
      raise InputError(f"{workdir / 'model'} holds no {COMPONENTS[name]} of these settings; run --stage={name} first.")
  keep("image_encoder", clip.network(tiny.MODEL.image_encoder).untrained(config.seed), workdir)
  checkpoints.write_tokenizer(workdir / "model", config.tokenizer)


def write_default(workdir: pathlib.Path, run: pathlib.Path, out: pathlib.Path) -> None:
  """Writes the model folder that ships: all five networks in bfloat16, and the tokenizer."""
  network = transformer.network(tiny.MODEL.transformer)
  params = checkpoints.load_component(run / "model", "transformer", network.abstract)
  wishes = checkpoints.read_model_card(run / "model").sampling
  params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(jnp.bfloat16), params)
  for name in OTHERS:
    link_component(out, name, workdir / "model")
  checkpoints.save_component(
      out, "transformer", params, variant="preview", config=dataclasses.asdict(tiny.MODEL.transformer),
      sources=[{"file": f"run_train.py {_config_of(run)}", **content(params)}],
      model_name=tiny.get_config().name, sampling=wishes)
  checkpoints.write_tokenizer(out, tiny.ASSETS / "tokenizer.json")


def _config_of(run: pathlib.Path) -> str:
  """Name of the config that a run of run_train.py was started with."""
  return json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]["name"]


def settings_digest(settings) -> str:
  """Tells one training of a part from another."""
  return hashlib.sha256(json.dumps(dataclasses.asdict(settings), sort_keys=True).encode()).hexdigest()


def content(params: Params) -> dict:
  """Digest and size of parameters, by which caches tell one training from another."""
  leaves = [leaf.tobytes() for leaf in jax.tree.leaves(params)]
  return {"sha256": hashlib.sha256(b"".join(leaves)).hexdigest(), "bytes": sum(map(len, leaves))}


def main(arguments) -> int:
  parser = command_line.Parser(description=__doc__)
  parser.add_argument("--stage", required=True, choices=(*STAGES, "model", "default"))
  parser.add_argument("--workdir", required=True, type=pathlib.Path)
  parser.add_argument("--check", action="store_true", help="measure only")
  parser.add_argument("--run", type=pathlib.Path, help="of the transformer, for --stage=default")
  parser.add_argument("--out", type=pathlib.Path, default=tiny.ASSETS / "model",
                      help="model folder, for --stage=default")
  flags, _ = parser.parse(arguments)
  if flags.stage == "default":
    if flags.run is None:
      raise InputError("--run is missing; name the folder of the run that trained the transformer.")
    write_default(flags.workdir, flags.run, flags.out)
    return 0
  program_cache.use(flags.workdir / "programs")
  if flags.stage == "model":
    write_model(flags.workdir)
    return 0
  if flags.check:
    stage = open_stage(flags.stage, flags.workdir)
    passed = report(stage, flags.stage, *trained(stage))
  else:
    passed = train_part(flags.stage, flags.workdir)
  return 0 if passed else SHORT


if __name__ == "__main__":
  command_line.run(main)
