"""CLIP's vision tower against the reference's numbers."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.models import clip
from emv3_jax.models.precision import FLOAT32, Precision
from tests import golden_data
from tests.models import official_encoders


@functools.cache
def _encoder(num_layers, precision):
  weights = official_encoders.clip_visual(golden_data.load("clip", "weights").arrays)
  config = clip.CLIPVisionConfig(dim=64, num_layers=num_layers, num_heads=4)
  model = clip.network(config, precision)
  params = official_encoders.convert(official_encoders.CLIP, weights, num_layers, precision)
  return jax.jit(lambda pixels: model.bind(params)(pixels))


def _encode(pixels, num_layers=2, precision=FLOAT32):
  return _encoder(num_layers, precision)(pixels)


def _pixels(case):
  return np.moveaxis(case["mid.pixels_224"], 1, -1)


@golden_data.cases("clip", "case_*")
@pytest.mark.parametrize("num_layers, key", [(2, "out.use_31_block"), (3, "out.all_blocks")])
def test_equals_reference(name, num_layers, key):
  case = golden_data.load("clip", name)
  golden_data.check("CLIP", _encode(_pixels(case), num_layers), case[key], 1e-5)


def test_bfloat16_is_close():
  pixels = _pixels(golden_data.load("clip", "case_down_300x416"))
  want, got = _encode(pixels), _encode(pixels, precision=Precision("bfloat16", "bfloat16"))
  assert got.dtype == jnp.float32
  assert np.linalg.norm(got - want) / np.linalg.norm(want) < 2e-2


def test_images_of_a_batch_are_independent(rng):
  pixels = rng.standard_normal((2, 224, 224, 3), np.float32)
  np.testing.assert_allclose(_encode(pixels)[1:], _encode(pixels[1:]), atol=1e-5)


def test_full_size_has_the_released_number_of_parameters():
  config = clip.CLIPVisionConfig()
  assert clip.network(config).num_params() == 611_086_080
  assert config.num_tokens == 257
  assert clip.CLIPVisionConfig(**json.loads(json.dumps(vars(config)))) == config


def test_wrong_image_size_is_named():
  with pytest.raises(ValueError, match=r"\(1, 3, 224, 224\), wanted \[batch, 224, 224, 3\]"):
    _encode(np.zeros((1, 3, 224, 224), np.float32))
