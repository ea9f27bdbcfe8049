"""Every setting of the denoising reaches the network; what the network computes is stood in for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax import sharding
from emv3_jax.diffusion import windows
from emv3_jax.diffusion.negative_phases import Phase
from emv3_jax.diffusion.schedules import dpmpp_schedule, unipc_schedule
from emv3_jax.models import rope, transformer
from emv3_jax.models.cross_attention import ALLOCATIONS
from emv3_jax.sampling.denoise import Conditions, Denoiser
from emv3_jax.sampling.long_plan import LongPlan
from emv3_jax.sampling.settings import SamplingConfig
from emv3_jax.sampling.window_denoiser import WindowDenoiser

CONFIG = transformer.TransformerConfig(dim=48, num_heads=2, num_layers=1, freq_dim=8)
SHAPE = (1, 3, 4, 6, 16)


def denoiser_of(settings: SamplingConfig, network=None) -> Denoiser:
  return Denoiser(dataclasses.replace(sharding.on_mesh(CONFIG), network=network), settings)


class Listener:
  """In place of the network: notes what it is called with, and predicts what `answer` says."""

  def __init__(self, answer=lambda context: jnp.zeros(len(context))):
    self.calls, self._answer = [], answer

  def bind(self, params):
    return self

  def project(self, text, image, audio, execution, frames=None):
    return (text[:, 0, 0] + 10 * audio[:, 0, 0])[None, :, None, None, None]  # [l, b, m, n, k]

  def __call__(self, latents, condition, sinusoid, context, **options):
    self.calls.append({"sinusoid": sinusoid, "condition": condition, **options})
    return self._answer(context[0, :, 0, 0, 0])[:, None, None, None, None] + 0 * latents


STILL = np.ones((1, 6), np.float32)


def conditions_of(face_mask=STILL) -> Conditions:
  """Text is 1 for the prompt and 2 for the negative one, the voice 3."""
  states = lambda value: np.full((1, 4, 2), value, np.float32)
  return Conditions(text={"prompt": states(1), "negative": states(2)}, image=states(0),
                    audio=states(3), condition=np.zeros((*SHAPE[:-1], 20), np.float32),
                    face_mask=face_mask)


def heard(network=None, conditions=None, **settings) -> tuple[list[dict], np.ndarray]:
  """What the network was called with in each step, and the latents in the end."""
  network = network or Listener()
  denoiser = denoiser_of(SamplingConfig(**{"steps": 2, **settings}), network)
  with jax.disable_jit():
    latents = denoiser.run({}, np.zeros(SHAPE, np.float32), conditions or conditions_of())
  return network.calls, np.asarray(latents)


@pytest.mark.parametrize("gain", [1.0, 0.25])
def test_the_gain_of_the_audio(gain):
  assert [call["audio_gain"] for call in heard(audio_gain=gain)[0]] == [gain, gain]


@pytest.mark.parametrize("name", ["released", "phased", "a"])
def test_the_allocation(name):
  calls, _ = heard(allocation=name, steps=3)
  taus = denoiser_of(SamplingConfig(steps=3)).solver.schedule.taus
  for call, want in zip(calls, ALLOCATIONS[name].weights(taus), strict=True):
    np.testing.assert_allclose(call["modality_weights"], np.broadcast_to(want, (3, 3)), rtol=1e-6)


@pytest.mark.parametrize("k", [0, 2])
def test_riflex(k):
  want = rope.rope_table((3, 2, 3), 24, rope.Riflex(k, 3) if k else None)
  for call in heard(riflex_k=k)[0]:
    np.testing.assert_array_equal(call["rope"][0], want[0])
  assert (np.abs(want[0] - rope.rope_table((3, 2, 3), 24)[0]).max() > 0) == bool(k)


def test_the_network_is_told_the_solver_s_tau():
  calls, _ = heard(solver="unipc", shift=3.0, solver_shift=2.0, steps=4)
  solver = denoiser_of(SamplingConfig(
      solver="unipc", shift=3.0, solver_shift=2.0, steps=4)).solver
  for call, tau in zip(calls, solver.schedule.taus, strict=True):
    np.testing.assert_array_equal(call["sinusoid"], np.broadcast_to(
        rope.time_sinusoid(tau, 8), (3, 8)))


def test_the_solver_s_shifts_are_the_settings():
  for name, schedule in (("unipc", unipc_schedule), ("dpmpp", dpmpp_schedule)):
    denoiser = denoiser_of(SamplingConfig(
        solver=name, steps=4, shift=3.0, solver_shift=2.0))
    np.testing.assert_array_equal(denoiser.solver.schedule.sigmas, schedule(4, 3.0, 2.0).sigmas)


def test_the_face_mask_reaches_the_network():
  for call in heard()[0]:
    np.testing.assert_array_equal(call["face_mask"], np.ones((3, 6)))
  moving = np.arange(6 * SHAPE[1], dtype=np.float32).reshape(1, 6, SHAPE[1])
  for call in heard(conditions=conditions_of(moving))[0]:
    np.testing.assert_array_equal(call["face_mask"], np.repeat(moving, 3, axis=0))


@pytest.mark.parametrize("branches", ["batched", "in_turn"])
def test_guidance_mixes_what_the_branches_predict(branches):
  """A constant velocity v takes the latents from 0 to -v sigma_0."""
  _, latents = heard(Listener(lambda context: context), branches=branches, text_scale=4.0,
                     audio_scale=3.0, dynamic_text=False, dynamic_audio=False, neg_scale=1.0)
  un, text, full = 2, 1, 1 + 10 * 3
  np.testing.assert_allclose(latents, -(un + 4 * (text - un) + 3 * (full - text)), rtol=1e-5)


def test_the_negative_prompt_is_scaled_step_by_step():
  seen = []
  network = Listener()
  project = network.project
  network.project = lambda text, *others: (
      seen.append(text[:, 0, 0].tolist()), project(text, *others))[1]
  heard(network, steps=4, neg_scale=1.5, neg_steps=1)
  assert seen == [[3.0, 1, 1], [4.5, 1, 1]], "projected where it changes"


@pytest.mark.parametrize("branches", ["batched", "in_turn"])
def test_each_phase_has_its_negative_prompt_and_weight(branches, caplog):
  seen, conditions = [], conditions_of()
  conditions.text["negative 2"] = np.full((1, 4, 2), 5, np.float32)
  network = Listener(lambda context: context)
  project = network.project
  network.project = lambda text, *others: (seen.extend(text[:, 0, 0].tolist()), project(text, *others))[1]
  phases = (Phase(until_step=1, weight=1.5), Phase(until=0.5, weight=0.0), Phase(weight=0.5))
  _, latents = heard(network, conditions, branches=branches, steps=4, png="phases", png_phases=phases, text_scale=4.0,
                     audio_scale=3.0, dynamic_text=False, dynamic_audio=False, neg_scale=9.0)
  assert seen == [2, 1, 1, 1, 1, 5, 1, 1], "projected by phase, without the released factor"
  voice = 3 * (31 - 1)
  mixed = [1 + 1.5 * 3 * (1 - 2) + voice, 1 + voice, *[1 + 0.5 * 3 * (1 - 5) + voice] * 2]
  np.testing.assert_allclose(latents, np.diff(denoiser_of(SamplingConfig(steps=4)).solver.schedule.sigmas) @ mixed,
                             rtol=1e-5)
  assert "sampling.png_phases.1 has weight 0: its steps are not guided by text" in caplog.text


def test_one_prompt_in_all_phases_is_plain_guidance_to_the_bit():
  conditions = conditions_of()
  conditions.text["negative 1"] = conditions.text["negative"]
  answer = lambda context: jnp.sin(context)
  found = [heard(Listener(answer), conditions, steps=3, png=png, png_phases=(Phase(until_step=1), Phase()))[1]
           for png in ("phases", "off")]
  np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("mode, batch", [("blended", 2), ("paper", 1), ("released", 1)])
def test_windows_are_guided_as_a_clip_is(mode, batch):
  """By phases in a share of the steps; the network says the same of all windows."""
  conditions = conditions_of()
  conditions.text["negative 1"] = np.full((1, 4, 2), 5, np.float32)
  settings = SamplingConfig(steps=4, png="phases", png_phases=(Phase(until_step=1, weight=1.5), Phase()),
                            guidance_until=0.75)
  denoiser = denoiser_of(settings, Listener(lambda context: context))
  plan = LongPlan(mode, windows.place(5, 3, 1, mode), 1, batch)
  with jax.disable_jit():
    one = denoiser.run({}, np.zeros(SHAPE, np.float32), conditions)[0]
    long = WindowDenoiser(denoiser, "blended" if mode == "released" else mode).run(
        {}, np.zeros((5, *SHAPE[2:]), np.float32), plan, [conditions] * 2)
  np.testing.assert_allclose(long, np.broadcast_to(one[:1], long.shape), rtol=1e-5)


@pytest.mark.parametrize("branches", ["batched", "in_turn"])
@pytest.mark.parametrize("settings, rows, mixed", [
    ({"guidance_until": 0.5}, (3, 1), (2 + 4 * (1 - 2) + 3 * (31 - 1), 31)),
    ({"text_scale": 1.0, "released_switch": False}, (2, 2), (1 + 3 * (31 - 1),) * 2),
    ({"text_scale": 3.0}, (2, 2), (2 + 3 * (31 - 2),) * 2),
    ({"text_scale": 1.0}, (1, 1), (31, 31))])
def test_branches_without_weight_do_not_run(branches, settings, rows, mixed):
  """The un branch predicts 2, text 1, full 31, at both steps."""
  network = Listener(lambda context: context)
  constant = dict(text_scale=4.0, audio_scale=3.0, dynamic_text=False, dynamic_audio=False, neg_scale=1.0)
  calls, latents = heard(network, branches=branches, **{**constant, **settings})
  if branches == "batched":
    assert tuple(len(call["sinusoid"]) for call in calls) == rows
  sigmas = denoiser_of(SamplingConfig(steps=2)).solver.schedule.sigmas
  np.testing.assert_allclose(latents, np.diff(sigmas) @ mixed, rtol=1e-5)


@pytest.mark.parametrize("tokens, wanted, blocks", [
    ((3, 4, 6), 0, 1), ((3, 4, 6), 4, 6), ((29, 96, 96), 0, 9)])
def test_token_blocks_divide_the_positions(tokens, wanted, blocks):
  denoiser = denoiser_of(SamplingConfig(token_blocks=wanted))
  assert denoiser._token_blocks((1, *tokens, 16)) == blocks
