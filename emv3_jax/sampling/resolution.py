"""Resolution of the sampling settings.

A field of `SamplingConfig` is taken from the first of these sources that sets it:

  command line    --config.sampling.NAME=VALUE
  config          a config file that sets it, or the caller of the library
  preset NAME     sampling.preset, see `presets.preset_of`
  model.json      recommended settings in the model folder
  code            the released settings of the variant

A setting that must match the training according to `model.json` is an error if another source contradicts it.
"""

from collections.abc import Collection, Mapping
import dataclasses
from typing import Any

from absl import logging

from emv3_jax import variants
from emv3_jax.errors import InputError
from emv3_jax.io.model_card import ModelCard, SamplingCard
from emv3_jax.models.cross_attention import ALLOCATIONS
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.presets import preset_of
from emv3_jax.sampling.settings import Config, SamplingConfig, field_names

COMMAND_LINE, CONFIG, MODEL, CODE = "command line", "config", "model.json", "code"
GROUP = "sampling."
MUST_MATCH = ("allocation", "face_mask")
# Settings of the execution, not of the model; `model.json` does not hold them.
_EXECUTION_FIELDS = ("attention", "branches", "token_blocks")
RECOMMENDED = tuple(name for name in field_names() if name not in MUST_MATCH + _EXECUTION_FIELDS)


@dataclasses.dataclass(frozen=True)
class Resolved:
  """Complete settings.

  Attributes:
    settings: settings with a value for every field.
    origins: source of each field.
    mismatches: fields that differ from the training, allowed by `sampling.allow_mismatch`:
      {"model": value of the training, "used": value in use}.
  """

  settings: SamplingConfig
  origins: dict[str, str]
  mismatches: dict[str, dict]


def resolve(requested: SamplingConfig, variant: str, card: ModelCard | None = None,
            overridden: Collection[str] = ()) -> Resolved:
  """Resolves the settings of a model.

  Args:
    requested: settings of a config; fields that are None are resolved.
    variant: variant of the model.
    card: card of the model folder; None if there is none.
    overridden: dotted names of the fields that the command line overrides, e.g. `sampling.steps`.

  Raises:
    InputError: the variant does not have the preset, the card has unknown settings, or a setting
      contradicts one that must match.
  """
  card_settings = card.sampling if card is not None and card.sampling is not None else SamplingCard()
  folder = None if card is None else card.folder
  _check_card(card_settings, folder)
  preset = preset_of(requested.preset, variant) if requested.preset else {}
  origins, values = {}, {}
  for name in field_names():
    for origin, value in (
        (COMMAND_LINE if GROUP + name in overridden else CONFIG, getattr(requested, name)),
        (f"preset {requested.preset}", preset.get(name)),
        (MODEL, card_settings.recommended.get(name, card_settings.must_match.get(name))),
        (CODE, variants.of(variant).settings[name])):
      if value is not None:
        origins[name], values[name] = origin, value
        break
  settings = config_lib.build(SamplingConfig, {
      "preset": requested.preset, "allow_mismatch": requested.allow_mismatch,
      "length_buckets": requested.length_buckets, "long": dataclasses.asdict(requested.long),
      "cache": dataclasses.asdict(requested.cache.complete(preset.get("cache", {}))),
      **values}, "sampling")
  origins |= _origins_of_cache(requested, settings, preset.get("cache", {}), overridden)
  return Resolved(settings, origins, _mismatches(settings, origins, card_settings, folder))


def _origins_of_cache(requested: SamplingConfig, settings: SamplingConfig, preset: Mapping[str, Any],
                      overridden: Collection[str]) -> dict[str, str]:
  """Returns the sources of the step cache's settings, by `cache.NAME`; of none there are none."""
  found = {}
  for name, value in dataclasses.asdict(settings.cache).items() if settings.cache.kind != "none" else ():
    given = getattr(requested.cache, name) not in (None, "")
    source = COMMAND_LINE if f"{GROUP}cache.{name}" in overridden else CONFIG
    by_preset = settings.cache.kind == preset.get("kind") and preset.get(name) == value
    found[f"cache.{name}"] = source if given else f"preset {settings.preset}" if by_preset else CODE
  return found


def resolve_config(config: Config, card: ModelCard | None,
                   overridden: Collection[str] = ()) -> tuple[Config, Resolved]:
  """Returns `config` with complete settings and the name of the model, if it has one, and the resolution."""
  resolved = resolve(config.sampling, config.model.transformer.variant, card, overridden)
  name = card.name if card is not None and card.name else config.name
  return dataclasses.replace(config, name=name, sampling=resolved.settings), resolved


def warn_of_old_card(card: ModelCard) -> None:
  """Logs a warning if a model folder of version 0.1 holds no sampling settings."""
  if card.sampling is None and card.variant in variants.names():
    logging.warning(
        "%s/model.json has no sampling settings (version 0.1 wrote it): the released settings of %s are "
        "used where you set no others. A model that was trained with another allocation of modalities "
        "needs --config.sampling.allocation=NAME.",
        card.folder, card.variant)


def _check_card(card: SamplingCard, folder) -> None:
  for settings, supported in ((card.recommended, RECOMMENDED), (card.must_match, MUST_MATCH)):
    for name in settings:
      if name not in supported:
        raise InputError(f"{folder}/model.json has a setting {name!r} that this release does not "
                         f"know; {config_lib.nearest(name, supported)} Use the release that wrote it.")


def _mismatches(settings: SamplingConfig, origins: dict[str, str], card: SamplingCard,
                folder) -> dict[str, dict]:
  found = {}
  for name, model in card.must_match.items():
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
