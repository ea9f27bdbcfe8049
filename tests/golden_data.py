"""Recorded numbers of the reference implementation, and the errors measured against them.

`tests/golden/` holds the copies that the tests need; a folder named by the environment variable
`EMV3_GOLDEN` adds every other case. In PyTorch layout (NCTHW, Linear weight [out, in]).
"""

import collections
import dataclasses
import json
import os
import pathlib

import jax  # noqa: F401  registers bfloat16 with numpy before safetensors reads it
import numpy as np
import pytest
from safetensors.numpy import load_file

LOCAL = pathlib.Path(__file__).parent / "golden"
EXTERNAL = os.environ.get("EMV3_GOLDEN")

sources: collections.Counter = collections.Counter()  # {"tests/golden": cases, "EMV3_GOLDEN": cases}
errors: dict[str, list] = {}  # {module: [worst error, tolerance, cases]}


@dataclasses.dataclass(frozen=True)
class Case:
  name: str
  arrays: dict[str, np.ndarray]
  meta: dict

  def __getitem__(self, key: str) -> np.ndarray:
    return self.arrays[key]


def _folders() -> list[pathlib.Path]:
  return [LOCAL] + ([pathlib.Path(EXTERNAL)] if EXTERNAL else [])


def names(folder: str, pattern: str) -> list[str]:
  """Names of the cases of `folder` that match `pattern`, from the project and from EMV3_GOLDEN."""
  found = {p.stem if p.suffix == ".json" else p.name.removesuffix(".safetensors")
           for root in _folders() for p in sorted((root / folder).glob(pattern + ".json"))}
  return sorted(found)


def cases(folder: str, pattern: str):
  """`pytest.mark.parametrize` over the cases of `folder` that match `pattern`."""
  found = names(folder, pattern)
  assert found, f"no golden case {folder}/{pattern}"
  return pytest.mark.parametrize("name", found)


def external_cases(folder: str, pattern: str):
  """As `cases`, for cases whose arrays only EMV3_GOLDEN has; skipped without it."""
  found = [name for name in names(folder, pattern)
           if EXTERNAL and (pathlib.Path(EXTERNAL) / folder / f"{name}.safetensors").exists()]
  missing = pytest.param(None, marks=pytest.mark.skip(reason="EMV3_GOLDEN is not set"))
  return pytest.mark.parametrize("name", found or [missing])


def path(folder: str, filename: str) -> pathlib.Path:
  """Path of one golden file, the project's own copy first."""
  for root in _folders():
    if (root / folder / filename).exists():
      return root / folder / filename
  raise FileNotFoundError(f"{folder}/{filename} is neither in {LOCAL} nor in EMV3_GOLDEN={EXTERNAL}")


def load(folder: str, name: str) -> Case:
  """Loads one case; counts where it came from for the summary."""
  meta_path = path(folder, f"{name}.json")
  sources["tests/golden" if LOCAL in meta_path.parents else "EMV3_GOLDEN"] += 1
  paths = [root / folder / f"{name}.safetensors" for root in _folders()]
  arrays = next((load_file(path) for path in paths if path.exists()), {})
  return Case(f"{folder}/{name}", arrays, json.loads(meta_path.read_text()))


def merge(more_sources: dict, more_errors: dict) -> None:
  """Adds counts and errors to those of the summary."""
  sources.update(more_sources)
  for module, (error, tolerance, count) in more_errors.items():
    worst, _, known = errors.get(module, (0.0, tolerance, 0))
    errors[module] = [max(worst, error), tolerance, known + count]


def check(module: str, got, want: np.ndarray, tolerance: float) -> float:
  """Asserts max |got - want| / max |want| <= tolerance and keeps the worst for the summary."""
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  assert got.shape == want.shape, f"{module}: shape {got.shape}, expected {want.shape}"
  assert np.isfinite(got).all(), f"{module}: not finite"
  error = float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30))
  merge({}, {module: [error, tolerance, 1]})
  assert error <= tolerance, f"{module}: error {error:.3g} of the largest value, tolerance {tolerance:g}"
  return error
