"""Training of a part: steps, checkpoints and metrics.

The state is a dict of step, params, ema and opt_state; with the settings it determines everything
that follows, so a run that was stopped and resumes ends with the same bits.
"""

from collections.abc import Callable
import dataclasses
import json
import pathlib
import time
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import optax

from emv3_jax.errors import Stopped
from emv3_jax.io import atomic
from emv3_jax.models.network import Params
from emv3_jax.puppets.training.settings import Learning
from emv3_jax.runtime import config
from emv3_jax.sampling.profile import versions
from emv3_jax.training.monitor.metrics import Writer
from emv3_jax.training.run.checkpoints import FOLDER, Checkpoints
from emv3_jax.training.run.preemption import Preemption
from emv3_jax.training.run.run_config import refuse_differences
from emv3_jax.training.update import ema
from emv3_jax.training.update.optimizer import muon

State = dict
Loss = Callable[[Params, dict, jax.Array], tuple[jax.Array, dict]]  # (params, batch, step)

KEEP = 2  # checkpoints


def optimizer(learning: Learning, steps: int) -> optax.GradientTransformation:
  """The rule of `learning` with clipped gradients and its rates, over `steps` steps.

  Raises:
    ValueError: a rule that is not known.
  """
  cosine = optax.warmup_cosine_decay_schedule(
      0.0, learning.rate, learning.warmup, learning.horizon or steps)

  def rate(step):
    left = (steps - step) / learning.cooldown if learning.cooldown else 1.0
    return cosine(step) * jnp.minimum(1.0, left)

  rules = {
      "adam": lambda: optax.adam(rate),
      "muon": lambda: muon(rate, _as_matrices, adam_learning_rate=lambda step: rate(step) / 2)}
  if learning.rule not in rules:
    raise ValueError(f"Learning.rule is {learning.rule!r}; known: {', '.join(rules)}.")
  return optax.chain(optax.clip_by_global_norm(learning.clip), rules[learning.rule]())


def _as_matrices(params: Any) -> Any:
  """How Muon sees kernels: from all that is summed over to the outputs. Vectors are left to Adam."""
  return jax.tree.map(
      lambda leaf: optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)
      if leaf.ndim > 1 else None, params)


def initial_state(params: Params, learning: Learning, steps: int) -> State:
  """The state before the first step."""
  return {"step": jnp.zeros((), jnp.int32), "params": params, "ema": ema.init(params),
          "opt_state": optimizer(learning, steps).init(params)}


def make_step(loss: Loss, learning: Learning, steps: int) -> Callable:
  """The compiled step (state, batch) -> (state, metrics); it takes the state's memory."""
  update_rule = optimizer(learning, steps)

  def step(state: State, batch: dict) -> tuple[State, dict]:
    run = lambda params: loss(params, batch, state["step"])
    (value, metrics), gradients = jax.value_and_grad(run, has_aux=True)(state["params"])
    updates, opt_state = update_rule.update(gradients, state["opt_state"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    average = ema.mix(state["ema"], params, ema.warmed_up(learning.ema, state["step"]))
    done = {"step": state["step"] + 1, "params": params, "ema": average, "opt_state": opt_state}
    return done, {"loss": value, "gradient_norm": optax.tree.norm(gradients), **metrics}

  return jax.jit(step, donate_argnums=0)


def train(state: State, step: Callable, batch_at: Callable[[int], dict], *, steps: int,
          folder: pathlib.Path, save_every: int, log_every: int = 20) -> State:
  """Trains up to step `steps`, from the newest checkpoint under `folder` where there is one.

  Writes FOLDER/checkpoints, and FOLDER/metrics.jsonl with a record every `log_every` steps: step,
  loss and the other metrics, and the CPU seconds of the process so far; TensorBoard has the same.

  Raises:
    InputError: a checkpoint or metrics cannot be written or read.
    Stopped: by SIGTERM or Ctrl-C, after the step that ran and with a checkpoint of it.
  """
  with Preemption() as preemption, _checkpoints(folder) as checkpoints:
    if checkpoints.latest is not None:
      state, _ = checkpoints.load(checkpoints.latest, abstract_of(state))
    first = int(state["step"])
    with Writer(folder, first) as writer:
      for index in range(first, steps):
        state, metrics = step(state, batch_at(index))
        if (index + 1) % log_every == 0 or index + 1 == steps:
          record = {"step": index + 1, **{name: float(value) for name, value in metrics.items()},
                    "cpu_seconds": round(time.process_time(), 1)}
          writer.write(record)
          logging.info("%s", " ".join(f"{name} {value:.4g}" for name, value in record.items()))
        stopped = preemption.reached(index + 1) and index + 1 < steps
        if (index + 1) % save_every == 0 or index + 1 == steps or stopped:
          checkpoints.save(index + 1, state)
        if stopped:
          checkpoints.wait()
          raise Stopped(f"after step {index + 1} of {steps}")
  return state


def _checkpoints(folder: pathlib.Path, writing: bool = True) -> Checkpoints:
  """Those under `folder`, of a stage whose settings `check_settings` has checked."""
  return Checkpoints(folder, {}, KEEP, check=lambda *_: None, writing=writing)


def check_settings(folder: pathlib.Path, settings) -> None:
  """Writes FOLDER/settings.json, the settings and versions of a training, or compares with it.

  Args:
    folder: of the stage; made where absent.
    settings: dataclass.

  Raises:
    InputError: what is in the folder was trained with other settings.
  """
  path = folder / "settings.json"
  if path.exists():
    found = json.loads(path.read_text(encoding="utf-8"))["settings"]
    refuse_differences(config.differences(found, settings), str(folder))
    return
  folder.mkdir(parents=True, exist_ok=True)
  atomic.write_json(path, {"settings": dataclasses.asdict(settings), "versions": versions()})


def restore_average(folder: pathlib.Path,
                    initial: Callable[[], State]) -> tuple[int, Params] | None:
  """Step and average of the newest checkpoint under `folder`; None where there is none.

  Args:
    folder: of a stage.
    initial: makes the state that the stage started with, for names and shapes.

  Raises:
    InputError: the checkpoint cannot be read.
  """
  if not (folder / FOLDER).exists():
    return None
  with _checkpoints(folder, writing=False) as checkpoints:
    step = checkpoints.latest
    if step is None:
      return None
    return step, checkpoints.load_average(step, abstract_of(initial())["ema"])


def abstract_of(state: State) -> State:
  """Shapes and dtypes of the state, on the first device."""
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), state)
