"""The steps that a model's runs skip: what its settings and its calibration say of them."""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib

from absl import logging
from jaxtyping import Bool, Float
import numpy as np

from emv3_jax.diffusion import step_caches
from emv3_jax.errors import InputError
from emv3_jax.models.transformer_block import TransformerConfig
from emv3_jax.runtime import processes
from emv3_jax.runtime.command_names import as_called
from emv3_jax.sampling import calibration as calibration_lib
from emv3_jax.sampling.calibration import Calibration, Run
from emv3_jax.sampling.settings import Settings

# Sizes of Wan 2.1 1.3B, of whose time embedding TeaCache's polynomial is.
_WAN = {"dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30, "freq_dim": 256}


BranchNames = Sequence[Sequence[str]]  # of the guidance branches that run at each step


@dataclasses.dataclass(frozen=True, eq=False)
class Skipping:
  """How the schedule of a run is found.

  Attributes:
    limits: what it keeps to.
    calibration: of MagCache, and of TeaCache where it has its own polynomial.
    polynomial: of TeaCache; empty for MagCache.
  """

  limits: step_caches.Limits
  calibration: Calibration | None
  polynomial: tuple[float, ...] = ()

  def schedule(self, branches: BranchNames, modulation: Float[np.ndarray, "steps 6 d"] | None
               ) -> Bool[np.ndarray, "steps"]:
    """Computes which steps run, and logs it.

    Args:
      branches: of the run.
      modulation: e0 of every step; only TeaCache reads it.

    Raises:
      InputError: MagCache's calibration does not have a branch at a step.
    """
    if self.needs_modulation:
      assert modulation is not None
      changes = step_caches.relative_changes(modulation)
      changes[_beginnings(branches)] = np.nan  # a branch that did not run has no residual
      runs = step_caches.teacache(changes, self.polynomial, self.limits)
    else:
      runs = step_caches.magcache(self.ratios(branches), self.limits)
    if processes.is_first():
      logging.info("%s: %s.", self.source, step_caches.described(runs))
    return runs

  def ratios(self, branches: BranchNames) -> Float[np.ndarray, "branches steps"]:
    """Returns the ratios of MagCache for a run, infinity where a branch begins after the first step, so that it runs.

    Raises:
      InputError: a branch of the run was not measured at a step.
    """
    assert self.calibration is not None  # MagCache has one
    return self.calibration.ratios_of(branches)

  @property
  def needs_modulation(self) -> bool:
    """Whether the schedule depends on the time modulation."""
    return bool(self.polynomial)

  @property
  def source(self) -> str:
    """What the schedule is found by, in words."""
    if not self.polynomial:
      return "MagCache"
    return "TeaCache, polynomial of Wan 2.1 1.3B" if self.calibration is None else "TeaCache, calibrated polynomial"


def _beginnings(branches: BranchNames) -> list[int]:
  """Returns the steps at which a branch begins, but the first."""
  return [i for i in range(1, len(branches)) if not set(branches[i]) <= set(branches[i - 1])]


def _check_wan(network: TransformerConfig) -> None:
  other = [f"{name} {getattr(network, name)}, not {size}" for name, size in _WAN.items() if getattr(network, name) != size]
  if other:
    raise InputError(f"TeaCache's polynomial is of Wan 2.1 1.3B and not applicable to this model ({other[0]}); fit one "
                     f"with `{as_called('emv3-sample')} ... --calibrate`, or leave sampling.cache.kind=none.")


def calibration_path(settings: Settings, folder: pathlib.Path | None) -> pathlib.Path | None:
  """Returns the path of the calibration that complete settings use; None where they use none.

  TeaCache can do without: it uses a file that is named, or lies beside the model.
  """
  if settings.cache.kind in (None, "none"):
    return None
  path = calibration_lib.path_of(settings, folder)
  optional = settings.cache.kind == "teacache" and not settings.cache.file
  return None if optional and (path is None or not path.is_file()) else path


def of(settings: Settings, network: TransformerConfig, folder: pathlib.Path | None, digest: Callable[[], str],
       runs: Sequence[BranchNames]) -> Skipping | None:
  """Returns how the runs of a model skip steps; None where they skip none.

  Args:
    settings: complete settings.
    network: sizes of the transformer.
    folder: of the model; None for one without a folder.
    digest: returns that of the transformer's weights; is called where there is a calibration.
    runs: names of the branches of every kind of run that there will be.

  Raises:
    InputError: the calibration is missing, is no calibration or is of another run, TeaCache cannot do without, or
      MagCache's does not have a branch.
  """
  if settings.cache.kind in (None, "none"):
    return None
  teacache = settings.cache.kind == "teacache"
  limits, path = settings.cache.limits(settings.steps), calibration_path(settings, folder)
  if path is None:
    if not teacache:
      raise InputError("MagCache needs a calibration, and there is no model folder that it could lie in; name one with "
                       "--config.sampling.cache.file.")
    _check_wan(network)
    return Skipping(limits, None, step_caches.WAN_POLYNOMIAL)
  found = calibration_lib.read(path, Run.of(settings, network.variant, digest()))
  if teacache:
    return Skipping(limits, found, found.polynomial)
  skipping = Skipping(limits, found)
  for branches in runs:
    skipping.ratios(branches)
  return skipping
