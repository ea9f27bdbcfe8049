"""The tasks, in the order of their numbers in training batches."""

import difflib

from emv3_jax.errors import InputError
from emv3_jax.tasks.pasting import paste
from emv3_jax.tasks.spec import ConditionInput, ReferenceImage, TaskSpec

_FIRST = ConditionInput("image", lambda frames, sampled: slice(0, 1))
# Repeated over the surplus frames, which are dropped after sampling.
_LAST = ConditionInput("last_image", lambda frames, sampled: slice(frames - 1, sampled))
_WHOLE = ConditionInput("video", lambda frames, sampled: slice(0, sampled))

_SPECS = (
    TaskSpec("t2v"),
    TaskSpec("i2v", (_FIRST,), ReferenceImage.FIRST, uses_face=True, slot=0),
    TaskSpec("flf2v", (_FIRST, _LAST), ReferenceImage.FIRST, uses_face=True, slot=1),
    TaskSpec("lipsync", (_WHOLE,), ReferenceImage.FIRST_MASKED, uses_face=True, inpaints_mouth=True,
             postprocess=paste, slot=2),
)
_TABLE = {spec.name: spec for spec in _SPECS}


def of(name: str) -> TaskSpec:
  """Returns the task called `name`.

  Raises:
    InputError: there is no such task.
  """
  spec = _TABLE.get(str(name))
  if spec is None:
    near = difflib.get_close_matches(str(name).lower(), _TABLE, n=1, cutoff=0.0)[0]
    raise InputError(f"Unknown task {name!r}; known: {', '.join(_TABLE)}. Did you mean {near}?")
  return spec


def names() -> tuple[str, ...]:
  """Returns the names of all tasks; a task's index is its number in training batches."""
  return tuple(_TABLE)


def number(name: str) -> int:
  """Returns the number of a task in training batches.

  Raises:
    InputError: there is no such task.
  """
  return names().index(of(name).name)


def by_number(number: int) -> TaskSpec:
  """Returns the task with this number in training batches."""
  return _TABLE[names()[number]]


def precomputed() -> tuple[TaskSpec, ...]:
  """Returns the tasks whose masked latents are stored in records, in the order of `masked_latents`."""
  return tuple(sorted((spec for spec in _TABLE.values() if spec.slot is not None),
                      key=lambda spec: -1 if spec.slot is None else spec.slot))


def register(spec: TaskSpec) -> TaskSpec:
  """Adds a task in this process; its number is the next one.

  Raises:
    ValueError: the name is taken, or the slot is not the next free one.
  """
  if spec.name in _TABLE:
    raise ValueError(f"There is a task {spec.name} already.")
  if spec.slot not in (None, len(precomputed())):
    raise ValueError(f"Task {spec.name} has slot {spec.slot}; the next free one is {len(precomputed())}.")
  _TABLE[spec.name] = spec
  return spec


def unregister(name: str) -> None:
  """Removes the task that `register` added last.

  Raises:
    ValueError: the task belongs to the package, or another one was added later.
  """
  if name != names()[-1] or len(_TABLE) == len(_SPECS):
    raise ValueError(f"Task {name} was not the last that was registered.")
  del _TABLE[name]
