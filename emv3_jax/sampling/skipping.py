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


@dataclasses.dataclass(frozen=True, eq=False)
class Skipping:
  """How the schedule of a run is found.

  Attributes:
    limits: what it keeps to.
    source: what it is found by, in words.
    polynomial: of TeaCache; empty for MagCache.
    ratios: of MagCache, see `step_caches.magcache`; None for TeaCache.
  """

  limits: step_caches.Limits
  source: str
  polynomial: tuple[float, ...] = ()
  ratios: Float[np.ndarray, "branches steps"] | None = None

  def schedule(self, modulation: Float[np.ndarray, "steps 6 d"] | None) -> Bool[np.ndarray, "steps"]:
    """Computes which steps run, and logs it.

    Args:
      modulation: e0 of every step; only TeaCache reads it.
    """
    if self.ratios is not None:
      runs = step_caches.magcache(self.ratios, self.limits)
    else:
      assert modulation is not None  # `needs_modulation` says so
      runs = step_caches.teacache(step_caches.relative_changes(modulation), self.polynomial, self.limits)
    if processes.is_first():
      logging.info("%s: %s.", self.source, step_caches.described(runs))
    return runs

  @property
  def needs_modulation(self) -> bool:
    """Whether the schedule depends on the time modulation."""
    return self.ratios is None


def by_magcache(calibration: Calibration, limits: step_caches.Limits, branches: Sequence[Sequence[str]]) -> Skipping:
  """Skips by the measured ratios of the branches that run at each step.

  Raises:
    InputError: a branch was not measured at a step.
  """
  return Skipping(limits, "MagCache", ratios=calibration.ratios_of(branches))


def by_teacache(calibration: Calibration | None, limits: step_caches.Limits, network: TransformerConfig) -> Skipping:
  """Skips by the calibration's polynomial, without one by that of Wan 2.1 1.3B.

  Raises:
    InputError: there is no calibration, and the network has not the sizes of Wan 2.1 1.3B.
  """
  if calibration is not None:
    return Skipping(limits, "TeaCache, calibrated", polynomial=calibration.polynomial)
  other = [f"{name} {getattr(network, name)}, not {size}" for name, size in _WAN.items() if getattr(network, name) != size]
  if other:
    raise InputError(f"TeaCache's polynomial is of Wan 2.1 1.3B and not applicable to this model ({other[0]}); fit one "
                     f"with `{as_called('emv3-sample')} ... --calibrate`, or leave sampling.cache.kind=none.")
  return Skipping(limits, "TeaCache, polynomial of Wan 2.1 1.3B", polynomial=step_caches.WAN_POLYNOMIAL)


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
       branches: Sequence[Sequence[str]]) -> Skipping | None:
  """Returns how the runs of a model skip steps; None where they skip none.

  Args:
    settings: complete settings.
    network: sizes of the transformer.
    folder: of the model; None for one without a folder.
    digest: returns that of the transformer's weights; is called where there is a calibration.
    branches: names of the guidance branches that run at each step.

  Raises:
    InputError: the calibration is missing, is no calibration or is of another run, or TeaCache cannot do without.
  """
  kind = settings.cache.kind
  if kind in (None, "none"):
    return None
  limits, path = settings.cache.limits(settings.steps), calibration_path(settings, folder)
  if path is None and kind == "magcache":
    raise InputError("MagCache needs a calibration, and there is no model folder that it could lie in; name one with "
                     "--config.sampling.cache.file.")
  found = None if path is None else calibration_lib.read(path, Run.of(settings, network.variant, digest()))
  if kind == "teacache":
    return by_teacache(found, limits, network)
  assert found is not None
  return by_magcache(found, limits, branches)
