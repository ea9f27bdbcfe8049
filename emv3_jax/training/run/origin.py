"""Where the first weights of a run come from: a model folder, or a checkpoint of another run.

`config.checkpoint` may name, beside a model folder, the work folder of a run, whose newest checkpoint
is taken, or one of its checkpoints, WORKDIR/checkpoints/STEP. Of it the average of the weights is
taken and nothing else: moments, step, schedule and order of the data start anew.
"""

import dataclasses
import pathlib

import jax

from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import load_component
from emv3_jax.io.digests import component_digest, weights_digest
from emv3_jax.io.model_card import CARD, TRANSFORMER, read_model_card
from emv3_jax.io.stored_leaves import check_fit
from emv3_jax.models.network import Params, named_leaves
from emv3_jax.runtime import config as config_lib
from emv3_jax.training.run import run_config
from emv3_jax.training.run.checkpoints import FOLDER, Checkpoints
from emv3_jax.training.settings import Config

UNTRAINED = "untrained"
BASE = "base"  # variant of a folder whose transformer has no audio path


@dataclasses.dataclass(frozen=True)
class ModelFolder:
  """A model folder."""

  folder: pathlib.Path

  @property
  def variant(self) -> str | None:
    return read_model_card(self.folder).variant

  def load(self, config: Config, abstract: Params, shardings: Params) -> Params:
    """The transformer's parameters of `abstract`, on the mesh; raises as `load_component`."""
    variant = BASE if self.variant == BASE else config.model.transformer.variant
    return load_component(self.folder, TRANSFORMER, abstract, shardings=shardings, variant=variant)

  def describe(self) -> dict:
    return {"from": "model folder", "folder": str(self.folder),
            "digest": weights_digest(read_model_card(self.folder), TRANSFORMER)}

  def __str__(self) -> str:
    return f"those of model folder {self.folder}"


@dataclasses.dataclass(frozen=True)
class RunCheckpoint:
  """A checkpoint of another run.

  Attributes:
    workdir: folder of the run.
    step: of the checkpoint.
    config: of the run when it wrote it.
  """

  workdir: pathlib.Path
  step: int
  config: Config

  @property
  def path(self) -> pathlib.Path:
    return self.workdir / FOLDER / str(self.step)

  @property
  def variant(self) -> str | None:
    return self.config.model.transformer.variant

  def load(self, config: Config, abstract: Params, shardings: Params) -> Params:
    """The average of the weights, with names, shapes and dtypes of `abstract`, on the mesh.

    Raises:
      InputError: the run trains another network, or the checkpoint cannot be read.
    """
    faults = config_lib.differences(self.config.model.transformer, config.model.transformer,
                                    "model.transformer")
    if faults:
      shown = "\n".join(f"  {fault[:200]}" for fault in faults)
      raise InputError(f"{self.path} is of another transformer (checkpoint != config):\n{shown}\n"
                       "Give its config, or another checkpoint.")
    wanted = jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=sharding), abstract, shardings)
    with _opened(self.workdir) as checkpoints:
      stored = {name: tuple(leaf.shape) for name, leaf in named_leaves(checkpoints.stored_average(self.step)).items()}
      check_fit(str(self.path), stored, abstract)
      return checkpoints.load_average(self.step, wanted)

  def describe(self) -> dict:
    return {"from": "run", "folder": str(self.workdir), "step": self.step, "name": self.config.name,
            "digest": component_digest(self.path, "ema")}

  def __str__(self) -> str:
    return f"the average of run {self.workdir} ({self.config.name!r}) after {self.step} steps"


def origin_of(checkpoint: str) -> ModelFolder | RunCheckpoint:
  """What a config names as its checkpoint.

  Raises:
    InputError: a run that has no whole checkpoint, or not that one, or one of an incompatible release.
  """
  folder = pathlib.Path(checkpoint)
  if (folder / CARD).exists():
    return ModelFolder(folder)
  if folder.parent.name == FOLDER and folder.name.isdecimal():
    return _of_run(folder.parent.parent, int(folder.name))
  return _of_run(folder) if (folder / FOLDER).is_dir() else ModelFolder(folder)


def _opened(workdir: pathlib.Path) -> Checkpoints:
  return Checkpoints(workdir, {}, keep=1, check=lambda *_: None, writing=False)


def _of_run(workdir: pathlib.Path, step: int | None = None) -> RunCheckpoint:
  if not (workdir / FOLDER).is_dir() or step is not None and not (workdir / FOLDER / str(step)).is_dir():
    raise InputError(f"Checkpoint {workdir / FOLDER / str(step)} does not exist.")
  with _opened(workdir) as checkpoints:
    step = checkpoints.latest if step is None else step
    if step is None:
      raise InputError(f"{workdir} holds no whole checkpoint yet.")
    content = checkpoints.check(step)
  config = run_config.config_of(content["config"]) if isinstance(content.get("config"), dict) else None
  if config is None:
    raise InputError(f"Checkpoint {workdir / FOLDER / str(step)} is no run's of this release.\nExport its "
                     "average with the release that wrote it (--export), and name that model folder.")
  return RunCheckpoint(workdir, step, config)


def first_model_folder(config: Config) -> pathlib.Path | None:
  """The model folder with the other networks: `components`, or what `checkpoint` goes back to.

  Returns:
    None where the config, or the run that it goes back to, knows of none.

  Raises:
    InputError: as `origin_of`; runs that go back to each other.
  """
  seen: set[pathlib.Path] = set()
  while (name := config.components or config.checkpoint) not in ("", UNTRAINED):
    origin = origin_of(name)
    if isinstance(origin, ModelFolder):
      return origin.folder
    if origin.workdir.resolve() in seen:
      raise InputError(f"Run {origin.workdir} goes back to itself; set --config.components to the model folder "
                       "with the other networks.")
    seen.add(origin.workdir.resolve())
    config = origin.config
  return None
