"""Conversion of checkpoint files to a model folder."""

from collections.abc import Mapping
import dataclasses
import hashlib
import pathlib
import tempfile
from typing import Any

from absl import logging

from emv3_jax import variants
from emv3_jax.conditioning.text import Tokenizer
from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import read_model_card, save_component, write_tokenizer
from emv3_jax.io.model_card import CARD, TRANSFORMER, ModelCard, SamplingCard
from emv3_jax.sampling.resolution import MUST_MATCH, RECOMMENDED

from .feature_extractor import waveform_settings
from .names_encoders import AUDIO_ENCODER
from .not_finite import NotFinite
from .plan import COMPONENTS, Plan, Unrecognised, identify
from .sources import Checkpoint, Source

CHOICES = ("auto", *COMPONENTS, "tokenizer")


def survey(source: Source, given: Mapping[str, Any] | None = None,
           ) -> tuple[list[Plan], list[Unrecognised], list[InputError]]:
  """Examines every checkpoint of a source.

  Args:
    source: what `sources.find` found.
    given: config fields that override what shapes and config files say.

  Returns:
    Plans of the components, errors of checkpoints that are not a component, and errors of checkpoints
    that cannot be read.
  """
  plans, unrecognised, problems = [], [], []
  for checkpoint in source.checkpoints:
    try:
      plans.append(identify(checkpoint, given=given))
    except Unrecognised as error:
      unrecognised.append(error)
    except InputError as error:
      problems.append(error)
  return plans, unrecognised, problems


def identify_all(source: Source, component: str = "auto",
                 given: Mapping[str, Any] | None = None) -> tuple[list[Plan], list[str]]:
  """Recognises the checkpoints of a source.

  Args:
    source: what `sources.find` found.
    component: one of `CHOICES`; other components of the source are skipped, even if they cannot be
      read.
    given: config fields that override what shapes and config files say.

  Returns:
    Plans, one per component, and a line about each file that is skipped because it is not a component.

  Raises:
    InputError: nothing is recognised, one cannot be read, or two checkpoints are the same component.
  """
  if component == "tokenizer":
    return [], []
  if len(source.checkpoints) == 1:
    return [identify(source.checkpoints[0], component, given)], []
  plans, unrecognised, problems = survey(source, given)
  wanted = [plan for plan in plans if component in ("auto", plan.component.name)]
  if problems and (component == "auto" or not wanted):
    raise problems[0]
  if unrecognised and not wanted:
    raise unrecognised[0]
  if not wanted and source.checkpoints:
    raise InputError(f"{source.name} has no {component}; found: "
                     f"{', '.join(sorted({plan.component.name for plan in plans}))}.")
  for plan in wanted:
    same = several(plan, wanted)
    if same:
      raise InputError(f"{source.name} has several checkpoints of the {plan.component.name}: "
                       f"{same}.\nGive the file or folder of one of them as SOURCE.")
  return wanted, [left_out(error) for error in (*unrecognised, *problems)]


def several(plan: Plan, plans: list[Plan]) -> str:
  """Returns the names of the checkpoints of the plan's component if there are several, else ""."""
  same = [other.checkpoint.name for other in plans if other.component is plan.component]
  return ", ".join(same) if len(same) > 1 else ""


def left_out(error: InputError) -> str:
  return f"left out: {str(error).splitlines()[0]}"


def convert(source: Source, folder: pathlib.Path, component: str = "auto", dtype: str = "keep",
            given: Mapping[str, Any] | None = None, replace: bool = False) -> list[str]:
  """Converts the checkpoints of a source to a model folder.

  All names and shapes are checked before anything is written. A component that was converted from the
  same files to the same dtype is kept; EchoMimicV3's transformer replaces a base transformer; to replace
  any other component, `replace` must be True.

  Args:
    dtype: dtype of the stored parameters, or "keep" for that of the files.

  Returns:
    One line about each part, for the user.

  Raises:
    InputError: a checkpoint is incomplete, or the folder has another component of that name.
  """
  plans, lines = identify_all(source, component, given)
  lines = [*source.notes, *lines]
  for plan in plans:
    plan.check()
    lines += [f"warning: {plan.component.name}: {note}." for note in plan.notes]
  tokenizer = source.tokenizer if component in ("auto", "tokenizer") else None
  if component == "tokenizer" and tokenizer is None:
    raise InputError(f"{source.name} has no tokenizer.json or spiece.model in a folder "
                     "umt5-xxl or tokenizer.")
  for plan in plans:
    name, stored = plan.component.name, plan.dtype if dtype == "keep" else dtype
    sources = digests(plan.checkpoint)
    features = waveform_settings(plan.checkpoint) if name == AUDIO_ENCODER.name else {}
    if _already_there(folder, plan, stored, sources, features, replace):
      lines.append(f"{name}: already in {folder}, from the same files")
      continue
    logging.info("Converting %s.", plan.checkpoint.name)
    counts = NotFinite()
    save_component(folder, name, plan.params(dtype, counts), config=dataclasses.asdict(plan.config),
                   variant=plan.layout.variant, sources=sources, features=features,
                   **_model_of(plan.layout.variant if name == TRANSFORMER else None))
    unused = ", ".join(f"{pattern} ({count})" for pattern, count in plan.unused.items())
    lines.append(f"{name}: {plan.num_params:,} parameters, {stored}"
                 f"{f', variant {plan.layout.variant}' if plan.layout.variant else ''}"
                 f"{f'; left out, unused: {unused}' if plan.unused else ''}")
    lines += counts.lines(name, stored)
  if tokenizer is not None:
    lines.append(_take_tokenizer(folder, tokenizer))
  return lines


def _take_tokenizer(folder: pathlib.Path, source: pathlib.Path) -> str:
  """Writes a tokenizer to the model folder as tokenizer.json; returns a line about it."""
  if source.suffix == ".json":
    write_tokenizer(folder, source)
    return "tokenizer: copied"
  with tempfile.TemporaryDirectory() as scratch:
    converted = pathlib.Path(scratch) / "tokenizer.json"
    Tokenizer.load(source).save(converted)
    write_tokenizer(folder, converted)
  return f"tokenizer: converted from {source.name}"


def _model_of(variant: str | None) -> dict:
  """Returns name and sampling settings of the model folder for a released transformer; {} for others."""
  if variant not in variants.names():
    return {}
  released = variants.of(variant).settings
  return {"model_name": f"echomimic_v3_{variant}", "sampling": SamplingCard(
      must_match={name: released[name] for name in MUST_MATCH},
      recommended={name: released[name] for name in RECOMMENDED})}


def digests(checkpoint: Checkpoint) -> list[dict]:
  """Returns name, sha256 and size in bytes of each file of a checkpoint, and its key if there is one."""
  found = []
  for file in checkpoint.files:
    with file.open("rb") as content:
      found.append({"file": file.name, "sha256": hashlib.file_digest(content, "sha256").hexdigest(),
                    "bytes": file.stat().st_size}
                   | ({"key": checkpoint.key} if checkpoint.key else {}))
  return found


def _already_there(folder, plan: Plan, dtype: str, sources: list[dict], features: dict,
                   replace: bool) -> bool:
  """Returns whether the folder has exactly this component; an incomplete one does not count.

  Raises:
    InputError: the folder has another component of that name, and `replace` is False.
  """
  card = read_model_card(folder) if (folder / CARD).exists() else ModelCard(folder, None, {})
  name = plan.component.name
  if name not in card.components or replace or not card.is_whole(name):
    return False
  old = card.components[name]
  if list(old.sources) == sources and old.dtype == dtype and old.features == features:
    return True
  if name == "transformer" and card.variant == "base" and plan.layout.variant != "base":
    return False
  variant = f" (variant {card.variant})" if name == "transformer" else ""
  raise InputError(f"{folder} already has a {name}{variant} in {old.dtype}, from "
                   f"{', '.join(source['file'] for source in old.sources) or 'unknown files'}.\n"
                   "Add --replace to replace it, choose other parts with --component, or give another "
                   "folder.")
