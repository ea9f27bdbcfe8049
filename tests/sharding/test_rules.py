"""Every parameter of the full-size networks has one rule, and lies where the rule says."""

import functools
import math

import chex
import jax
import numpy as np
import pytest

from emv3_jax import sharding
from emv3_jax.errors import InputError
from emv3_jax.models import clip, transformer, umt5, vae, wav2vec2
from emv3_jax.models.network import named_leaves
from emv3_jax.sharding import rules
from emv3_jax.sharding.mesh import MeshConfig
from tests.compiler import QUICK
from tests.sharding import tiny

NETWORKS = {
    "preview": ("transformer", lambda: transformer.network(transformer.TransformerConfig())),
    "flash": ("transformer",
              lambda: transformer.network(transformer.TransformerConfig(variant="flash"))),
    "vae": ("vae", lambda: vae.network(vae.VAEConfig())),
    "umt5": ("text_encoder", lambda: umt5.network(umt5.UMT5Config())),
    "clip": ("image_encoder", lambda: clip.network(clip.CLIPVisionConfig())),
    "wav2vec2": ("audio_encoder", lambda: wav2vec2.network(wav2vec2.Wav2Vec2Config())),
}
# Share of the parameters that a device of eight holds, at most.
SHARES = {"preview": 0.135, "flash": 0.135, "vae": 1.0, "umt5": 0.126, "clip": 0.13, "wav2vec2": 0.5}


@functools.cache
def _abstract(name):
  return NETWORKS[name][1]().abstract


def _share(name, mesh):
  leaves = named_leaves(sharding.abstract_on(_abstract(name), mesh, NETWORKS[name][0])).values()
  held = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)
  return held / sum(leaf.size for leaf in leaves)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("config", [MeshConfig(fsdp=2, context=4), MeshConfig(fsdp=2, context=2,
                                                                           tensor=2)], ids=str)
def test_full_size_networks_are_split(name, config):
  assert _share(name, sharding.make_mesh(config)) <= SHARES[name]


@pytest.mark.parametrize("name", ["preview", "flash"])
@pytest.mark.parametrize("config", [MeshConfig(data=4, fsdp=16, context=4),
                                    MeshConfig(fsdp=64, context=4), MeshConfig(context=12)], ids=str)
def test_pods_divide_the_transformer(name, config):
  mesh = jax.sharding.AbstractMesh(config.sizes, sharding.AXES)
  whole = 0.003  # of the parameters are vectors and other small ones
  assert _share(name, mesh) <= config.data / math.prod(config.sizes) + whole


@pytest.mark.parametrize("name", NETWORKS)
def test_every_rule_is_used(name):
  component = NETWORKS[name][0]
  names = [leaf for other, (owner, _) in NETWORKS.items() if owner == component
           for leaf in named_leaves(_abstract(other))]
  for pattern, axes in rules.RULES[component]:
    assert any(rules.axes_of(leaf, component) == axes and rules.re.fullmatch(pattern, leaf)
               for leaf in names), pattern


def test_a_parameter_without_exactly_one_rule(monkeypatch):
  mesh = sharding.make_mesh(MeshConfig(fsdp=8))
  leaf = jax.ShapeDtypeStruct((2, 8, 8), np.float32)
  with pytest.raises(ValueError, match=r"blocks.lora.a.kernel: 0 sharding rules match"):
    sharding.param_shardings({"blocks": {"lora": {"a": {"kernel": leaf}}}}, mesh)
  monkeypatch.setitem(rules.RULES, "double", (("w", (None,)), ("w.*", (None,))))
  with pytest.raises(ValueError, match="w: 2 sharding rules match"):
    sharding.param_shardings({"w": leaf}, mesh, "double")


def test_a_rule_of_another_rank():
  leaf = jax.ShapeDtypeStruct((96, 96), np.float32)
  with pytest.raises(ValueError, match=r"blocks.ffn.up.kernel has shape \(96, 96\).* 3 axes"):
    sharding.param_shardings({"blocks": {"ffn": {"up": {"kernel": leaf}}}},
                             sharding.make_mesh(MeshConfig(fsdp=8)))


def test_an_axis_that_does_not_divide():
  mesh = tiny.mesh_of(MeshConfig(context=7, attention="allgather"))
  with pytest.raises(InputError, match=r"axis embed of 1536 .* fsdp 1 x context 7 = 7"):
    sharding.param_shardings(_abstract("preview"), mesh)


@pytest.mark.parametrize("name,share", [("clip", 0.27), ("umt5", 0.26), ("wav2vec2", 0.6)])
def test_encoders_are_split_over_what_divides(name, share):
  """Their widths have no factor 3."""
  assert _share(name, tiny.mesh_of(MeshConfig(data=4, tensor=2))) <= SHARES[name]
  uneven = jax.sharding.AbstractMesh((4, 1, 1, 3), sharding.AXES)
  assert 0.24 < _share(name, uneven) <= share


def test_placed_parameters_keep_their_numbers():
  mesh = sharding.make_mesh(MeshConfig(fsdp=2, context=2, tensor=2))
  placed = sharding.shard_params(tiny.params_of(), mesh)
  kernel = placed["blocks"]["ffn"]["up"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (3, 96 // 4, 192 // 2)
  chex.assert_trees_all_equal(placed, tiny.params_of())


@pytest.mark.slow
def test_initialisation_does_not_depend_on_the_mesh(monkeypatch):
  monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=QUICK))
  mesh = tiny.mesh_of(MeshConfig(fsdp=2, context=2))
  sharded = tiny.on_mesh(tiny.CONFIG, mesh)
  params = sharded.init(jax.random.key(5))
  jax.tree.map(lambda leaf, want: np.testing.assert_equal(leaf.sharding, want), params,
               sharded.shardings)
  plain = jax.jit(transformer.network(tiny.CONFIG).init)(jax.random.key(5))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), params, plain)
