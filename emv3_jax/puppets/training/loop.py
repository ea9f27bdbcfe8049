"""Steps, checkpoints and figures of a part's training.

The state is a dict of step, params, ema and opt_state; with the settings it determines everything
that follows, so a run that was stopped and goes on ends with the same bits.
"""

from collections.abc import Callable
import dataclasses
import json
import pathlib
import time

from absl import logging
import jax
import jax.numpy as jnp
import optax
from orbax.checkpoint import v1 as ocp

from emv3_jax.errors import InputError, Stopped
from emv3_jax.io import atomic
from emv3_jax.models.network import Params
from emv3_jax.puppets.training.settings import Learning
from emv3_jax.runtime import config
from emv3_jax.sampling.profile import versions
from emv3_jax.training.run.preemption import Preemption
from emv3_jax.training.update import ema

State = dict
Loss = Callable[[Params, dict, jax.Array], tuple[jax.Array, dict]]  # (params, batch, step)

KEPT = 2  # checkpoints


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
      "muon": lambda: optax.contrib.muon(
          rate, consistent_rms=0.2, adam_learning_rate=lambda step: rate(step) / 2,
          muon_weight_dimension_numbers=_as_matrices)}
  if learning.rule not in rules:
    raise ValueError(f"Learning.rule is {learning.rule!r}; known: {', '.join(rules)}.")
  return optax.chain(optax.clip_by_global_norm(learning.clip), rules[learning.rule]())


def _as_matrices(params: Params):
  """How Muon sees kernels: from all that is summed over to the outputs. Vectors are left to Adam."""
  return jax.tree.map(
      lambda leaf: optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)
      if leaf.ndim > 1 else None, params)


def fresh(params: Params, learning: Learning, steps: int) -> State:
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

  Writes FOLDER/checkpoints, and FOLDER/metrics.jsonl with a line every `log_every` steps: step,
  loss and the other metrics, and the CPU seconds of the process so far.

  Raises:
    Stopped: by SIGTERM or Ctrl-C, after the step that ran and with a checkpoint of it.
  """
  policy = ocp.training.preservation_policies.LatestN(KEPT)
  with (Preemption() as stop, ocp.training.Checkpointer(
      folder / "checkpoints", preservation_policy=policy, cleanup_tmp_directories=True) as saved):
    if saved.latest is not None:
      state = saved.load(saved.latest.step, abstract_of(state))
    first = int(state["step"])
    lines = _forget(folder / "metrics.jsonl", first)
    for index in range(first, steps):
      state, metrics = step(state, batch_at(index))
      if (index + 1) % log_every == 0 or index + 1 == steps:
        record = {"step": index + 1, **{name: float(value) for name, value in metrics.items()},
                  "cpu_seconds": round(time.process_time(), 1)}
        with lines.open("a", encoding="utf-8") as file:
          file.write(json.dumps(record) + "\n")
        logging.info("%s", " ".join(f"{name} {value:.4g}" for name, value in record.items()))
      stopped = stop.reached(index + 1) and index + 1 < steps
      if (index + 1) % save_every == 0 or index + 1 == steps or stopped:
        saved.save(index + 1, state)
      if stopped:
        raise Stopped(f"after step {index + 1} of {steps}")
  return state


def check_settings(folder: pathlib.Path, settings) -> None:
  """Keeps FOLDER/settings.json, the settings and versions that a training began with.

  Args:
    folder: of the stage; made where absent.
    settings: dataclass.

  Raises:
    InputError: what is in the folder was trained with other settings.
  """
  path = folder / "settings.json"
  if path.exists():
    began = json.loads(path.read_text(encoding="utf-8"))["settings"]
    if other := config.differences(began, settings):
      raise InputError(f"{folder} was trained with other settings (there != now): "
                       f"{'; '.join(other)}. Choose another --workdir.")
    return
  folder.mkdir(parents=True, exist_ok=True)
  atomic.write_json(path, {"settings": dataclasses.asdict(settings), "versions": versions()})


def restore_average(folder: pathlib.Path,
                    start: Callable[[], State]) -> tuple[int, Params] | None:
  """Step and average of the newest checkpoint under `folder`; None where there is none.

  Args:
    folder: of a stage.
    start: makes the state that the stage began with, for names and shapes.
  """
  if not (folder / "checkpoints").exists():
    return None
  with ocp.training.Checkpointer(folder / "checkpoints") as saved:
    if saved.latest is None:
      return None
    loaded = saved.load(saved.latest.step, abstract_of(start()))
  return int(loaded["step"]), loaded["ema"]


def abstract_of(state: State) -> State:
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), state)


def _forget(path: pathlib.Path, step: int) -> pathlib.Path:
  """Drops what a run wrote after the checkpoint that it goes on from."""
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
  kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
  with atomic.atomic_file(path) as temporary:
    temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
  return path
