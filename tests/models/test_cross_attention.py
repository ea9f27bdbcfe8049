"""CDCA (eq. 1) against the formula, PhDA curves (eq. 2), allocations and jitter."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.attention.local import attend_by_frame, attend_xla
from emv3_jax.models import cross_attention as cdca
from emv3_jax.models.execution import ONE_DEVICE
from emv3_jax.models.precision import FLOAT32

TAUS = np.array([0.0, 100.0, 250.0, 400.0, 500.0, 650.0, 800.0, 1000.0], np.float32)


@pytest.mark.parametrize("flash, moves", [(False, False), (False, True), (True, False)])
def test_experts_are_weighted_and_summed_before_the_output_projection(rng, flash, moves):
  b, positions, f, d = 2, 4, 3, 8
  cross = cdca.CrossAttention(d, 2, biased_audio=flash, eps=1e-6, precision=FLOAT32, rngs=nnx.Rngs(0))
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  if not flash:
    assert not np.any(cross.v_audio.kernel[...]) and not np.any(cross.k_audio.kernel[...])
    cross.k_audio.kernel[...], cross.v_audio.kernel[...] = normal(d, d), normal(d, d)
  x = normal(b, positions * f, d)
  context = cross.context(cdca.ContextTokens(normal(b, 5, d), normal(b, 3, d), normal(b, f, 4, d)),
                          ONE_DEVICE)
  mask, weights = normal(b, positions, *(f,) * moves), normal(b, 3)
  got = cross(x, context, face_mask=mask, audio_gain=0.7, modality_weights=weights,
              execution=ONE_DEVICE)

  q = cross.norm_q(cross.q(x)).reshape(b, positions * f, 2, 4)
  by_token = mask.reshape(b, -1) if moves else jnp.repeat(mask, f, 1)
  parts = [attend_xla(q, *context.text), attend_xla(q, *context.image),
           0.7 * by_token[..., None, None] * attend_by_frame(q, *context.audio)]
  mixed = sum(weights[:, i, None, None, None] * part for i, part in enumerate(parts))
  np.testing.assert_allclose(got, cross.o(mixed.reshape(x.shape)), atol=1e-5)


def test_padded_audio_takes_part_in_the_softmax():
  cross = cdca.CrossAttention(8, 2, biased_audio=False, eps=1e-6, precision=FLOAT32, rngs=nnx.Rngs(0))
  cross.v_audio.kernel[...] = jnp.eye(8)
  tokens = jnp.zeros((1, 1, 4, 8)).at[:, :, 0].set(1.0)  # one token, three pads; all logits are 0
  context = cross.context(cdca.ContextTokens(tokens[0], tokens[0], tokens), ONE_DEVICE)
  out = attend_by_frame(jnp.ones((1, 2, 2, 4)), *context.audio)
  np.testing.assert_allclose(out, 0.25, rtol=1e-6)


def test_equation_2():
  curve = cdca.PhaseAllocation(audio=cdca.PhaseCurve.rising(500, 800))
  weights = curve.weights(jnp.asarray(TAUS))
  assert weights.shape == (8, 3) and weights.dtype == jnp.float32
  m = 0.5 / 300
  want = [0.5, 0.5, 0.5, 0.5, 0.5, m * 650 + 0.5 - m * 500, 1, 1]
  np.testing.assert_allclose(weights[:, 2], want, rtol=1e-6)
  assert (weights[:, :2] == 1).all()


def test_equal_critical_timesteps_are_a_step():
  allocation = cdca.PhaseAllocation(image=cdca.PhaseCurve.rising(400, 400))
  np.testing.assert_array_equal(allocation.weights(TAUS)[:, 1], np.where(TAUS < 400, 0.5, 1))
  gradient = jax.grad(lambda tau: cdca.PHASED.weights(tau).sum())(jnp.asarray(TAUS))
  assert np.isfinite(gradient).all()


def test_default_and_released_allocations():
  assert (cdca.PHASED.weights(TAUS)[:, 0] == 1).all()
  np.testing.assert_allclose(
      cdca.PHASED.weights(jnp.array([100.0, 300.0, 450.0, 650.0, 800.0])),
      [[1, 0.5, 0.5], [1, 0.75, 0.5], [1, 1, 0.5], [1, 1, 0.75], [1, 1, 1]])
  assert (cdca.RELEASED.weights(TAUS) == 1).all()


@pytest.mark.parametrize("name,modality,start", [
    ("a", 2, cdca.EARLY), ("b", 0, cdca.MIDDLE), ("c", 1, cdca.EARLY)])
def test_ablations_silence_a_modality_in_its_phase(name, modality, start):
  taus = np.linspace(0, 1000, 301, dtype=np.float32)
  got, plain = cdca.ALLOCATIONS[name].weights(taus), np.array(cdca.PHASED.weights(taus))
  plain[taus >= start, modality] = 0
  np.testing.assert_allclose(got, plain, atol=1e-5)


def test_jitter():
  key = jax.random.key(0)
  tau = jnp.full(64, 650.0)
  unmoved = cdca.PHASED.jittered(key, 0.0, 64)
  np.testing.assert_allclose(unmoved.weights(tau), cdca.PHASED.weights(tau))
  knots = cdca.PHASED.jittered(key, 400.0, 64)
  for taus in knots.taus:
    assert taus.shape == (64, 2)
    assert (taus[:, 0] <= taus[:, 1]).all() and taus.min() >= 0 and taus.max() <= 1000
  weights = jax.jit(lambda tau: knots.weights(tau))(tau)
  assert weights.shape == (64, 3) and weights.std(0).min() > 0
  assert weights.min() >= 0.5 and weights.max() <= 1
  np.testing.assert_allclose(  # each example has its own curve
      weights[7, 2], np.interp(650, knots.taus[2][7], [0.5, 1]), rtol=1e-5)


def test_knots_that_make_no_curve_are_named():
  for knots in ((), ((500, 1.0), (400, 1.0)), ((-1, 1.0),), ((0, 1.0), (1001, 1.0))):
    with pytest.raises(ValueError, match="PhaseCurve knots"):
      cdca.PhaseCurve(knots)
