"""Audio windows of both variants against the reference's."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.models import audio_projection as ap
from emv3_jax.models.precision import FLOAT32
from tests import golden_data


def test_preview_windows_equal_reference():
  cases = golden_data.load("preview", "audio_split").meta["cases"]
  checked = 0
  for name, case in cases.items():
    if "windows_src_index_plus1 (0 = zero pad)" in case:
      want = np.array(case["windows_src_index_plus1 (0 = zero pad)"]) - 1
      np.testing.assert_array_equal(ap.preview_windows(case["L"]), want, err_msg=name)
      checked += 1
  assert checked >= 40


def test_even_lengths_follow_the_closed_form():
  windows = ap.preview_windows(226)
  assert windows.shape == (29, 17)
  for k in range(2, 28):
    np.testing.assert_array_equal(windows[k], np.arange(8 * k - 11, 8 * k + 6))
  assert (windows[0, 6:] == ap.PAD).all() and (windows[0, :6] == np.arange(6)).all()
  assert (windows[1, 14:] == ap.PAD).all() and (windows[1, :14] == np.arange(14)).all()


def test_too_few_tokens_are_named():
  with pytest.raises(ValueError, match="9 audio tokens"):
    ap.preview_windows(9)


def test_preview_pads_with_zeros_after_the_projection(rng):
  projection = ap.PreviewAudioProjection(6, 4, precision=FLOAT32, rngs=nnx.Rngs(0))
  projection.norm.bias[...] = jnp.arange(1.0, 5.0)
  audio = jnp.asarray(rng.normal(size=(2, 10, 6)), jnp.float32)
  out = projection(audio)
  assert out.shape == (2, 2, 17, 4)
  assert (out[:, 0, 6:] == 0).all() and (out[:, 1, 10:] == 0).all()
  np.testing.assert_allclose(out[:, 1, :10], projection.norm(projection.proj(audio)), rtol=1e-6)
  np.testing.assert_allclose(projection(0 * audio)[:, 0, :6],
                             np.broadcast_to(projection.norm.bias[...], (2, 6, 4)))


@golden_data.cases("flash", "case_*")
def test_flash_windows_equal_reference(name):
  meta = golden_data.load("flash", name).meta
  frames = meta["frames"]
  marks = jnp.asarray(np.arange(frames)[:, None] * 10 + np.arange(5))[None]  # frame * 10 + slot
  first, later = ap.flash_windows(marks)
  np.testing.assert_array_equal(first[0], meta["first_window_src(frame*10+slot)"])
  want = np.array(meta["latter_window_src(frame*10+slot)"]).reshape(-1, 8)
  np.testing.assert_array_equal(later[0], want)


def test_flash_shapes_and_refusals(rng):
  projection = ap.FlashAudioProjection(4, 3, 8, 32, 6, precision=FLOAT32, rngs=nnx.Rngs(0))
  audio = jnp.asarray(rng.normal(size=(2, 9, 5, 3, 4)), jnp.float32)
  assert projection(audio).shape == (2, 3, 32, 6)
  changed = projection(audio.at[:, 6].add(1.0)) - projection(audio)
  assert np.abs(changed).max((0, 2, 3)).tolist()[:2] == [0, 0]  # frame 6 belongs to the third
  assert jax.eval_shape(projection, audio[:, :1]).shape == (2, 1, 32, 6)
  with pytest.raises(ValueError, match="4k\\+1"):
    projection(audio[:, :8])


def test_flash_tokens_are_those_of_the_formula(rng):
  """Three layers, ReLU after the first two; the first latent frame has a first layer of its own."""
  projection = ap.FlashAudioProjection(2, 2, 6, 3, 4, precision=FLOAT32, rngs=nnx.Rngs(0))
  for layer in (projection.proj1, projection.proj1_vf, projection.proj2, projection.proj3):
    layer.bias[...] = jnp.asarray(rng.normal(size=layer.bias.shape), jnp.float32)
  audio = jnp.asarray(rng.normal(size=(1, 5, 5, 2, 2)), jnp.float32)
  first, later = (window.reshape(-1) for window in ap.flash_windows(audio))
  relu = lambda x: np.maximum(x, 0)
  for frame, hidden in enumerate((projection.proj1(first), projection.proj1_vf(later))):
    want = projection.proj3(relu(projection.proj2(relu(hidden)))).reshape(3, 4)
    np.testing.assert_allclose(projection(audio)[0, frame], projection.norm(want), atol=1e-5)
