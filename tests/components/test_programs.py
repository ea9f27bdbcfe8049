"""A second start takes the programs of umT5 by layers and of wav2vec 2.0 in pieces as they were kept."""

import numpy as np
import pytest

from emv3_jax.components import programs
from emv3_jax.components.config import ModelConfig, PrecisionConfig
from emv3_jax.components.networks import Networks
from emv3_jax.io import checkpoints
from emv3_jax.models import umt5, wav2vec2, wav2vec2_pieces
from emv3_jax.models.precision import FLOAT32, Precision
from emv3_jax.runtime import executables, kept_programs, start_up
from emv3_jax.sharding import MeshConfig

TEXT = umt5.UMT5Config(vocab_size=30, dim=16, attention_dim=16, ffn_dim=16, num_heads=2, num_layers=2)
AUDIO = wav2vec2.Wav2Vec2Config(dim=32, ffn_dim=32, num_layers=1, num_heads=2, conv_dim=16)
NETWORKS = ModelConfig(text_encoder=TEXT, audio_encoder=AUDIO)
CACHED = (programs._network, programs.shardings, programs.audio_pieces, programs.text_layers)


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
  """A program cache of its own, and a piece of a few tokens."""
  monkeypatch.setattr(kept_programs, "folder", executables.open_folder(tmp_path / "executables", True, 1 << 30))
  monkeypatch.setattr(wav2vec2_pieces, "PIECE", 8)
  monkeypatch.setattr(wav2vec2_pieces.Wav2Vec2Pieces.__init__, "__kwdefaults__",
                      {"piece": 8, "exact_pieces": 60, "context_pieces": 15})
  yield
  for function in CACHED:
    function.cache_clear()


def start(use, **settings):
  """Runs `use` of new networks, as another process would; returns its result and the traces that it took."""
  for function in CACHED:
    function.cache_clear()
  networks = Networks(NETWORKS, PrecisionConfig(**settings), programs.mesh_of(MeshConfig()), None,
                      parts=("text_encoder", "audio_encoder"))
  before = len(start_up.watch().intervals["trace"])
  return use(networks), len(start_up.watch().intervals["trace"]) - before


def speech(networks):
  waveform = np.random.default_rng(0).standard_normal((1, wav2vec2.num_samples(19, AUDIO)), np.float32)
  with networks.parameters("audio_encoder") as params:
    return networks.encode_audio(params, waveform)


def test_pieces_of_speech_are_not_traced_again():
  first, traced = start(speech, audio_encoder=FLOAT32)
  assert first.shape == (1, 19, 32) and traced
  again, traced = start(speech, audio_encoder=FLOAT32)
  np.testing.assert_array_equal(again, first)
  assert traced == 0


@pytest.mark.parametrize("precision", [FLOAT32, Precision("int8", "float32")], ids=["float32", "int8"])
def test_layers_of_umt5_are_not_traced_again(tmp_path, precision):
  params = umt5.network(TEXT).untrained(0)
  checkpoints.save_component(tmp_path / "model", "text_encoder", params, config=vars(TEXT))
  ids, mask = np.array([[3, 1, 29, 0]], np.int32), np.array([[1, 1, 1, 0]])

  def use(networks):
    networks.folder = tmp_path / "model"
    return networks.encode_tokens(ids, mask)

  first, traced = start(use, text_encoder=precision)
  assert traced
  again, traced = start(use, text_encoder=precision)
  np.testing.assert_array_equal(again, first)
  assert traced == 0
  with_all_layers = np.asarray(umt5.network(TEXT, precision).bind(start(
      lambda networks: networks.network("text_encoder").untrained(0), text_encoder=precision)[0])(ids, mask))
  np.testing.assert_allclose(first[0, :3], with_all_layers[0, :3], atol=1e-5 * np.abs(first).max())
