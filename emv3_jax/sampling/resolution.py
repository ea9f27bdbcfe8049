"""Where each setting of a sampling run comes from.

A field of `SamplingConfig` is taken from the first of these that says it:

  command line    --config.sampling.NAME=VALUE
  config          a config file that sets it, or the caller of the library
  preset NAME     sampling.preset, see `settings.preset_of`
  model.json      how the model folder wants to be sampled
  code            the released settings of the variant

What `model.json` says must match the training is refused where another place contradicts it.
"""

from collections.abc import Collection
import dataclasses

from absl import logging

from emv3_jax import variants
from emv3_jax.errors import InputError
from emv3_jax.io.model_card import ModelCard, SamplingCard
from emv3_jax.models.cross_attention import ALLOCATIONS
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.settings import Config, SamplingConfig, field_names, preset_of

COMMAND_LINE, CONFIG, MODEL, CODE = "command line", "config", "model.json", "code"
GROUP = "sampling."
MUST_MATCH = ("allocation",)
# How a run goes, and nothing of the model: `model.json` does not say it.
_OF_THE_RUN = ("attention", "branches", "token_blocks")
RECOMMENDED = tuple(name for name in field_names() if name not in MUST_MATCH + _OF_THE_RUN)


@dataclasses.dataclass(frozen=True)
class Resolved:
  """Settings without gaps.

  Attributes:
    settings: every field is set.
    origins: where each field comes from.
    mismatches: fields that should match the training and do not, allowed by
      `sampling.allow_mismatch`: {"model": its value, "used": the value taken}.
  """

  settings: SamplingConfig
  origins: dict[str, str]
  mismatches: dict[str, dict]


def resolve(given: SamplingConfig, variant: str, card: ModelCard | None = None,
            said: Collection[str] = ()) -> Resolved:
  """The settings that `given` comes to for a model.

  Args:
    given: of a config; fields that are None are looked up.
    variant: of the model.
    card: of the model folder; None where there is none.
    said: dotted names of the fields that the command line set, e.g. `sampling.steps`.

  Raises:
    InputError: a preset that the variant has not, a card with settings that do not exist, or a
      setting that contradicts what must match.
  """
  wishes = card.sampling if card is not None and card.sampling is not None else SamplingCard()
  where = None if card is None else card.folder
  _check_card(wishes, where)
  preset = preset_of(given.preset, variant) if given.preset else {}
  origins, values = {}, {}
  for name in field_names():
    for origin, value in (
        (COMMAND_LINE if GROUP + name in said else CONFIG, getattr(given, name)),
        (f"preset {given.preset}", preset.get(name)),
        (MODEL, wishes.recommended.get(name, wishes.must_match.get(name))),
        (CODE, variants.of(variant).settings[name])):
      if value is not None:
        origins[name], values[name] = origin, value
        break
  settings = config_lib.build(SamplingConfig, {
      "preset": given.preset, "allow_mismatch": given.allow_mismatch, **values}, "sampling")
  return Resolved(settings, origins, _mismatches(settings, origins, wishes, where))


def resolve_config(config: Config, card: ModelCard | None,
                   said: Collection[str] = ()) -> tuple[Config, Resolved]:
  """`config` with settings without gaps, under the name of the model where that has one."""
  found = resolve(config.sampling, config.model.transformer.variant, card, said)
  name = card.name if card is not None and card.name else config.name
  return dataclasses.replace(config, name=name, sampling=found.settings), found


def warn_of_old_card(card: ModelCard) -> None:
  """Says what a folder of version 0.1 does not say."""
  if card.sampling is None and card.variant in variants.names():
    logging.warning(
        "%s/model.json does not say how the model wants to be sampled (version 0.1 wrote it): the "
        "released settings of %s are taken, where you set no others. A model that was trained with "
        "another allocation of modalities needs --config.sampling.allocation=NAME.",
        card.folder, card.variant)


def _check_card(wishes: SamplingCard, folder) -> None:
  for given, known in ((wishes.recommended, RECOMMENDED), (wishes.must_match, MUST_MATCH)):
    for name in given:
      if name not in known:
        raise InputError(f"{folder}/model.json has a setting {name!r} that this release does not "
                         f"know; {config_lib.nearest(name, known)} Use the release that wrote it.")


def _mismatches(settings: SamplingConfig, origins: dict[str, str], wishes: SamplingCard,
                folder) -> dict[str, dict]:
  found = {}
  for name, model in wishes.must_match.items():
    used = getattr(settings, name)
    same = used == model or (name == "allocation" and used in ALLOCATIONS
                             and ALLOCATIONS[used] == ALLOCATIONS.get(model))
    if same:
      continue
    if not settings.allow_mismatch:
      raise InputError(
          f"sampling.{name} is {used!r} ({origins[name]}); the model {folder} was trained with "
          f"{model!r}.\nLeave it out, or set --config.sampling.allow_mismatch=true for an ablation.")
    logging.warning("sampling.%s is %r, the model was trained with %r.", name, used, model)
    found[name] = {"model": model, "used": used}
  return found
