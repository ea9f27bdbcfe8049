"""A variant of one's own, made of the public pieces alone: one token a latent frame, guided by audio."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax import sharding, variants
from emv3_jax.data import index, records
from emv3_jax.data.pipeline import collate
from emv3_jax.errors import InputError
from emv3_jax.models import transformer
from emv3_jax.models.audio_projection import AUDIO_PATHS, AudioPath
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.sampling import clip as clip_lib
from emv3_jax.sampling.denoise import Conditions, Denoiser
from emv3_jax.sampling.inputs import read_inputs
from emv3_jax.sampling.model import load
from emv3_jax.sampling.settings import Request, SamplingConfig
from emv3_jax.sharding import MeshConfig
from emv3_jax.variants import Variant
from emv3_jax.variants.flash import FLASH
from tests.data.windows import make_record
from tests.sampling.conftest import files, tiny_config  # noqa: F401  a fixture


class Means(nnx.Module):
  """[b, F, audio_dim] -> [b, f, 1, d]: the mean over the video frames of each latent frame."""

  def __init__(self, config, precision, rngs):
    self.proj = nnx.Linear(config.audio_dim, config.dim, use_bias=False, rngs=rngs)

  def __call__(self, audio):
    tokens = self.proj(audio)
    later = tokens[:, 1:].reshape(len(tokens), -1, 4, tokens.shape[-1]).mean(axis=2)
    return jnp.concatenate([tokens[:, :1], later], axis=1)[:, :, None]


def changes(features):
  """What differs from a frame's neighbours; the ends are repeated."""
  padded = np.pad(features, ((1, 1), (0, 0)), mode="edge")
  return features - (padded[:-2] + padded[2:]) / 2


PATH = AudioPath(Means, feature_shape=lambda config: (config.audio_dim,), biased=True)
TOY = Variant(
    "toy", normalise=lambda samples: samples / max(np.abs(samples).max(), 1e-3),
    num_samples=lambda frames: 640 * frames, encoder_options=lambda frames: {"frames": frames},
    features_per_frame=1, guidance="audio", face_mask=True, settings=FLASH.settings | {"steps": 1},
    context=1, windows=changes)


@pytest.fixture(autouse=True, scope="module")
def toy():
  AUDIO_PATHS["toy"] = PATH
  yield variants.register(TOY)
  variants.unregister("toy")
  del AUDIO_PATHS["toy"]


@pytest.fixture(scope="module")
def features(files):  # noqa: F811
  """[5, 64] of a voice, as sampling and preparation have them."""
  size = ("sampling.height=32", "sampling.width=32")
  model = load(config=tiny_config("model.transformer.variant=toy", *size), parts=("audio_encoder",))
  found = read_inputs(Request(audio=files["audio"], task="t2v"), model.config, model.tokenizer_path)
  assert len(found.waveform) == 3200 and found.prompts.keys() == {"prompt"}
  heard = clip_lib.encode_audio(model, found)[0]
  assert heard.shape == TOY.input_shape(model.config.model.transformer, 5) == (5, 64)
  features = clip_lib.encode_features(model, found)
  np.testing.assert_array_equal(heard, changes(features))
  return features


def test_features_of_a_window_keep_what_the_clip_says_of_them(features):
  """Through a record and a batch; at the ends of the clip they are repeated."""
  clip = np.concatenate([features, 2 * features[::-1]])
  assert np.all(TOY.crop_features(clip, 0, 5)[0] == clip[0]) and np.all(TOY.crop_features(clip, 5, 5)[-1] == clip[-1])
  for start in (0, 3, 5):
    record = dataclasses.replace(make_record(1), audio=TOY.crop_features(clip, start, 5))
    assert len(record.audio) == TOY.stored_length(5) == 7
    stored = records.decode(records.encode(record, "float32", TOY))
    batch = collate([stored], np.arange(1), 8, TOY)
    np.testing.assert_array_equal(batch["audio"][0], changes(clip)[start:start + 5])


def test_a_step_of_denoising_hears_it_on_the_face(features, rng):
  config = TransformerConfig(
      variant="toy", dim=16, ffn_dim=16, num_heads=1, num_layers=1, freq_dim=4, text_dim=4, text_tokens=2,
      image_dim=4, image_tokens=2, audio_dim=64)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  params = transformer.network(config).untrained(0)
  params["head"]["linear"]["kernel"] = normal(16, 64)  # zeros else
  denoiser = Denoiser(sharding.on_mesh(config, sharding.make_mesh(MeshConfig(), jax.devices()[:1])),
                      SamplingConfig())
  assert {len(step.branches) for step in denoiser.schedule} == {2}
  given = Conditions(text={"prompt": normal(1, 2, 4)}, image=normal(1, 2, 4), audio=changes(features)[None],
                     condition=normal(1, 2, 4, 4, 20), face_mask=np.float32([[1, 0, 0, 0]]))
  noise = normal(1, 2, 4, 4, 16)
  silent = dataclasses.replace(given, audio=np.zeros_like(given.audio))
  change = np.abs(denoiser.run(params, noise, given) - denoiser.run(params, noise, silent))
  change = np.asarray(change).reshape(2, 2, 2, 2, 2, 16).max(axis=(0, 2, 4, 5))  # by token position
  assert change[0, 0] > 1e-3
  assert index.condition_fields(config)["variant"] == "toy"


def test_an_unknown_variant_is_named():
  with pytest.raises(InputError, match="'tyo'; known: preview, flash, toy"):
    variants.of("tyo")
  with pytest.raises(InputError, match="variant is 'tyo'; known: preview, flash, toy"):
    TransformerConfig(variant="tyo")


def test_what_cannot_be_registered():
  with pytest.raises(ValueError, match="There is a variant flash already"):
    variants.register(FLASH)
  with pytest.raises(ValueError, match="AUDIO_PATHS has no loud"):
    variants.register(dataclasses.replace(TOY, name="loud"))
  with pytest.raises(ValueError, match="flash was not registered"):
    variants.unregister("flash")
