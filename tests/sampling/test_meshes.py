"""Clips made on meshes of eight devices are those of one; `--plan` plans the programs that run."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
import soundfile

from emv3_jax.components import programs
from emv3_jax.components.config import COMPONENTS
from emv3_jax.errors import InputError
from emv3_jax.io import checkpoints
from emv3_jax.models.network import named_leaves
from emv3_jax.plan import programs as planned
from emv3_jax.runtime import start_up
from emv3_jax.sampling.clip import sample
from emv3_jax.sampling.denoise import make_denoiser
from emv3_jax.sampling.model import Model, load
from emv3_jax.sampling.settings import Request
from emv3_jax.sharding import MeshConfig
from tests.compiler import QUICK
from tests.sampling.conftest import tiny_config
from tests.sharding import tiny

# 48 x 64 pixels: 3 x 4 token positions, latents of 6 x 8. Nine frames are three latent frames.
SMALL = ("sampling.height=48", "sampling.width=64", "model.vae.base_dim=4",
         "model.transformer.num_layers=2", "sampling.steps=2")
MESHES = (MeshConfig(data=4, tensor=2), MeshConfig(fsdp=2, context=4, attention="allgather"))
CACHED = (programs._network, programs.encoder, programs.vae_encode, programs.vae_decode,
          programs.vae_decode_group, make_denoiser)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=QUICK))
    yield
  for function in CACHED:
    function.cache_clear()


@pytest.fixture(scope="module")
def request_of(files, tmp_path_factory) -> Request:
  voice = tmp_path_factory.mktemp("voice") / "voice.wav"
  soundfile.write(voice, 0.3 * np.sin(np.arange(5600) / 10), 16000)
  return Request(audio=voice, image=files["image"], prompt="a puppet", face_box="8,40,8,40")


@pytest.fixture(scope="module")
def one_device(request_of):
  model = load(config=tiny_config(*SMALL))
  return model, sample(model, request_of)


def on_mesh(model: Model, mesh: MeshConfig) -> Model:
  return Model(dataclasses.replace(model.config, mesh=mesh), model.folder)


@pytest.mark.parametrize("mesh", [pytest.param(MESHES[0], marks=pytest.mark.slow), MESHES[1]],
                         ids=tiny.name_of)
def test_a_clip_is_the_same_on_every_mesh(one_device, request_of, mesh):
  model, want = one_device
  split = on_mesh(model, mesh)
  got = sample(split, request_of)
  assert want.frames.shape == (9, 48, 64, 3) and want.latents.shape == (3, 6, 8, 16)
  np.testing.assert_allclose(got.latents, want.latents, atol=2e-5 * np.abs(want.latents).max())
  assert np.abs(got.frames.astype(int) - want.frames).max() <= 1
  for name in COMPONENTS:
    with split.parameters(name) as params:
      for leaf in jax.tree.leaves(params):
        assert len(leaf.sharding.device_set) == 8
  compiled = start_up.watch().programs()
  sample(split, dataclasses.replace(request_of, seed=1))  # another clip of the same size
  assert start_up.watch().programs() == compiled


def test_a_plan_is_of_the_programs_that_run(one_device, request_of, monkeypatch):
  mesh = MESHES[1]
  split = on_mesh(one_device[0], mesh)
  denoiser, called = split.denoiser(), {}

  def record(name, run):
    def recorded(*args):
      called.setdefault(name, run.lower(*args).as_text())
      return run(*args)
    return recorded

  monkeypatch.setattr(denoiser, "_step", record("sample_step", denoiser._step))
  for name in ("vae_encode", "vae_decode"):
    program = getattr(programs, name)
    monkeypatch.setattr(programs, name, lambda *args, name=name, program=program: record(
        name, program(*args)))
  clip = sample(split, request_of)
  with split.parameters("vae") as params:  # sampling decodes by groups, which takes less
    split.vae_decode(params, clip.latents[None])
  monkeypatch.undo()
  window = planned.Window(9, 48, 64)
  deployment = planned.Deployment("cpu", split.mesh, mesh)
  assert called.keys() == planned.PROGRAMS.keys()
  for name, plan in planned.PROGRAMS.items():
    text = plan(split.config, window, deployment).traced.lower().as_text()
    assert without_axes_of_one(text) == without_axes_of_one(called[name]), name


def test_a_video_is_decoded_group_by_group(one_device):
  """Two programs, of the first group and of all others, whose cached frames stay split."""
  split = on_mesh(one_device[0], MESHES[1])
  latents = np.concatenate([one_device[1].latents] * 2)[None]  # six latent frames
  with split.parameters("vae") as params:
    groups = list(split.vae_decode_groups(params, (latents[:, i:i + 1] for i in range(6))))
    whole = split.vae_decode(params, latents)
  assert [group.shape[1] for group in groups] == [1, 4, 4, 4, 4, 4]
  joined = np.concatenate(groups, axis=1)
  assert joined.dtype == np.uint8
  assert np.abs(joined.astype(int) - whole).max() <= 1  # of 255: rounding at a half
  program = programs.vae_decode_group(split.network("vae"), split.mesh, latents.shape[2:4], 1)
  assert program._cache_size() == 2


def without_axes_of_one(text: str) -> str:
  """Outputs of a program leave mesh axes of size 1 out of their shardings."""
  return re.sub(r'"(data|tensor)"(, )?(?!=)', "", text).replace(', }', '}')


def test_a_folder_is_read_into_shards(one_device, tmp_path):
  model, _ = one_device
  name = "text_encoder"
  config = dataclasses.replace(model.config, keep_parts=False, mesh=MeshConfig(fsdp=4, tensor=2))
  checkpoints.save_component(
      tmp_path, name, model.network(name).untrained(3), variant="preview",
      config=dataclasses.asdict(config.model.text_encoder))
  monkey = Model(dataclasses.replace(config), None)
  monkey.folder = tmp_path
  with monkey.parameters(name) as params:
    kernel = params["blocks"]["ffn"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (2, 64, 128 // 8)
    want = named_leaves(model.network(name).untrained(3))
    for path, leaf in named_leaves(params).items():
      np.testing.assert_array_equal(leaf, want[path])
  ids, mask = np.arange(6, dtype=np.int32)[None], np.ones((1, 6), bool)
  plain = Model(dataclasses.replace(config, mesh=MeshConfig()), None)
  plain.folder = tmp_path
  np.testing.assert_allclose(monkey.encode_tokens(ids, mask), plain.encode_tokens(ids, mask),
                             atol=1e-5)


@pytest.mark.parametrize("mesh, said", [
    (MeshConfig(context=3), "takes 3 devices, there are 8"),
    (MeshConfig(data=4, context=4), "takes 16 devices, there are 8"),
    (MeshConfig(context=8), "6 heads do not divide over context 8 x tensor 1 = 8"),
    (MeshConfig(tensor=8), "6 heads do not divide over tensor 8")])
def test_meshes_that_do_not_fit_are_refused_before_any_work(one_device, mesh, said):
  with pytest.raises(InputError, match=said):
    on_mesh(one_device[0], mesh)


def test_a_picture_whose_tokens_do_not_divide_is_refused_before_any_work(one_device, request_of,
                                                                        monkeypatch):
  split = on_mesh(one_device[0], MeshConfig(context=8, attention="allgather"))
  monkeypatch.setattr(Model, "parameters", None)
  with pytest.raises(InputError, match="48x64 pixels has 3 x 4 = 12 token positions, .* context 8; "
                                       "the nearest sizes that do: "):
    sample(split, request_of)
