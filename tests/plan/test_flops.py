"""Counted operations against a closed formula and against what XLA counts."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from configs import echomimic_v3_flash, tiny
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.plan import flops, programs
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.settings import Config
from emv3_jax.sharding import MeshConfig, make_mesh

WINDOW = programs.Window(frames=9, height=32, width=48)


def config(**sampling):
  built = config_lib.build(Config, tiny.get_config())
  return dataclasses.replace(built, sampling=dataclasses.replace(built.sampling, **sampling))


def flash(**sampling):
  """Released flash as small as `config` is."""
  built = config_lib.build(Config, echomimic_v3_flash.get_config())
  net = dataclasses.replace(tiny.MODEL.transformer, variant="flash", audio_layers=2,
                            audio_hidden=16, audio_tokens=3)
  return dataclasses.replace(
      built, model=dataclasses.replace(tiny.MODEL, transformer=net),
      precision=config().precision,
      sampling=dataclasses.replace(built.sampling, attention="blocked", **sampling))


def deployment():
  return programs.Deployment("cpu", make_mesh(MeshConfig(), jax.devices()[:1]), MeshConfig())


def forward(net: TransformerConfig, s: int, frames: int) -> int:
  """Operations of one forward pass with the context ready."""
  audio = 17 if net.variant == "preview" else net.audio_tokens  # of a token's frame
  d, m = net.dim, net.text_tokens + net.image_tokens + audio
  layer = 6 * s * d * d + 2 * s * d * net.ffn_dim + 2 * s * s * d + 2 * s * m * d
  ends = s * 4 * (net.in_channels + net.out_channels) * d
  time = net.freq_dim * d + d * d + 6 * d * d
  return 2 * (net.num_layers * layer + ends + time)


@pytest.mark.parametrize("branches", ["batched", "in_turn"])
def test_a_sampling_step_has_the_operations_of_three_forward_passes(branches):
  cfg = config(branches=branches)
  net, (f, height8, width8) = cfg.model.transformer, WINDOW.latents
  expected = 3 * forward(net, f * height8 * width8 // 4, f)
  got = programs.sample_step(cfg, WINDOW, deployment()).flops
  assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("branches", ["batched", "in_turn"])
def test_a_step_of_flash_has_the_operations_of_two(branches):
  """Its guidance is between voice and silence only."""
  cfg = flash(branches=branches)
  f, height8, width8 = WINDOW.latents
  expected = 2 * forward(cfg.model.transformer, f * height8 * width8 // 4, f)
  assert programs.sample_step(cfg, WINDOW, deployment()).flops == pytest.approx(expected, rel=1e-6)


def test_products_are_counted_as_xla_counts_them():
  def products(x, kernel):
    y = jax.lax.conv_general_dilated(x, kernel, (2, 2), "VALID", feature_group_count=2,
                                     dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.einsum("bhwc,bhwd->bcd", y, y)

  shapes = (jax.ShapeDtypeStruct((2, 19, 17, 8), jnp.float32),
            jax.ShapeDtypeStruct((3, 3, 4, 32), jnp.float32))
  traced = jax.jit(products).trace(*shapes)
  xla = traced.lower().compile().cost_analysis()["flops"]
  assert flops.count(traced) == pytest.approx(xla, rel=0.01)


def test_a_tiny_network_is_counted_as_xla_counts_it():
  cfg = config()
  net = dataclasses.replace(cfg.model.transformer, num_layers=1)  # XLA counts a loop's body once
  cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, transformer=net))
  denoiser = programs.plain_denoiser(net, cfg.settings)
  traced = denoiser.trace_step(
      denoiser.transformer.network.abstract,
      jax.ShapeDtypeStruct((1, *WINDOW.latents, 16), jnp.float32),
      programs.conditions(net, WINDOW, programs.array))
  xla = traced.lower().compile().cost_analysis()["flops"]
  # XLA also counts additions, exponentials and the like.
  assert flops.count(traced) <= xla <= 1.15 * flops.count(traced)


def test_loops_count_as_often_as_they_run():
  x = jax.ShapeDtypeStruct((4, 4), jnp.float32)
  loop = lambda x: jax.lax.scan(lambda y, _: (y @ y, None), x, length=7)[0]
  assert flops.count(jax.jit(loop).trace(x)) == 7 * 2 * 4 ** 3
  mapped = lambda x: jax.lax.fori_loop(0, 5, lambda i, y: y @ y, x)
  assert flops.count(jax.jit(mapped).trace(x)) == 5 * 2 * 4 ** 3
  endless = lambda x: jax.lax.while_loop(lambda y: y[0, 0] > 0, lambda y: y @ y, x)
  with pytest.raises(ValueError, match="unknown length"):
    flops.count(jax.jit(endless).trace(x))


def test_of_branches_the_most_expensive_counts():
  x = jax.ShapeDtypeStruct((4, 4), jnp.float32)
  branched = lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)
  assert flops.count(jax.jit(branched).trace(x)) == 2 * 2 * 4 ** 3


def test_the_vae_is_counted_per_frame():
  cfg = config()
  counts = [programs.vae_decode(cfg, dataclasses.replace(WINDOW, frames=frames), deployment()).flops
            for frames in (5, 9, 13)]
  assert counts[2] - counts[1] == counts[1] - counts[0] > 0
