"""Whole sampling runs on many meshes give the latents of one device."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from emv3_jax import sharding
from emv3_jax.sampling.denoise import Denoiser
from emv3_jax.sampling.settings import SamplingConfig
from emv3_jax.sharding.mesh import MeshConfig
from tests.compiler import QUICK
from tests.sharding import tiny

PREVIEW = SamplingConfig(steps=2, solver="unipc", neg_steps=0)
FLASH = SamplingConfig(steps=2, text_scale=6.0, audio_scale=3.0, dynamic_text=False,
                       dynamic_audio=False, neg_scale=1.0, neg_steps=-1)


@pytest.fixture(autouse=True)
def quick_compilation(monkeypatch):
  monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=QUICK))


@functools.cache
def _on_one_device(config, settings, clips):
  denoiser = Denoiser(sharding.on_mesh(config), settings)
  return np.asarray(denoiser.run(
      tiny.params_of(config), tiny.noise_of(clips), tiny.conditions_of(clips, config)))


def _check(mesh_config, settings=PREVIEW, config=tiny.CONFIG, clips=1, programs=1):
  mesh = tiny.mesh_of(mesh_config)
  denoiser = Denoiser(tiny.on_mesh(config, mesh, attention=mesh_config.attention), settings)
  params = sharding.shard_params(tiny.params_of(config), mesh)
  noise = sharding.replicate(tiny.noise_of(clips), mesh)
  got = denoiser.run(params, noise, tiny.conditions_of(clips, config))
  want = _on_one_device(config, settings, clips)
  np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())
  assert denoiser._step._cache_size() == programs


SLOW = (MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(context=6),
        MeshConfig(context=2, tensor=4, attention="allgather"))  # what others show of two meshes each


@pytest.mark.parametrize("mesh_config", [
    pytest.param(mesh, id=tiny.name_of(mesh), marks=pytest.mark.slow if mesh in SLOW else ())
    for mesh in tiny.MESHES])
def test_three_branches_of_one_clip(mesh_config):
  """Over data 2 and fsdp 8 the branches are padded; over data 3 each has its own devices."""
  _check(mesh_config)


def test_branches_in_turn_leave_data_to_the_clips():
  """And each device works on its tokens in three blocks."""
  settings = dataclasses.replace(PREVIEW, branches="in_turn", token_blocks=3)
  _check(MeshConfig(data=2, context=2, tensor=2), settings, clips=2)


def test_branches_that_stop_leave_the_rows_that_go_on():
  """Two rows over data 2, guided by audio alone, and then one, which is padded."""
  settings = dataclasses.replace(PREVIEW, guidance_until=0.5, text_scale=1.0, dynamic_text=False, released_switch=False)
  _check(MeshConfig(data=2, context=2), settings, programs=2)


def test_flash_has_two_branches():
  _check(MeshConfig(data=2, context=4), FLASH, tiny.FLASH)


def test_the_step_compiles_once_a_size(monkeypatch):
  mesh = tiny.mesh_of(MeshConfig(context=2))
  denoiser = Denoiser(tiny.on_mesh(tiny.FLASH, mesh), FLASH)
  params = sharding.shard_params(tiny.params_of(tiny.FLASH), mesh)
  for grid, compiled in ((tiny.GRID, 1), (tiny.GRID, 1), ((3, 4, 4), 2)):
    monkeypatch.setattr(tiny, "GRID", grid)
    noise = sharding.replicate(tiny.noise_of(1), mesh)
    denoiser.run(params, noise, tiny.conditions_of(1, tiny.FLASH))
    assert denoiser._step._cache_size() == compiled
