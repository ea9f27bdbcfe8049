"""wav2vec 2.0 against the reference's numbers, token counts and resampling."""

import dataclasses
import functools
import json

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.models import wav2vec2
from emv3_jax.models.precision import FLOAT32, Precision
from tests import golden_data
from tests.models import official_encoders

TINY = wav2vec2.Wav2Vec2Config(dim=48, ffn_dim=96, num_layers=3, num_heads=4, conv_dim=32)


@functools.cache
def _encoder(precision):
  weights = golden_data.load("wav2vec", "group_postln.weights").arrays
  model = wav2vec2.network(TINY, precision)
  params = official_encoders.convert(official_encoders.WAV2VEC2, weights, TINY.num_layers,
                                     precision)
  return jax.jit(lambda x, **kwargs: model.bind(params)(x, **kwargs),
                 static_argnames=("frames", "layers"))


def _encode(waveform, precision=FLOAT32, **kwargs):
  return _encoder(precision)(waveform, **kwargs)


@golden_data.cases("wav2vec", "group_postln.preview*")
def test_last_layer_equals_reference(name):
  case = golden_data.load("wav2vec", name)
  out = _encode(case["in.input_values"])
  golden_data.check("wav2vec2 (preview)", out, case["out.last_hidden_state"], 1e-5)


@golden_data.cases("wav2vec", "group_postln.flash*")
def test_all_resampled_layers_equal_reference(name):
  case = golden_data.load("wav2vec", name)
  out = _encode(case["in.input_values"], frames=case.meta["frames"], layers="all")
  golden_data.check("wav2vec2 (flash)", out[0], case["out.hidden_states_1plus"], 1e-5)
  golden_data.check("wav2vec2 (flash)", out[:, :, -1], case["out.last_hidden_state"], 1e-5)


def test_token_counts_equal_reference():
  counts = golden_data.load("wav2vec", "lengths").meta["samples->frames"]
  for samples, tokens in counts.items():
    assert wav2vec2.num_tokens(int(samples)) == tokens
  assert [wav2vec2.num_tokens(n) for n in (0, 399, 400, 719, 720)] == [0, 0, 1, 1, 2]


def test_num_samples_is_the_shortest():
  for tokens in (1, 2, 49, 162):
    samples = wav2vec2.num_samples(tokens)
    assert wav2vec2.num_tokens(samples) == tokens
    assert wav2vec2.num_tokens(samples - 1) == tokens - 1


def test_output_has_num_tokens_and_clips_are_independent(rng):
  waveform = rng.standard_normal((2, 16000), np.float32)
  out = _encode(waveform)
  assert out.shape == (2, wav2vec2.num_tokens(16000), TINY.dim)
  np.testing.assert_allclose(out[1:], _encode(waveform[1:]), atol=1e-5)


def test_resampling_keeps_both_ends_and_is_linear():
  ramp = np.linspace(0, 1, 33, dtype=np.float32)[None, :, None]
  for frames in (2, 17, 33, 50):
    got = wav2vec2.resample(jnp.asarray(ramp), frames)
    np.testing.assert_allclose(got[0, :, 0], np.linspace(0, 1, frames), atol=1e-6)
  np.testing.assert_array_equal(wav2vec2.resample(jnp.asarray(ramp), 1), ramp[:, :1])
  np.testing.assert_array_equal(wav2vec2.resample(jnp.asarray(ramp[:, :1]), 4), np.zeros((1, 4, 1)))


def test_bfloat16_is_close(rng):
  waveform = rng.standard_normal((1, 16000), np.float32)
  want, got = _encode(waveform), _encode(waveform, Precision("bfloat16", "bfloat16"))
  assert got.dtype == jnp.float32
  assert np.linalg.norm(got - want) / np.linalg.norm(want) < 3e-2


def test_a_fresh_position_kernel_is_its_direction():
  """The initial gain is the length of the direction, so that folding changes nothing."""
  conv = wav2vec2.PositionConv(TINY, FLOAT32, rngs=nnx.Rngs(0))
  lengths = np.sqrt(np.square(conv.direction[...]).sum((1, 2), keepdims=True))
  np.testing.assert_allclose(conv.gain[...], lengths, rtol=1e-6)


def test_config_survives_json():
  config = wav2vec2.Wav2Vec2Config()
  again = wav2vec2.Wav2Vec2Config(**json.loads(json.dumps(dataclasses.asdict(config))))
  assert again == config and hash(again) == hash(config)
  with pytest.raises(ValueError, match="6 conv_kernels and 7 conv_strides"):
    wav2vec2.Wav2Vec2Config(conv_kernels=(10, 3, 3, 3, 3, 2))


def test_full_size_has_the_released_number_of_parameters():
  assert wav2vec2.network(wav2vec2.Wav2Vec2Config()).num_params() == 94_370_944


def test_bad_input_is_named():
  with pytest.raises(ValueError, match=r"\(1, 399\), wanted .* at least 400 samples"):
    _encode(np.zeros((1, 399), np.float32))
  with pytest.raises(ValueError, match="layers is 'first'; known: 'last', 'all'"):
    _encode(np.zeros((1, 800), np.float32), layers="first")
  with pytest.raises(ValueError, match="frames is 0"):
    _encode(np.zeros((1, 800), np.float32), frames=0)
