"""RoPE tables, rotation and timestep sinusoid against the reference's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.models import rope
from tests import golden_data


def test_table_equals_reference():
  golden = np.load(golden_data.path("preview", "rope_freqs_hd128_f64.npz"))
  assert rope.axis_pairs(128) == tuple(golden["splits"])
  assert rope.axis_pairs(32) == (6, 5, 5)
  f, h, w = 5, 4, 3
  for got, name in zip(rope.rope_table((f, h, w), 128), ("cos", "sin"), strict=True):
    by_frame, by_row, by_column = np.split(golden[name], np.cumsum(golden["splits"])[:-1], axis=1)
    want = [np.concatenate([by_frame[k], by_row[i], by_column[j]])
            for i in range(h) for j in range(w) for k in range(f)]
    golden_data.check("rope table", got, np.array(want), 1e-7)


def _space_major(tokens, grid):
  f, h, w = grid
  tokens = tokens[:f * h * w]
  return tokens.reshape(f, h * w, *tokens.shape[1:]).swapaxes(0, 1).reshape(tokens.shape)


def test_rotation_equals_reference():
  case = golden_data.load("preview", "rope_apply")
  for q, grid, want in zip(case["q"], case["grid"], case["out"], strict=True):
    q, want = _space_major(q, grid), _space_major(want, grid)
    got = rope.apply_rope(jnp.asarray(q)[None], rope.rope_table(tuple(grid), q.shape[-1]))
    golden_data.check("rope", got[0], want, 1e-6)


def test_gradients_are_rotated_back():
  table = rope.rope_table((2, 3, 4), 16)
  x, gradient = np.random.default_rng(0).normal(size=(2, 1, 24, 3, 16)).astype(np.float32)
  rotated, back = jax.vjp(lambda x: rope.apply_rope(x, table), x)
  np.testing.assert_allclose(back(rotated)[0], x, atol=1e-6)  # a rotation's inverse
  np.testing.assert_allclose(np.vdot(rotated, gradient), np.vdot(x, back(gradient)[0]), rtol=1e-5)


def test_sinusoid_equals_reference():
  case = golden_data.load("preview", "rope_apply")
  for dim in (64, 256):
    want = case[f"sin_emb_{dim}"]
    golden_data.check("time sinusoid", rope.time_sinusoid(case["sin_in"], dim), want, 1e-7)
    on_device = rope.time_sinusoid_on_device(jnp.asarray(case["sin_in"]), dim)
    np.testing.assert_allclose(on_device, want, atol=1e-4)


def test_riflex_changes_one_temporal_frequency():
  grid = (5, 2, 2)
  plain, slowed = (np.arccos(rope.rope_table(grid, 32, riflex)[0][1])  # second token: frame 1
                   for riflex in (None, rope.Riflex(k=4, frames=33)))
  assert np.flatnonzero(np.abs(plain - slowed) > 1e-6).tolist() == [3]
  np.testing.assert_allclose(slowed[3], 0.9 * 2 * np.pi / 33 / 4.886, rtol=1e-3)
  with pytest.raises(ValueError, match="6 temporal"):
    rope.rope_table(grid, 32, rope.Riflex(k=7, frames=33))
  with pytest.raises(ValueError, match="at least 1"):
    rope.Riflex(k=0, frames=33)
