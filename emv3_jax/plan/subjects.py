"""Subjects of a plan: sampling or training with a config."""

from collections.abc import Callable
import dataclasses
from typing import Any, Generic, TypeVar

from emv3_jax.plan import encoder_programs, long_programs, programs, training_programs
from emv3_jax.plan.programs import Deployment, Program, Window
from emv3_jax.sampling import settings as sampling_settings
from emv3_jax.training import settings as training_settings

Config = sampling_settings.Config | training_settings.Config
_Config = TypeVar("_Config", sampling_settings.Config, training_settings.Config)


@dataclasses.dataclass(frozen=True)
class Subject(Generic[_Config]):
  """A kind of config and its programs.

  Attributes:
    name: name of the kind.
    config: config class.
    programs: programs that are planned by default, by name.
    window: function from a config to its largest window.
    rows: function from a config to the rows of the batch that run at once, split over data and fsdp.
    trains: whether gradients are computed. If so, data x fsdp must divide the rows; else they are padded.
    others: programs that are planned only if they are selected, by name.
  """

  name: str
  config: type[_Config]
  programs: dict[str, Callable[[_Config, Window, Deployment], Program]]
  window: Callable[[_Config], Window]
  rows: Callable[[_Config], int]
  trains: bool
  others: dict[str, Callable[[_Config, Window, Deployment], Program]] = dataclasses.field(
      default_factory=dict)


SAMPLING = Subject("sampling", sampling_settings.Config, long_programs.PROGRAMS,
                   programs.largest_window, programs.num_rows, trains=False,
                   others=encoder_programs.ENCODERS)
TRAINING = Subject(
    "training", training_settings.Config,
    {"train_step": training_programs.train_step, "ndpo_step": training_programs.ndpo_step},
    training_programs.largest_window, training_programs.num_rows, trains=True)
SUBJECTS: dict[str, Subject[Any]] = {subject.name: subject for subject in (SAMPLING, TRAINING)}


def of(config: Config) -> Subject[Any]:
  """Returns the subject of a config."""
  return next(subject for subject in SUBJECTS.values() if isinstance(config, subject.config))
