"""The tasks, in the order of their numbers in training batches."""

import difflib

from emv3_jax.errors import InputError
from emv3_jax.tasks.pasting import paste
from emv3_jax.tasks.spec import ClipPicture, Given, TaskSpec

_FIRST = Given("image", lambda frames, sampled: slice(0, 1))
# Held over the surplus frames, which are dropped after sampling.
_LAST = Given("last_image", lambda frames, sampled: slice(frames - 1, sampled))
_WHOLE = Given("video", lambda frames, sampled: slice(0, sampled))

_SPECS = (
    TaskSpec("t2v"),
    TaskSpec("i2v", (_FIRST,), ClipPicture.FIRST, finds_face=True, slot=0),
    TaskSpec("flf2v", (_FIRST, _LAST), ClipPicture.FIRST, finds_face=True, slot=1),
    TaskSpec("lipsync", (_WHOLE,), ClipPicture.FIRST_GREYED, finds_face=True, redraws_mouth=True,
             finish=paste, slot=2),
)
_TABLE = {spec.name: spec for spec in _SPECS}


def of(name: str) -> TaskSpec:
  """The task called `name`.

  Raises:
    InputError: no such task.
  """
  spec = _TABLE.get(str(name))
  if spec is None:
    near = difflib.get_close_matches(str(name).lower(), _TABLE, n=1, cutoff=0.0)[0]
    raise InputError(f"Unknown task {name!r}; known: {', '.join(_TABLE)}. Did you mean {near}?")
  return spec


def names() -> tuple[str, ...]:
  """Names of all tasks; a task's place is its number in training batches."""
  return tuple(_TABLE)


def number(name: str) -> int:
  """The number of a task in training batches.

  Raises:
    InputError: no such task.
  """
  return names().index(of(name).name)


def numbered(number: int) -> TaskSpec:
  """The task of a number in training batches."""
  return _TABLE[names()[number]]


def stored() -> tuple[TaskSpec, ...]:
  """Tasks whose masked latents are in records for all tasks, in the order of `masked_latents`."""
  return tuple(sorted((spec for spec in _TABLE.values() if spec.slot is not None),
                      key=lambda spec: -1 if spec.slot is None else spec.slot))


def register(spec: TaskSpec) -> TaskSpec:
  """Adds a task of one's own, for this process; its number is the next one.

  Raises:
    ValueError: its name is taken, or its slot is not the next free one.
  """
  if spec.name in _TABLE:
    raise ValueError(f"There is a task {spec.name} already.")
  if spec.slot not in (None, len(stored())):
    raise ValueError(f"Task {spec.name} has slot {spec.slot}; the next free one is {len(stored())}.")
  _TABLE[spec.name] = spec
  return spec


def unregister(name: str) -> None:
  """Takes a task out again that `register` added last.

  Raises:
    ValueError: it is one of the package, or not the last one.
  """
  if name != names()[-1] or len(_TABLE) == len(_SPECS):
    raise ValueError(f"Task {name} was not the last that was registered.")
  del _TABLE[name]
