"""Soup-of-Tasks: which tasks are trained when, in which shares.

A schedule is a tuple of stages, one after the other. The paper trains from hard to easy: first the
base model's own tasks, image to video and first and last frame to video, then lip-sync beside them.
One moving average of the weights runs through all stages and mixes what they teach; a stage starts
from it. Negative DPO takes stages of its own, or every k-th step of one (`Stage.every`).
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any, Literal, get_args

import jax
import numpy as np

from emv3_jax.diffusion.randomness import Purpose, key_for
from emv3_jax.errors import InputError
from emv3_jax.limits import AMOUNT, BELOW_1, COUNT, LARGEST, SHARE, check_ranges
from emv3_jax.tasks import names

Kind = Literal["sft", "ndpo", "dpo"]
Start = Literal["ema", "online"]
Trained = Literal["all", "audio"]
Decay = Literal["constant", "linear", "cosine"]
Warmup = Literal["restart", "continue"]
RANGES = {"warmup": AMOUNT, "learning_rate": (0, LARGEST), "final_share": SHARE}  # of a stage


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Shares of the tasks; they need not add up to 1.

  Raises:
    InputError: a negative share, or none above 0.
  """

  t2v: float = 0.0
  i2v: float = 0.0
  flf2v: float = 0.0
  lipsync: float = 0.0

  def __post_init__(self):
    shares = dataclasses.astuple(self)
    if min(shares) < 0 or not sum(shares):
      raise InputError(f"Task mixture {dataclasses.asdict(self)}: shares must be 0 or more, and one "
                       "of them above 0.")
    check_ranges("mixture", self, dict.fromkeys(dataclasses.asdict(self), (0, LARGEST)))

  @property
  def probabilities(self) -> np.ndarray:
    """float64, by the numbers of tasks, adding up to 1."""
    shares = np.array([getattr(self, name, 0.0) for name in names()], np.float64)
    return shares / shares.sum()


@dataclasses.dataclass(frozen=True)
class Stage:
  """A part of a training run.

  Attributes:
    name: for logs and previews.
    steps: how many; the last stage goes on for as long as the run does.
    mixture: shares of the tasks.
    kind: `sft` learns the data (flow matching); `ndpo` unlearns negatives without pairs (negative
      DPO); `dpo` is paired Diffusion-DPO, the ablation.
    every: of an ndpo or dpo stage: each `every`-th step is one, the others are sft (the interleaved
      cycle). 1: all of them (the staged cycle).
    learning_rate: after warm-up.
    warmup: steps of linear warm-up.
    decay: `constant`, `linear` or `cosine`, over the steps after warm-up.
    final_share: the share of the learning rate that the decay ends at.
    start: from the moving average, with fresh optimiser moments (`ema`), or from the weights as
      they are, with their moments (`online`).
    train: `all` parameters, or those of the `audio` path only.
    negatives: dataset of the negatives of an ndpo or dpo stage: the model's own videos that show
      one issue.
    audio: whether the clips come with their sound; without, a stage makes a base model.
    ema_decay: of the moving average; None takes the run's in sft stages, and in ndpo and dpo stages
      and the one after them at most what lets the average follow the stage (`training.update.ema`).
    ema_warmup: whether the average's warm-up restarts with the stage (`restart`) or is the run's
      (`continue`); None restarts it where the average has to follow the stage.

  Raises:
    InputError: a field out of range.
  """

  name: str
  steps: int
  mixture: Mixture = Mixture(i2v=1.0)
  kind: Kind = "sft"
  every: int = 1
  learning_rate: float = 1e-4
  warmup: int = 0
  decay: Decay = "constant"
  final_share: float = 0.0
  start: Start = "ema"
  train: Trained = "all"
  negatives: str = ""
  audio: bool = True
  ema_decay: float | None = None
  ema_warmup: Warmup | None = None

  def __post_init__(self):
    where = f"Stage {self.name!r}"
    for field, choices in (("kind", Kind), ("start", Start), ("train", Trained), ("decay", Decay)):
      if getattr(self, field) not in get_args(choices):
        raise InputError(f"{where}: {field} is {getattr(self, field)!r}; known: "
                         f"{', '.join(get_args(choices))}.")
    check_ranges(f"{where}:", self, {"steps": COUNT, "every": COUNT, "ema_decay": (0, BELOW_1),
                                     **RANGES})
    if self.ema_warmup is not None and self.ema_warmup not in get_args(Warmup):
      raise InputError(f"{where}: ema_warmup is {self.ema_warmup!r}; known: "
                       f"{', '.join(get_args(Warmup))}, or None for the rule of its kind.")
    if self.warmup > self.steps:
      raise InputError(f"{where}: its warm-up of {self.warmup} steps is longer than its "
                       f"{self.steps} steps.")
    if self.kind == "sft" and self.every > 1:
      raise InputError(f"{where}: every is {self.every} in an sft stage; set its kind to ndpo or dpo.")

  def kind_of(self, index: int) -> Kind:
    """What step `index` of this stage does, counted from 0."""
    return self.kind if (index + 1) % self.every == 0 else "sft"


@dataclasses.dataclass(frozen=True)
class StagePosition:
  """Where in the schedule a step lies: the stage, its index and its first step."""

  stage: Stage
  index: int
  first_step: int
  step: int

  @property
  def kind(self) -> Kind:
    """What the step does."""
    return self.stage.kind_of(self.step - self.first_step)

  @property
  def is_first(self) -> bool:
    """Whether the stage begins with this step."""
    return self.step == self.first_step


def first_steps(stages: Sequence[Stage]) -> tuple[int, ...]:
  """The step that each stage starts at, and the one that the last one ends before."""
  return (0, *np.cumsum([stage.steps for stage in stages]).tolist())


def stage_position(stages: Sequence[Stage], step: int) -> StagePosition:
  """The stage of a step; steps after the end belong to the last one.

  Raises:
    InputError: no stages.
  """
  if not stages:
    raise InputError("The schedule has no stages; set `stages` or `schedule.preset`.")
  firsts = first_steps(stages)
  index = min(int(np.searchsorted(firsts, step, side="right")) - 1, len(stages) - 1)
  return StagePosition(stages[index], index, firsts[index], step)


def kind_at(stages: Sequence[Stage], step: int) -> Kind:
  """What a step of the run does."""
  return stage_position(stages, step).kind


def draw_tasks(seed: int, step: int, examples: np.ndarray, mixture: Mixture) -> np.ndarray:
  """The tasks of examples in one step, drawn on the host.

  The draw depends on the seed, the step and the example alone, not on what else is in the batch.

  Args:
    seed: of the run.
    step: of the run.
    examples: uint32 [b] global record numbers.
    mixture: shares of the tasks.

  Returns:
    int32 [b] numbers of tasks, see `tasks.number`.
  """
  with jax.default_device(_host()):
    uniform = np.asarray(_uniforms(seed, step, np.asarray(examples, np.uint32)), np.float64)
  tasks = np.searchsorted(np.cumsum(mixture.probabilities), uniform, side="right")
  # Rounding may leave the sum below 1; a task without a share is never drawn for it.
  return np.minimum(tasks, np.flatnonzero(mixture.probabilities)[-1]).astype(np.int32)


def _host() -> Any:
  """The CPU; where JAX_PLATFORMS leaves it out, the default device, which draws the same."""
  try:
    return jax.local_devices(backend="cpu")[0]
  except RuntimeError:
    return None


@functools.partial(jax.jit, static_argnums=0)
def _uniforms(seed, step, examples):
  draw = lambda example: jax.random.uniform(key_for(seed, Purpose.TASK, step, example))
  return jax.vmap(draw)(examples)


BASE_TASKS = Mixture(t2v=0.1, i2v=0.5, flf2v=0.4)
ALL_TASKS = Mixture(t2v=0.1, i2v=0.35, flf2v=0.25, lipsync=0.3)
_PRESETS: dict[str, tuple[tuple[str, float, Mixture], ...]] = {  # name, share of the steps, tasks
    "paper": (("base_tasks", 0.6, BASE_TASKS), ("all_tasks", 0.4, ALL_TASKS)),
    "schedule_a": (("lipsync", 0.4, Mixture(lipsync=1.0)), ("all_tasks", 0.6, ALL_TASKS)),
    "schedule_b": (("uniform", 1.0, Mixture(1.0, 1.0, 1.0, 1.0)),),
}
PRESETS = tuple(_PRESETS)


def preset(name: str, steps: int, **options) -> tuple[Stage, ...]:
  """The stages of a named schedule.

  Args:
    name: `paper`, from hard to easy: image to video and first and last frame to video with some
      text to video, then lip-sync too. `schedule_a`, from easy to hard: lip-sync, then all.
      `schedule_b`: all tasks uniformly. The last two are the paper's ablations; it gives neither
      shares nor lengths, these are this project's choice.
    steps: of all stages together.
    **options: further fields of every stage.

  Raises:
    InputError: unknown name, fewer steps than stages, or a field out of range.
  """
  if name not in _PRESETS:
    raise InputError(f"Unknown schedule {name!r}; known: {', '.join(PRESETS)}.")
  parts = _PRESETS[name]
  if steps < len(parts):
    raise InputError(f"Schedule {name} has {len(parts)} stages; {steps} steps are too few.")
  ends = np.round(np.cumsum([share for _, share, _ in parts]) * steps).astype(int)
  lengths = np.maximum(np.diff(ends, prepend=0), 1)
  lengths[0] += steps - lengths.sum()
  return tuple(Stage(stage, int(length), mixture, **options)
               for (stage, _, mixture), length in zip(parts, lengths, strict=True))


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
  """A named schedule, for configs that list no stages of their own.

  Attributes:
    preset: a name of `PRESETS`.
    steps: of all its stages together.
    learning_rate, warmup, decay, final_share, start, train: of every stage, see `Stage`.
  """

  preset: str = "paper"
  steps: int = 10000
  learning_rate: float = 1e-4
  warmup: int = 0
  decay: Decay = "constant"
  final_share: float = 0.0
  start: Start = "ema"
  train: Trained = "all"

  def __post_init__(self):
    check_ranges("schedule", self, {"steps": COUNT, **RANGES})

  def stages(self) -> tuple[Stage, ...]:
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    return preset(fields.pop("preset"), fields.pop("steps"), **fields)
