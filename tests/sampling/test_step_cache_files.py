"""Settings of step caches and the files of calibrations: what is taken, and what is refused."""

import dataclasses
import json
import math

import numpy as np
import pytest

from emv3_jax.diffusion import step_caches
from emv3_jax.errors import InputError
from emv3_jax.models.transformer_block import TransformerConfig
from emv3_jax.sampling import calibration, skipping
from emv3_jax.sampling.cache_settings import CacheConfig
from emv3_jax.sampling.calibration import Run
from emv3_jax.sampling.settings import SamplingConfig
from emv3_jax.sampling.skipping import Skipping

RUN = Run(model="ab" * 32, variant="preview", solver="euler", steps=4, shift=5.0, solver_shift=5.0)
NAN = math.nan
BRANCHES = [("text", "full")] * 2 + [("full",)] * 2
LIMITS = step_caches.Limits(0.5, 1, 3)


def settings(steps=4, kind="magcache", **cache):
  found = SamplingConfig(steps=steps, cache=CacheConfig(kind, **cache).complete({}))
  return found.with_defaults("preview")


@pytest.fixture
def made() -> calibration.Calibration:
  return calibration.measured(RUN, {"text": [NAN, 0.9, 0.8, NAN], "full": [NAN, 0.7, 0.6, 0.5]},
                              [NAN, 0.1, 0.2, 0.3], [NAN, 0.2, 0.4, 0.6], {"frames": 5})


def test_a_file_gives_the_calibration_back(made, tmp_path):
  path = calibration.path_of(settings(), tmp_path)
  assert path == tmp_path / "step_cache_euler_4_5_5.json"
  calibration.write(path, made)
  assert calibration.read(path, RUN) == made
  np.testing.assert_allclose(np.polyval(made.polynomial, 0.25), 0.5, rtol=1e-6)
  assert calibration.path_of(settings(file="mine.json"), tmp_path).name == "mine.json"
  assert calibration.path_of(settings(), None) is None


@pytest.mark.parametrize("other, said", [
    ({"steps": 8}, "is of steps 4, this run has 8; calibrate with "), ({"shift": 3.0}, "is of shift 5.0, this run has 3.0"),
    ({"model": "cd" * 32}, "is of model abababababab..., this run has cdcdcdcdcdcd..."),
    ({"solver": "unipc"}, "is of solver euler, this run has unipc"), ({"variant": "flash"}, "is of variant preview"),
    ({"solver_shift": 1.0}, "is of solver_shift 5.0, this run has 1.0")])
def test_a_calibration_of_another_run_is_refused(made, tmp_path, other, said):
  calibration.write(tmp_path / "mine.json", made)
  with pytest.raises(InputError, match=said):
    calibration.read(tmp_path / "mine.json", dataclasses.replace(RUN, **other))


def test_a_missing_calibration_names_those_that_are_there(made, tmp_path):
  calibration.write(calibration.path_of(settings(), tmp_path), made)
  with pytest.raises(InputError, match=r"no calibration .*step_cache_euler_8_5_5.json \(there: step_cache_euler_4_5_5.json\)"
                                       ".*--calibrate"):
    skipping.of(settings(8), TransformerConfig(), tmp_path, lambda: RUN.model, [BRANCHES])


@pytest.mark.parametrize("change, said", [
    ({"step_cache": 2}, "step_cache is 2, this release reads 1"), ({"ratios": {"full": [1, 2]}}, "full is not 4 finite"),
    ({"changes": [None, 1, 2, "3"]}, "changes is not 4 finite"), ({"polynomial": []}, "polynomial is not of numbers"),
    ({"run": {"steps": 4}}, "run.model"), ({"ratios": None}, "AttributeError"), (None, "JSONDecodeError")])
def test_a_file_that_is_no_calibration_is_refused(made, tmp_path, change, said):
  path = tmp_path / "mine.json"
  calibration.write(path, made)
  path.write_text(json.dumps(json.loads(path.read_text()) | change) if change else "[")
  with pytest.raises(InputError, match=f"mine.json is no calibration of a step cache .*{said}"):
    calibration.read(path, RUN)


def test_ratios_of_the_branches_that_run(made):
  np.testing.assert_array_equal(made.ratios_of(BRANCHES), [[NAN, 0.9, NAN, NAN], [NAN, 0.7, 0.6, 0.5]])
  with pytest.raises(InputError, match="no ratio of guidance branch 'text' at step 3, it has those of text, full"):
    made.ratios_of([("text", "full")] * 4)
  with pytest.raises(InputError, match="no ratio of guidance branch 'other' at step 1"):
    made.ratios_of([("other",)] * 4)


def test_one_step_cannot_be_calibrated():
  with pytest.raises(InputError, match="1 step has no step to compare"):
    calibration.measured(dataclasses.replace(RUN, steps=1), {"full": [NAN]}, [NAN], [NAN], {})
  with pytest.raises(InputError, match="nothing to measure"):  # of a network that says 0
    calibration.measured(RUN, {"full": [NAN] * 4}, [NAN, 1, 2, 3], [NAN] * 4, {})


MODULATION = np.tile(np.cumprod([1, 1.1, 1.2, 1.3])[:, None, None], (1, 6, 2))  # changes of 0.1, 0.2 and 0.3


@pytest.mark.parametrize("branches, magcache, teacache", [
    (BRANCHES, [True, False, True, True], [True, False, False, True]),
    ([("full",), ("text", "full"), ("text", "full"), ("full",)], [True, True, False, True], [True, True, False, True])])
def test_schedules_of_a_calibration(made, branches, magcache, teacache):
  """The output changes twice as much as the modulation. A branch that begins has no residual, so that step 1 runs."""
  by_ratios = Skipping(LIMITS._replace(threshold=0.45), made)
  assert by_ratios.schedule(branches, None).tolist() == magcache
  by_changes = Skipping(LIMITS._replace(threshold=0.65), made, made.polynomial)
  assert by_changes.schedule(branches, MODULATION).tolist() == teacache


def test_the_polynomial_of_wan_is_for_its_sizes():
  of = lambda network: skipping.of(settings(kind="teacache"), network, None, lambda: RUN.model, [BRANCHES])
  assert of(TransformerConfig()).polynomial == step_caches.WAN_POLYNOMIAL
  with pytest.raises(InputError, match=r"not applicable to this model \(dim 96, not 1536\); fit one with .*--calibrate"):
    of(TransformerConfig(dim=96, num_heads=3))


def test_which_calibration_a_model_uses(made, tmp_path):
  """TeaCache uses the one beside the model if there is one, else Wan's polynomial."""
  of = lambda settings, folder=tmp_path: skipping.of(settings, TransformerConfig(), folder, lambda: RUN.model, [BRANCHES])
  tea = settings(kind="teacache")
  assert skipping.calibration_path(tea, tmp_path) is None and of(tea).polynomial == step_caches.WAN_POLYNOMIAL
  assert of(settings(kind="none")) is None is skipping.calibration_path(settings(kind="none"), tmp_path)
  with pytest.raises(InputError, match="no calibration mine.json"):
    of(settings(kind="teacache", file="mine.json"))
  with pytest.raises(InputError, match="MagCache needs a calibration, and there is no model folder"):
    of(settings(), None)
  calibration.write(calibration.path_of(tea, tmp_path), made)
  assert skipping.calibration_path(tea, tmp_path) == skipping.calibration_path(settings(), tmp_path) is not None
  assert of(tea).polynomial == made.polynomial and of(settings()).needs_modulation is False
  with pytest.raises(InputError, match="no ratio of guidance branch 'text' at step 3"):
    skipping.of(settings(), TransformerConfig(), tmp_path, lambda: RUN.model, [BRANCHES, [("text", "full")] * 4])
  assert of(settings(retention=0.5)).limits == (0.12, 2, 4)


@pytest.mark.parametrize("given, preset, want", [
    ({}, {}, CacheConfig("none")), ({"kind": "magcache"}, {}, CacheConfig("magcache", 0.12, 1, 4, 0.2)),
    ({"threshold": 0.3}, {"kind": "teacache", "skip_start": 2}, CacheConfig("teacache", 0.3, 2, 1000, 0.0)),
    ({"kind": "none"}, {"kind": "teacache", "skip_start": 2}, CacheConfig("none")),
    ({"kind": "magcache", "file": "f"}, {"kind": "teacache", "skip_start": 2}, CacheConfig("magcache", 0.12, 1, 4, 0.2, "f"))])
def test_settings_are_completed(given, preset, want):
  assert CacheConfig(**given).complete(preset) == want
  assert want.complete(preset) == want, "completing twice changes nothing"


def test_limits():
  assert CacheConfig("magcache").complete({}).limits(25) == (0.12, 5, 4)
  assert CacheConfig("magcache", skip_start=7).complete({}).limits(25) == (0.12, 7, 4)
  assert CacheConfig("magcache").complete({}).limits(4).first == 1
  with pytest.raises(ValueError, match="not complete"):
    CacheConfig("magcache").limits(25)


@pytest.mark.parametrize("given, said", [
    ({"kind": "teecache"}, "'teecache'; did you mean 'teacache'"), ({"threshold": -1.0}, "sampling.cache.threshold is -1.0"),
    ({"skip_start": 0}, "skip_start is 0; it must be 1 or more"), ({"max_skips": -1}, "max_skips is -1"),
    ({"retention": 1.5}, "retention is 1.5; it must be from 0 to 1"), ({"file": "gs://x"}, "gs://x"),
    ({"threshold": NAN}, "threshold is nan")])
def test_settings_that_cannot_be(given, said):
  with pytest.raises(InputError, match=said):
    CacheConfig(**given)


def test_settings_of_no_cache_are_refused():
  with pytest.raises(InputError, match="sampling.cache.threshold is 0.2, and no step cache is chosen"):
    CacheConfig(threshold=0.2).complete({})
