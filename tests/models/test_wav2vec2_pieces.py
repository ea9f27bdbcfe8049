"""wav2vec 2.0 in pieces against the network at once."""

import functools

import jax
import numpy as np
import pytest

from emv3_jax.models import wav2vec2
from emv3_jax.models.precision import FLOAT32
from emv3_jax.models.wav2vec2_pieces import Wav2Vec2Pieces, not_exact
from tests import golden_data
from tests.models import official_encoders

TINY = wav2vec2.Wav2Vec2Config(dim=48, ffn_dim=96, num_layers=3, num_heads=4, conv_dim=32)
PIECE = 40
NET = wav2vec2.network(TINY)


@functools.cache
def params():
  weights = golden_data.load("wav2vec", "group_postln.weights").arrays
  return official_encoders.convert(official_encoders.WAV2VEC2, weights, TINY.num_layers, FLOAT32)


@functools.cache
def traces():
  return []


@functools.cache
def in_pieces():
  """The programs that all tests share, which count how often they are traced."""
  def jit(run, **options):
    return jax.jit(lambda *args: traces().append(run) or run(*args), **options)

  return Wav2Vec2Pieces(NET, TINY, FLOAT32, jit, piece=PIECE)


def sound(samples: int) -> np.ndarray:
  """A level that changes, so that statistics of a part are not those of the whole."""
  rng = np.random.default_rng(samples)
  return rng.standard_normal((1, samples), np.float32) * np.linspace(0.1, 2, samples, dtype=np.float32)


def check(got, want):
  assert got.shape == want.shape and got.dtype == np.float32
  assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("tokens, more", [(2 * PIECE, 319), (2 * PIECE + 1, 0), (PIECE - 1, 7)])
def test_pieces_equal_the_whole(tokens, more):
  """Around the borders of pieces, also with samples after the last token."""
  waveform = sound(wav2vec2.num_samples(tokens, TINY) + more)
  check(in_pieces()(params(), waveform), np.asarray(NET.bind(params())(waveform)))


def test_all_layers_at_the_rate_of_the_frames_equal_the_whole():
  waveform = sound(wav2vec2.num_samples(3 * PIECE - 2, TINY) + 100)
  options = {"frames": PIECE + 19, "layers": "all"}
  got = in_pieces()(params(), waveform, **options)
  assert got.shape == (1, PIECE + 19, 3, 48)
  check(got, np.asarray(NET.bind(params())(waveform, **options)))


def test_golden_sounds_equal_the_reference():
  case = golden_data.load("wav2vec", sorted(golden_data.names("wav2vec", "group_postln.preview*"))[-1])
  golden_data.check("wav2vec2 (preview)", in_pieces()(params(), case["in.input_values"]),
                    case["out.last_hidden_state"], 1e-5)


def test_another_length_compiles_nothing():
  in_pieces()(params(), sound(32_000))
  before = len(traces())
  in_pieces()(params(), sound(70_001))
  assert len(traces()) == before == 8, "programs, each traced once"


def test_a_longer_sound_attends_to_its_neighbourhood():
  """In each layer a piece depends on the next one and not on the one after that."""
  short = Wav2Vec2Pieces(NET, TINY, FLOAT32, piece=PIECE, exact_pieces=4, context_pieces=1)
  samples = wav2vec2.num_samples(4 * PIECE, TINY)
  assert short.is_exact(samples) and not short.is_exact(samples + 320)
  assert short.is_exact(samples + 320, frames=4 * PIECE) and not short.is_exact(samples, frames=4 * PIECE + 1)
  layer = jax.tree.map(lambda leaf: leaf[0], params()["blocks"])
  pieces = list(np.random.default_rng(0).standard_normal((5, 1, PIECE, 48), np.float32))
  run = lambda net, *given: (made := list(given), net._run_layer(layer, made, [PIECE] * len(made)))[0]
  first, second = run(short, *pieces), run(short, *pieces[:3], pieces[3] + 1, pieces[4])
  same = [np.array_equal(a, b) for a, b in zip(first, second, strict=True)]
  assert same == [True, True, False, False, False]
  np.testing.assert_allclose(run(short, *pieces[:4]), run(in_pieces(), *pieces[:4]), atol=1e-6)
  assert "longer than 10.2 minutes" in not_exact(50) and "attends to 5.12 minutes" in not_exact(25)
