"""Plans of clips that are longer than a window."""

import dataclasses

import jax
import pytest

from emv3_jax.plan import long_programs, programs
from emv3_jax.plan.programs import Deployment, Window
from emv3_jax.sampling.cache_settings import CacheConfig
from emv3_jax.sampling.long_settings import LongConfig
from emv3_jax.sharding import MeshConfig, make_mesh
from tests.sampling.conftest import tiny_config

SMALL = tiny_config("sampling.max_frames=17", "sampling.height=64", "sampling.width=64", "model.transformer.num_layers=1",
                    "model.vae.base_dim=4", "sampling.text_scale=2")


def with_long(**long):
  return dataclasses.replace(SMALL, sampling=dataclasses.replace(SMALL.sampling, long=LongConfig(**long)))


def test_a_clip_of_one_window_is_planned_as_before():
  window = programs.largest_window(SMALL)
  assert window == Window(17, 64, 64) and not window.is_of_longer
  assert long_programs.window_of(SMALL, window, 0) == window
  for frames in (9, 17):
    assert long_programs.window_of(SMALL, window, frames) == Window(17, 64, 64, clip_frames=frames)
    assert not long_programs.window_of(SMALL, window, frames).is_of_longer
  assert long_programs.window_of(SMALL, window, 21) == Window(17, 64, 64, clip_frames=21)
  assert long_programs.window_of(with_long(window=9), window, 17) == Window(9, 64, 64, clip_frames=17)


AUDIO_ALONE = {"text_scale": 1.0, "dynamic_text": False, "released_switch": False}


@pytest.mark.parametrize("settings, mode, rows", [
    ({}, "blended", 3), (AUDIO_ALONE, "blended", 2), (AUDIO_ALONE, "paper", 2), (AUDIO_ALONE, "paper_literal", 3),
    ({"guidance_until": 0.5}, "blended", 3), ({"text_scale": 1.0}, "blended", 1), ({"branches": "in_turn"}, "blended", 1)])
def test_the_step_of_the_most_branches_is_planned(settings, mode, rows):
  config = dataclasses.replace(SMALL, sampling=dataclasses.replace(SMALL.sampling, **settings))
  assert programs.num_rows(config, mode) == rows


@pytest.mark.parametrize("long, windows", [({}, 1), ({"window_batch": 3}, 3), ({"mode": "paper"}, 1), ({"mode": "chunked"}, 1)])
def test_a_group_of_windows(long, windows):
  deployment = Deployment("cpu", make_mesh(MeshConfig(), jax.devices()[:1]), MeshConfig())
  config = with_long(**long)
  one = programs.sample_step(config, Window(17, 64, 64), deployment)
  group = long_programs.sample_step(config, Window(17, 64, 64, clip_frames=1501), deployment)
  assert group.flops == pytest.approx(windows * one.flops, rel=0.01)
  assert group.traced.lower().as_text()


@pytest.mark.parametrize("mode, clip_frames, groups", [
    ("blended", 0, False), ("blended", 9, True), ("blended", 1501, True), ("chunked", 9, True), ("chunked", 1501, False)])
def test_the_decoder_of_a_clip_has_one_latent_frame(mode, clip_frames, groups):
  """As it runs; without a clip that of a window is planned, and chunks are decoded as a whole."""
  deployment = Deployment("cpu", make_mesh(MeshConfig(), jax.devices()[:1]), MeshConfig())
  whole = programs.vae_decode(SMALL, Window(17, 64, 64), deployment)
  found = long_programs.vae_decode(with_long(mode=mode), Window(17, 64, 64, clip_frames=clip_frames), deployment)
  ratio = whole.flops / found.flops
  assert 4 < ratio < 5 if groups else ratio == 1  # five latent frames, the first of which is one picture


@pytest.mark.parametrize("clip_frames", [17, 1501])
def test_a_step_cache_s_residual_is_planned(clip_frames):
  deployment = Deployment("cpu", make_mesh(MeshConfig(), jax.devices()[:1]), MeshConfig())
  settings = dataclasses.replace(SMALL.sampling, cache=CacheConfig("teacache"))
  window = Window(17, 64, 64, clip_frames=clip_frames)
  program = long_programs.sample_step(dataclasses.replace(SMALL, sampling=settings), window, deployment)
  _, residual = program.traced.out_info
  assert residual.shape == (3, 5 * 4 * 4, SMALL.model.transformer.dim)  # of three branches
