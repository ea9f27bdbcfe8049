"""Long clips of the reference: windows that share latents, and chunks that go on with pictures."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.conditioning import image as image_lib
from emv3_jax.diffusion import windows
from emv3_jax.models import vae
from emv3_jax.sampling import chunks
from emv3_jax.sampling.denoise import Conditions
from emv3_jax.sampling.long_plan import LongPlan
from emv3_jax.sampling.window_denoiser import WindowDenoiser, make_window_denoiser
from emv3_jax.tasks import masks
from tests import golden_data
from tests.models import official_vae
from tests.sampling.test_golden_runs import channels_last, conditions_of, denoiser_and_params

VAE = vae.network(vae.VAEConfig(base_dim=16))


def test_released_windows():
  case = golden_data.load("e2e", "long_33_p17_o2")
  # The released code ignores the scale of the negative prompt here.
  denoiser, params = denoiser_and_params(case, neg_scale=1.0)
  assert case["in.audio_embeds"].shape[1] == 66
  whole, plan = conditions_of(case), LongPlan("released", windows.place(9, 5, 2, "released"), overlap=2, batch=1)
  placed = [Conditions(
      whole.text, whole.image, whole.audio[:, 8 * start:None if stop == 9 else 8 * stop],
      whole.condition[:, :stop - start], whole.face_mask) for start, stop in plan.windows]
  run = functools.partial(make_window_denoiser(denoiser, "released").run, params, channels_last(case["init_noise"])[0])
  got = run(plan, placed)
  golden_data.check("sampling of windows", got, channels_last(case["final"])[0], 1e-4)
  blended = run(dataclasses.replace(plan, mode="blended", batch=1), placed)
  assert np.abs(blended - got).max() > 0.1


def test_one_window_is_the_plain_run():
  """Flash with UniPC, whose state has four arrays."""
  case = golden_data.load("e2e", "flash_unipc")
  denoiser, params = denoiser_and_params(case)
  plan, seen = LongPlan("blended", (windows.Window(0, 5),), overlap=1, batch=1), []
  got = WindowDenoiser(denoiser, "blended").run(
      params, channels_last(case["init_noise"])[0], plan, [conditions_of(case)], lambda steps: seen.append(steps) or steps)
  golden_data.check("sampling of windows", got, channels_last(case["final"])[0], 1e-4)
  assert seen == [range(denoiser.settings.steps)]


@pytest.fixture(scope="module")
def chunked():
  """The recorded case; (video, mask) -> latents of the condition; latents -> float pictures in [0, 1]."""
  params = official_vae.convert(golden_data.load("vae", "weights").arrays)
  decode = jax.jit(lambda params, latents: jnp.clip(VAE.bind(params).decode(latents) / 2 + 0.5, 0, 1))
  encode = jax.jit(lambda params, video: VAE.bind(params).encode(video))

  def condition(video, mask):
    latent_mask = masks.mask_latents(mask, video.shape[1:3])[None]
    return masks.condition(latent_mask, encode(params, masks.masked_video(video, mask)[None]))

  case = golden_data.load("e2e", "chunked_29_p17_o5")
  return case, condition, lambda latents: np.asarray(decode(params, latents)[0])


def test_released_chunks(chunked):
  case, condition, decode = chunked
  recorded = golden_data.load("e2e", "std_dynamic")  # of the same prompts and picture
  denoiser, params = denoiser_and_params(recorded, steps=2)
  shared = conditions_of(recorded)
  plan = LongPlan("chunked", windows.place(8, 5, 2, "chunked"), overlap=2, batch=1)
  assert plan.windows == ((0, 5), (3, 8))

  def make(index, before):
    given = np.zeros((17, 64, 96, 3), np.float32)
    given[0] = image_lib.to_pixels(case["in.clip_image_u8"])
    if index:
      # Pictures are cut to bytes: where a level is whole but for rounding, the byte may be one less, and a few such
      # bytes move the next latents by 1e-4. So the next chunk gets the recorded bytes, and ours are counted.
      recorded_end = case["chunk0.ref_frames_u8"]
      off, levels = np.abs(chunks.as_bytes(before).astype(int) - recorded_end), before * 255
      assert off.max() <= 1 and off.mean() < 1e-3
      assert np.abs(levels - np.rint(levels))[off > 0].max(initial=0) < 0.01
      before = recorded_end
    video, mask = chunks.begun_with(before, given, np.arange(17) < (index == 0))
    first = 24 * index
    conditions = dataclasses.replace(shared, condition=condition(video, mask),
                                     audio=case["in.audio_embeds"][:, first:first + 34])
    latents = denoiser.run(params, channels_last(case[f"chunk{index}.init_noise"]), conditions)
    golden_data.check("sampling of chunks", latents, channels_last(case[f"chunk{index}.final_latents"]), 1e-4)
    return decode(latents)

  pieces = list(chunks.faded(plan, make))
  assert [len(piece) for piece in pieces] == [12, 17]
  got, want = np.concatenate(pieces), channels_last(case["final_video"])[0]  # of which the copy has frames 11-18
  golden_data.check("sampling of chunks", got[11:19], want, 1e-4)
