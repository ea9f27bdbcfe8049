"""Initial noise by latent frame, and the keys behind it."""

import jax
import numpy as np
import pytest

from emv3_jax.diffusion.noise import initial_noise
from emv3_jax.diffusion.randomness import Purpose, key_for
from emv3_jax.errors import InputError


def test_a_frame_depends_on_the_seed_and_its_index_alone():
  short, long = initial_noise(7, 3, 4, 6), initial_noise(7, 9, 4, 6)
  np.testing.assert_array_equal(initial_noise(7, 4, 4, 6, start=5), long[5:])
  assert long.shape == (9, 4, 6, 16) and long.dtype == np.float32
  np.testing.assert_array_equal(short, long[:3])
  alone = jax.random.normal(key_for(7, Purpose.INITIAL_NOISE, 5), (4, 6, 16))
  np.testing.assert_array_equal(long[5], alone)


def test_noise_is_standard_normal_and_differs_between_frames_and_seeds():
  noise = np.asarray(initial_noise(0, 8, 32, 32)).reshape(8, -1)
  assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
  assert np.abs(np.corrcoef(noise) - np.eye(8)).max() < 0.04
  other = np.asarray(initial_noise(1, 8, 32, 32)).reshape(8, -1)
  assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.02


def test_noise_is_the_same_when_sharded_over_devices():
  devices = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  frames = jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec("data"))
  sharded = jax.jit(lambda: initial_noise(3, 8, 4, 4), out_shardings=frames)()
  np.testing.assert_array_equal(sharded, initial_noise(3, 8, 4, 4))


def test_purposes_and_indices_give_different_keys():
  keys = [key_for(0, purpose, *indices) for purpose in Purpose for indices in ((), (0,), (1,), (0, 1))]
  assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(keys)
  assert len({purpose.value for purpose in Purpose}) == len(Purpose.__members__)


def test_the_numbers_of_purposes_stay():
  """Another number would be other draws under the same seed."""
  assert {purpose.name: purpose.value for purpose in Purpose}.items() >= {
      "PARAMETERS": 0, "INITIAL_NOISE": 1, "TRAINING_SIGMA": 2, "TRAINING_NOISE": 3,
      "CONDITION_DROPOUT": 4, "TASK": 5, "PHASE_JITTER": 6, "DATA_ORDER": 7}.items()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed):
  with pytest.raises(InputError, match=f"seed is {seed}; it must be from 0 to 4294967295"):
    initial_noise(seed, 1, 2, 2)


def test_largest_seed_is_accepted():
  assert np.isfinite(initial_noise(2**32 - 1, 1, 2, 2)).all()
