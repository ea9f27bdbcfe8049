"""A run of Weights & Biases (wandb) beside TensorBoard, where `train.wandb` names a project.

WORKDIR/wandb.json   project and id of the run, so that a run that resumes goes on with it
WORKDIR/wandb/       what wandb writes; with train.wandb_mode="offline" all of it, for `wandb sync`

The credential is wandb's own affair (`wandb login`, or WANDB_API_KEY): it is never read here.
"""

import json
import pathlib
import secrets
from typing import Any

from absl import logging

from emv3_jax.errors import InputError
from emv3_jax.io.atomic import write_json
from emv3_jax.training.settings import TrainConfig

FILE = "wandb.json"


def import_wandb() -> Any:
  """The module wandb.

  Raises:
    InputError: it is not installed; names the command that installs it.
  """
  try:
    import wandb  # an extra, and of all processes only process 0 takes the second that it costs
    if not hasattr(wandb, "init"):
      raise ImportError("a folder of that name is in its place")
  except ImportError as error:
    raise InputError("train.wandb is set and wandb cannot be imported "
                     f"({_first_line(error)}).\n"
                     "Install it: pip install 'emv3-jax[wandb]', or leave train.wandb empty.") from error
  return wandb


class WandbRun:
  """A run of wandb that begins, or goes on after `step`.

  Records of steps that it holds already, which a resumed run makes again, are passed over.

  Args:
    workdir: the run's folder.
    config: train.wandb, wandb_name and wandb_mode.
    description: of the run, as config.json has it.

  Raises:
    InputError: wandb is not installed, or its run could not begin.
  """

  def __init__(self, workdir: pathlib.Path, config: TrainConfig, description: dict):
    wandb = import_wandb()
    run_id = _run_id(workdir / FILE, config.wandb)
    try:
      self._run = wandb.init(
          project=config.wandb, name=config.wandb_name or None, id=run_id, resume="allow",
          mode=config.wandb_mode, dir=str(workdir.absolute()), config=description,
          allow_val_change=True,
          settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False))
    except Exception as error:  # of its own kinds, not all of which it documents
      raise InputError(
          f"The run of wandb could not begin: {_first_line(error)}.\nRun wandb "
          "login, or set train.wandb_mode=offline.") from error
    logging.info("wandb has this run as %s of project %s, %s.", run_id, config.wandb,
                 config.wandb_mode)

  def log(self, values: dict[str, float], step: int) -> None:
    """Adds numbers of `step`. An error of wandb is warned of and ends it, not the training."""
    if self._run is None or step < self._run.step:
      return
    try:
      self._run.log(values, step=step)
    except Exception as error:
      logging.warning("wandb takes no more records, from step %d on (%s); metrics.jsonl has all.",
                      step, _first_line(error))
      self._run = None

  def close(self, failed: bool = False) -> None:
    """Waits until wandb has taken all records; warns where it could not."""
    if self._run is not None:
      try:
        self._run.finish(exit_code=int(failed))
      except Exception as error:
        logging.warning("The run of wandb did not end properly (%s).", _first_line(error))


def _run_id(path: pathlib.Path, project: str) -> str:
  """The id that the folder keeps for this project; a new one where it keeps none."""
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["project"] == project and isinstance(found["id"], str) and found["id"]:
      return found["id"]
  except FileNotFoundError:
    pass
  except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
    raise InputError(f"{path} cannot be read ({type(error).__name__}); remove it to begin a new run of "
                     "wandb.") from error
  new = secrets.token_hex(4)
  write_json(path, {"project": project, "id": new})
  return new


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0][:300].rstrip(".")
