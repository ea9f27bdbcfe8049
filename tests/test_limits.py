"""Numbers of all configs: what cannot be is refused where it is read, in a line."""

import dataclasses
import math
import typing

import ml_collections
import pytest

from emv3_jax.errors import InputError
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.settings import Config
from emv3_jax.training import settings as training
from emv3_jax.training.curriculum import Stage

NUMBERS = (-1, 0, 10 ** 30, 10 ** 5000, 1e308, math.nan, math.inf, -math.inf)
BELOW_0 = {"text_scale", "audio_scale", "neg_steps", "audio_gain", "mean", "latent_mean"}
STAGED = training.Config("", stages=(Stage("a", 10),))
ALL = {"sampling": Config(""), "training": training.Config(""), "staged": STAGED,
       "preparation": PrepareConfig()}


def number_in(hint) -> type | None:
  """The type of number that a field takes, in a tuple too; None where it takes none."""
  if hint in (int, float):
    return hint
  found = (number_in(part) for part in typing.get_args(hint) if part is not hint)
  return next((kind for kind in found if kind), None)


def leaves(cls, value, path=()):
  """Paths of all numeric fields, with the value there."""
  hints = typing.get_type_hints(cls)
  for field in dataclasses.fields(cls):
    here, held = (*path, field.name), getattr(value, field.name)
    if dataclasses.is_dataclass(held):
      yield from leaves(type(held), held, here)
    elif field.name == "stages":
      for index, stage in enumerate(held):
        yield from leaves(Stage, stage, (*here, index))
    elif number_in(hints[field.name]):
      yield here, held


def replaced(tree, path, value):
  """A copy of nested dicts and tuples with another value at `path`."""
  if not path:
    return value
  if isinstance(tree, tuple):
    return (*tree[:path[0]], replaced(tree[path[0]], path[1:], value), *tree[path[0] + 1:])
  return {**tree, path[0]: replaced(tree[path[0]], path[1:], value)}


def filled(held, number):
  """`number`, in the form of what the field holds."""
  return (filled(held[0], number), *held[1:]) if isinstance(held, tuple) and held else number


@pytest.mark.parametrize("name", ALL)
def test_every_number_is_in_its_range(name):
  config = ALL[name]
  tree, fields = dataclasses.asdict(config), list(leaves(type(config), config))
  assert len(fields) > 8
  for path, held in fields:
    for number in NUMBERS:
      value = filled(held, number)
      try:
        config_lib.build(type(config), replaced(tree, path, value))
        accepted = True
      except InputError as error:
        accepted = False
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 300, path
      if not -1 <= number <= 0:  # NaN, infinity, and what no machine has
        assert not accepted, (path, number)
      elif number == -1:
        assert accepted == (path[-1] in BELOW_0), path


@pytest.mark.parametrize("assignment, message", [
    ("sampling.shift=nan", "sampling.shift is nan; a finite number is needed"),
    ("sampling.shift=-inf", "sampling.shift is -inf; a finite number is needed"),
    (f"sampling.shift={10 ** 400}", "sampling.shift is 1000.*401 characters.*; it must be at most"),
    ("sampling.steps=0", "sampling.steps is 0; it must be from 1 to 1000"),
    (f"sampling.steps={'9' * 5000}", "sampling.steps=9999.*expected a value like"),
    (f"sampling.steps={'(' * 5000}", "sampling.steps=.*expected a value like"),
    ("sampling.max_area=0", "sampling.max_area is 0; it must be 256 or more"),
    ("sampling.max_frames=-3", "sampling.max_frames is -3; it must be 1 or more"),
    ("seed=4294967296", "seed is 4294967296; it must be at most 4294967295"),
    ("model.transformer.num_heads=0", "transformer.num_heads is 0; it must be from 1 to 1048576"),
    ("model.image_encoder.num_heads=7", "image_encoder.dim is 1280; it must be a multiple of num_h"),
    ("model.text_encoder.eps=0", "text_encoder.eps is 0.0; it must be above 0, at most 1"),
])
def test_overrides_are_told_what_was_found_and_wanted(assignment, message):
  tree = ml_collections.ConfigDict(dataclasses.asdict(Config("")))
  with pytest.raises(InputError, match=message):
    config_lib.override(tree, [assignment], Config)
    config_lib.build(Config, tree)


def test_the_average_s_decay_and_the_rates_of_adam_stay_below_1():
  for field, value in (("ema_decay", 1.0), ("optimizer", {"b1": 1.0}), ("optimizer", {"b2": 1.0})):
    with pytest.raises(InputError, match="it must be from 0 to below 1"):
      config_lib.build(training.Config, {"name": "", field: value})
