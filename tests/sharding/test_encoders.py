"""The encoders with their weights split over eight devices give the numbers of one."""

import jax
import numpy as np
import pytest

from emv3_jax import sharding
from emv3_jax.models import clip, umt5, wav2vec2
from emv3_jax.sharding.mesh import MeshConfig
from tests.compiler import QUICK
from tests.sharding import hlo

NETWORKS = {
    "text_encoder": umt5.network(umt5.UMT5Config(
        vocab_size=48, dim=32, attention_dim=64, ffn_dim=80, num_heads=8, num_layers=3)),
    "image_encoder": clip.network(clip.CLIPVisionConfig(
        dim=64, num_layers=3, num_heads=4, image_size=28)),
    "audio_encoder": wav2vec2.network(wav2vec2.Wav2Vec2Config(
        dim=64, ffn_dim=96, num_layers=3, num_heads=4, conv_dim=16)),
}


def _inputs(component):
  rng = np.random.default_rng(0)
  if component == "text_encoder":
    return rng.integers(0, 48, size=(1, 7)).astype(np.int32), np.arange(7)[None] < 5
  shape = (1, 28, 28, 3) if component == "image_encoder" else (1, 4000)
  return (rng.normal(size=shape).astype(np.float32),)


@pytest.mark.parametrize("component", NETWORKS)
def test_split_encoders_give_the_same_numbers(component, tmp_path):
  net, inputs = NETWORKS[component], _inputs(component)
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda leaf: 0.2 * rng.normal(size=leaf.shape).astype(np.float32),
                        net.abstract)
  program = jax.jit(lambda params, *inputs: net.bind(params)(*inputs))
  want = program.lower(params, *inputs).compile(QUICK)(params, *inputs)
  mesh = sharding.make_mesh(MeshConfig(fsdp=2, context=2, tensor=2))
  args = (sharding.shard_params(params, mesh, component), *sharding.replicate(inputs, mesh))
  compiled, found = hlo.compile_with_collectives(program.lower(*args), tmp_path)
  np.testing.assert_allclose(compiled(*args), want, atol=2e-5 * np.abs(want).max())
  # Split weights stay where they are.
  weights = {leaf.shape[1:] for leaf in jax.tree.leaves(net.abstract["blocks"]) if leaf.ndim == 3}
  assert found and not [c for c in found if c.shape in weights or c.shape[1:] in weights]
