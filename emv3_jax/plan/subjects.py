"""Subjects of a plan: sampling with one config, or training with one."""

from collections.abc import Callable
import dataclasses
from typing import Any, Generic, TypeVar

from emv3_jax.plan import encoder_programs, programs, training_programs
from emv3_jax.plan.programs import Deployment, Program, Window
from emv3_jax.sampling import settings as sampling_settings
from emv3_jax.training import settings as training_settings

Config = sampling_settings.Config | training_settings.Config
_Config = TypeVar("_Config", sampling_settings.Config, training_settings.Config)


@dataclasses.dataclass(frozen=True)
class Subject(Generic[_Config]):
  """One kind of config.

  Attributes:
    name: of this kind.
    config: its class.
    programs: those that are planned, by name.
    others: those that are planned when they are asked for.
    window: the largest size that a config is for.
    rows: rows of the batch that run at once and are split over data and fsdp.
    trains: whether gradients are taken. If so the rows have to divide, else they are padded.
  """

  name: str
  config: type[_Config]
  programs: dict[str, Callable[[_Config, Window, Deployment], Program]]
  window: Callable[[_Config], Window]
  rows: Callable[[_Config], int]
  trains: bool
  others: dict[str, Callable[[_Config, Window, Deployment], Program]] = dataclasses.field(
      default_factory=dict)


SAMPLING = Subject("sampling", sampling_settings.Config, programs.PROGRAMS,
                   programs.largest_window, programs.num_rows, trains=False,
                   others=encoder_programs.ENCODERS)
TRAINING = Subject(
    "training", training_settings.Config,
    {"train_step": training_programs.train_step, "ndpo_step": training_programs.ndpo_step},
    training_programs.largest_window, training_programs.num_rows, trains=True)
SUBJECTS: dict[str, Subject[Any]] = {subject.name: subject for subject in (SAMPLING, TRAINING)}


def of(config: Config) -> Subject[Any]:
  """The kind that a config is of."""
  return next(subject for subject in SUBJECTS.values() if isinstance(config, subject.config))
