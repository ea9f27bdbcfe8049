"""The settings of a run as the page shows them: their fields, kinds, values and help texts.

Nothing is written twice: fields and kinds are those of the dataclasses, help texts their docstrings, and a value
that the page sends is parsed as on the command line (`sampling.NAME=VALUE`).
"""

from collections.abc import Iterator, Mapping
import dataclasses
import inspect
import re
import types
import typing
from typing import Any

from emv3_jax import tasks
from emv3_jax.attention import backends
from emv3_jax.diffusion import solvers, windows
from emv3_jax.models.cross_attention import ALLOCATIONS
from emv3_jax.sampling import cache_settings
from emv3_jax.sampling import model as model_lib
from emv3_jax.sampling.inputs import uses_face_box
from emv3_jax.sampling.presets import preset_names
from emv3_jax.sampling.settings import PNG_MODES, SamplingConfig
from emv3_jax.tasks import face_masks
from emv3_jax.variants import Variant

FIRST = ("steps", "text_scale", "audio_scale", "max_frames", "negative_prompt")  # the others are folded away
_HIDDEN = ("cache.file",)  # a path on this machine


def fields(model: model_lib.Model) -> list[dict[str, Any]]:
  """Describes the settings of a model.

  Returns:
    For each field: `name`, dotted; `kind`, `switch`, `whole`, `number`, `text` or `choice`; `choices`; `value`, which
    the model has by itself, as text; `help`; `first`, whether it is shown at once.
  """
  return list(_fields(SamplingConfig, model.config.settings, ""))


def _fields(cls: Any, values: Any, before: str) -> Iterator[dict[str, Any]]:
  told, hints, choices = help_texts(cls), typing.get_type_hints(cls), _choices()
  for field in dataclasses.fields(cls):
    name, value = before + field.name, getattr(values, field.name)
    if dataclasses.is_dataclass(value):
      yield from _fields(type(value), value, f"{name}.")
      continue
    kind = "choice" if name in choices else _kind(hints[field.name])
    if kind is None or name in _HIDDEN:
      continue
    yield {"name": name, "kind": kind, "choices": choices.get(name, []), "value": as_text(value),
           "help": told.get(field.name, ""), "first": name in FIRST}


def _kind(hint: Any) -> str | None:
  """Returns the kind of a field; None for one that the page does not show (lists, groups)."""
  options = [option for option in typing.get_args(hint) if option is not types.NoneType] or [hint]
  kinds = {bool: "switch", int: "whole", float: "number", str: "text"}
  return kinds.get(options[0]) if len(options) == 1 else None


def _choices() -> dict[str, list[str]]:
  return {"preset": ["", *preset_names()], "solver": list(solvers.SOLVERS), "png": list(PNG_MODES),
          "attention": ["auto", *backends.BACKENDS], "allocation": sorted(ALLOCATIONS),
          "face_mask": [face_masks.MOVING, face_masks.RELEASED], "branches": ["batched", "in_turn"], "long.mode": list(windows.MODES),
          "cache.kind": list(cache_settings.KINDS)}


def as_text(value: Any) -> str:
  """Returns a value as it is written on the command line."""
  if isinstance(value, bool):
    return str(value).lower()
  return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def help_texts(cls: Any) -> dict[str, str]:
  """Reads the help text of each field from the `Attributes` of a docstring."""
  text = inspect.getdoc(cls) or ""
  told, current = {}, []
  for line in text.partition("Attributes:\n")[2].splitlines():
    if not line.strip():
      break
    entry = re.match(r"  (\w+(?:, \w+)*): (.*)", line)
    if entry:
      current = entry[1].split(", ")
      told |= {name: entry[2] for name in current}
    else:
      told |= {name: f"{told[name]} {line.strip()}" for name in current}
  return {name: _plain(words) for name, words in told.items()}


def _plain(words: str) -> str:
  words = re.sub(r"(?:, s|; s|\. S|, S)ee `[\w.]+`", "", words).replace("`", "")
  return words[0].upper() + words[1:]


def task_list(variant: Variant) -> list[dict[str, Any]]:
  """Returns of each task its name, `inputs`, and `face`: whether a face box has an effect, and `none` is allowed."""
  found = [tasks.of(name) for name in tasks.names()]
  return [{"name": task.name, "inputs": list(task.inputs), "face": uses_face_box(task, variant),
           "none": not task.inpaints_mouth} for task in found]


def assignments(settings: Mapping[str, str]) -> list[str]:
  """Returns settings of the page as overrides of a config, `sampling.NAME=VALUE`."""
  return [f"sampling.{name}={value}" for name, value in settings.items()]

