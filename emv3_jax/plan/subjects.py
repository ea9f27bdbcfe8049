"""Subjects of a plan: sampling with one config, or training with one."""

from collections.abc import Callable
import dataclasses

from emv3_jax.plan import encoder_programs, programs, training_programs
from emv3_jax.plan.programs import Deployment, Program, Window
from emv3_jax.sampling import settings as sampling_settings
from emv3_jax.training import settings as training_settings

Config = sampling_settings.Config | training_settings.Config


@dataclasses.dataclass(frozen=True)
class Subject:
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
  config: type
  programs: dict[str, Callable[[Config, Window, Deployment], Program]]
  window: Callable[[Config], Window]
  rows: Callable[[Config], int]
  trains: bool
  others: dict[str, Callable[[Config, Window, Deployment], Program]] = dataclasses.field(
      default_factory=dict)


SAMPLING = Subject("sampling", sampling_settings.Config, programs.PROGRAMS,
                   programs.largest_window, programs.num_rows, trains=False,
                   others=encoder_programs.ENCODERS)
TRAINING = Subject(
    "training", training_settings.Config,
    {"train_step": training_programs.train_step, "ndpo_step": training_programs.ndpo_step},
    training_programs.largest_window, training_programs.num_rows, trains=True)
SUBJECTS = {subject.name: subject for subject in (SAMPLING, TRAINING)}


def of(config: Config) -> Subject:
  """The kind that a config is of."""
  return next(subject for subject in SUBJECTS.values() if isinstance(config, subject.config))
