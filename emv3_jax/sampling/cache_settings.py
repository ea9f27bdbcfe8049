"""Settings of the step caches."""

from collections.abc import Mapping
import dataclasses
import difflib
from typing import Any

from emv3_jax.diffusion.step_caches import KINDS, Limits
from emv3_jax.errors import InputError
from emv3_jax.io import paths
from emv3_jax.limits import AMOUNT, COUNT, LARGEST, SHARE, check_ranges

# What stands for fields that are None. TeaCache's are those of the released flash script, MagCache's its authors'
# for Wan 2.1 1.3B.
DEFAULTS: dict[str, dict[str, Any]] = {
    "none": {},
    "teacache": {"threshold": 0.1, "skip_start": 5, "max_skips": 1000, "retention": 0.0},
    "magcache": {"threshold": 0.12, "skip_start": 1, "max_skips": 4, "retention": 0.2}}


@dataclasses.dataclass(frozen=True)
class CacheConfig:
  """Which steps are skipped, see `diffusion.step_caches`.

  A field that is None is taken from the preset, else it has the value of `DEFAULTS` for the kind.

  Attributes:
    kind: `none`, `teacache` or `magcache`.
    threshold: accumulated change (TeaCache) or error (MagCache), from which on a step runs; 0 skips no step.
    skip_start: number of first steps that always run.
    max_skips: number of steps in a row that may be skipped.
    retention: share of the steps, from the first, that always run.
    file: calibration of `--calibrate`; empty takes the one beside the model.
  """

  kind: str | None = None
  threshold: float | None = None
  skip_start: int | None = None
  max_skips: int | None = None
  retention: float | None = None
  file: str = ""

  def __post_init__(self):
    if self.kind is not None and self.kind not in KINDS:
      near = difflib.get_close_matches(self.kind, KINDS, n=1, cutoff=0)[0]
      raise InputError(f"sampling.cache.kind is {self.kind!r}; did you mean {near!r}? Known: {', '.join(KINDS)}.")
    check_ranges("sampling.cache", self, {
        "threshold": (0, LARGEST), "skip_start": COUNT, "max_skips": AMOUNT, "retention": SHARE})
    paths.refuse_addresses(self, ("file",))

  def complete(self, preset: Mapping[str, Any]) -> "CacheConfig":
    """Returns these settings with those of a preset, then those of the kind, in place of None.

    Raises:
      InputError: there are settings of a cache, and no kind.
    """
    named = {name: value for name, value in dataclasses.asdict(self).items() if value not in (None, "")}
    if named.get("kind", preset.get("kind")) != preset.get("kind"):
      preset = {}  # whose other fields are of its kind
    kind = named.get("kind") or preset.get("kind") or "none"
    if named and kind == "none" and "kind" not in named:
      name, value = next(iter(named.items()))
      raise InputError(f"sampling.cache.{name} is {value!r}, and no step cache is chosen; choose one with "
                       "--config.sampling.cache.kind=teacache or magcache.")
    return CacheConfig(**{"kind": kind, **DEFAULTS[kind], **preset, **named})

  def limits(self, steps: int) -> Limits:
    """Returns what the schedule of a run of `steps` steps keeps to; all fields have to be set.

    Raises:
      ValueError: a field is None.
    """
    if self.threshold is None or self.skip_start is None or self.max_skips is None or self.retention is None:
      raise ValueError(f"{self} is not complete.")
    return Limits(self.threshold, max(1, self.skip_start, int(self.retention * steps)), self.max_skips)
