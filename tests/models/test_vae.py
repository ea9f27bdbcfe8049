"""The VAE: recorded numbers, pieces of any length, bounded memory, sharded pictures."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from emv3_jax.models.precision import Precision
from emv3_jax.models.vae import VAEConfig, network
from tests import golden_data
from tests.models import official_vae

GOLDEN = network(VAEConfig(base_dim=16))
SMALL_CONFIG = VAEConfig(
    base_dim=8, z_dim=4, multipliers=(1, 2), num_res_blocks=1, temporal_downsample=(True,),
    latent_mean=(0.5, -1, 0, 2), latent_std=(2, 1, 0.5, 3))
SMALL = network(SMALL_CONFIG)


def relative_error(got, want) -> float:
  return float(np.abs(np.asarray(got, np.float64) - want).max() / np.abs(want).max())


@functools.cache
def golden_params():
  weights = golden_data.load("vae", "weights")
  return official_vae.convert(weights.arrays)


@functools.cache
def small_params():
  """Random in every leaf: a bias of zero or a gain of one would hide mistakes."""
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    fan_in = np.prod(leaf.shape[:-1])
    x = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
    return np.float32(x + path[-1].key.startswith("scale"))

  return jax.tree_util.tree_map_with_path(draw, SMALL.abstract)


# The tests compile more than they compute.
jit = functools.partial(jax.jit, static_argnames=("net", "options"),
                        compiler_options={"xla_backend_optimization_level": 0})


@jit
def encode(net, params, video, options=()):
  return net.bind(params).encode(video, **dict(options))


@jit
def decode(net, params, latents, options=()):
  return net.bind(params).decode(latents, **dict(options))


@pytest.fixture
def pixels(rng):
  return rng.integers(0, 256, size=(2, 9, 16, 12, 3), dtype=np.uint8)


@pytest.fixture
def video(pixels):
  return pixels.astype(np.float32) / 127.5 - 1


@pytest.fixture
def latents(rng):
  return rng.normal(size=(2, 5, 8, 6, 4)).astype(np.float32)


@golden_data.cases("vae", "case_*")
def test_golden(name):
  case = golden_data.load("vae", name)
  channels_last = lambda x: np.moveaxis(x, 1, -1)
  got = encode(GOLDEN, golden_params(), channels_last(case["in.video"]))
  golden_data.check("vae encode", got, channels_last(case["enc.mode"]), 1e-5)
  got = decode(GOLDEN, golden_params(), channels_last(case["in.z"]))
  golden_data.check("vae decode", got, channels_last(case["dec.raw"]), 1e-5)


def test_golden_statistics():
  constants = golden_data.load("vae", "constants").meta
  np.testing.assert_array_equal(np.float32(VAEConfig().latent_mean), np.float32(constants["mean"]))
  np.testing.assert_array_equal(np.float32(VAEConfig().latent_std), np.float32(constants["std"]))


def test_size_of_the_released_network():
  assert network(VAEConfig()).num_params() == 126_892_531


@pytest.mark.parametrize("chunk", [3, 4])  # latents 1 + 3 + 1, and 1 + 4: the clip at once
def test_chunks_of_any_length_agree(video, latents, chunk):
  for function, x in ((encode, video), (decode, latents)):
    want = function(SMALL, small_params(), x)
    got = function(SMALL, small_params(), x, (("chunk", chunk),))
    assert relative_error(got, want) < 1e-5


def test_one_compile_a_shape(video, latents):
  for function, x in ((encode, video), (decode, latents)):
    function(SMALL, small_params(), x)
    compiled = function._cache_size()
    function(SMALL, small_params(), x + 1)
    assert function._cache_size() == compiled


def test_later_frames_are_not_seen(video, latents):
  changed = video.copy()
  changed[:, 5:] *= -1
  before, after = encode(SMALL, small_params(), video), encode(SMALL, small_params(), changed)
  np.testing.assert_array_equal(before[:, :3], after[:, :3])
  assert np.abs(before[:, 3] - after[:, 3]).max() > 1e-3
  short, whole = (decode(SMALL, small_params(), x) for x in (latents[:, :3], latents))
  assert relative_error(short, whole[:, :5]) < 1e-6


def test_postprocess_sees_each_chunk(latents):
  seen = []

  def postprocess(frames):
    seen.append(frames.shape)
    return jnp.round((jnp.clip(frames, -1, 1) + 1) * 127.5).astype(jnp.uint8)

  raw = decode(SMALL, small_params(), latents)
  got = decode(SMALL, small_params(), latents, (("postprocess", postprocess),))
  assert {shape[1] for shape in seen} == {1, 2}
  assert got.dtype == jnp.uint8
  np.testing.assert_array_equal(got, postprocess(raw))


@jit
def decode_group(net, params, latents, cached, options=()):
  return net.bind(params).decode_group(latents, cached, **dict(options))


def decoded_by_groups(net, params, latents):
  cached, frames = None, []
  for i in range(latents.shape[1]):
    group, cached = decode_group(net, params, latents[:, i:i + 1], cached)
    frames.append(group)
  return frames


def test_groups_joined_are_the_whole_decode():
  """To the last bit, and the step compiles for the first group and once for all others."""
  latents = np.moveaxis(golden_data.load("vae", "case_f17_32x32")["in.z"], 1, -1)
  compiled = decode_group._cache_size()
  groups = decoded_by_groups(GOLDEN, golden_params(), latents)
  assert decode_group._cache_size() == compiled + 2
  assert [group.shape[1] for group in groups] == [1, 4, 4, 4, 4]
  np.testing.assert_array_equal(np.concatenate(groups, axis=1),
                                decode(GOLDEN, golden_params(), latents))


def test_the_first_group_is_one_latent(latents):
  with pytest.raises(ValueError, match="first group has 5 latents, expected 1"):
    decode_group(SMALL, small_params(), latents, None)


def test_uint8_video(pixels, video):
  want = encode(SMALL, small_params(), video)
  assert relative_error(encode(SMALL, small_params(), pixels), want) < 1e-5


@pytest.mark.parametrize(("video", "message"), [
    (np.zeros((1, 4, 8, 8, 3), np.float32), r"4 frames, expected 2k \+ 1"),
    (np.zeros((1, 0, 8, 8, 3), np.float32), r"0 frames, expected 2k \+ 1"),
    (np.zeros((1, 3, 8, 7, 3), np.float32), "8x7 pixels, expected multiples of 2"),
    (np.zeros((3, 8, 8, 3), np.float32), r"expected \[b, F, H, W, 3\]"),
    (np.zeros((1, 3, 8, 8, 3), np.int32), "dtype int32"),
])
def test_video_that_does_not_fit(video, message):
  with pytest.raises(ValueError, match=message):
    encode(SMALL, small_params(), video)


def test_latents_that_do_not_fit():
  for shape in ((1, 2, 4, 4, 5), (1, 0, 4, 4, 4), (2, 4, 4, 4)):
    with pytest.raises(ValueError, match="expected .b, f, h, w, 4."):
      decode(SMALL, small_params(), np.zeros(shape, np.float32))


def test_config_that_does_not_fit():
  with pytest.raises(ValueError, match="temporal_downsample has 1 entries"):
    VAEConfig(temporal_downsample=(True,))
  with pytest.raises(ValueError, match="latent_std has 2 entries, expected z_dim = 16"):
    VAEConfig(latent_std=(1, 2))
  with pytest.raises(ValueError, match="conv is 'fast'; known: auto, direct, taps"):
    network(SMALL_CONFIG, conv="fast")


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_memory_does_not_grow_with_length(direction):
  function = {"encode": encode, "decode": decode}[direction]

  def bytes_beyond_input_and_output(frames):
    shape = {"encode": (1, 2 * frames - 1, 32, 32, 3), "decode": (1, frames, 16, 16, 4)}[direction]
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    memory = function.lower(SMALL, SMALL.abstract, x).compile().memory_analysis()
    # Pieces are gathered in one buffer and copied behind the first frame.
    return memory.temp_size_in_bytes - 2 * memory.output_size_in_bytes

  few, many = bytes_beyond_input_and_output(9), bytes_beyond_input_and_output(33)
  assert many <= 1.05 * few


def test_bfloat16_is_close(video, latents):
  net = network(SMALL_CONFIG, Precision("bfloat16", "bfloat16"))
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), small_params())
  for function, x, dtype in ((encode, video, jnp.float32), (decode, latents, jnp.bfloat16)):
    want = np.asarray(function(SMALL, small_params(), x))
    got = function(net, params, x)
    assert got.dtype == dtype
    assert np.linalg.norm(np.float32(got) - want) < 0.03 * np.linalg.norm(want)


def test_sharded_pictures_agree(video, latents):
  mesh = jax.make_mesh((2, 2, 2), ("batch", "height", "width"),
                       axis_types=(jax.sharding.AxisType.Auto,) * 3)
  pinned = set()

  def constrain(x, *axes):
    pinned.add(x.shape[2:4])
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*axes)))

  for function, x in ((encode, video), (decode, latents)):
    want = function(SMALL, small_params(), x)
    got = function(SMALL, small_params(), x, (("constrain", constrain),))
    assert relative_error(got, want) < 1e-5
  assert pinned == {(16, 12), (8, 6)}
