"""The loops that stand for the released pipelines, with a solver that keeps what it is given."""

import types

import numpy as np
import pytest

from emv3_jax.diffusion import guidance as guidance_lib
from emv3_jax.diffusion.guidance import FLASH, PREVIEW
from emv3_jax.sampling.settings import SamplingConfig

torch = pytest.importorskip("torch", reason="PyTorch is in the extra `parity` only")
STEPS = 5


class Keeping:
  """A scheduler whose step takes the velocity off the latents."""

  timesteps = torch.linspace(1000, 200, STEPS)

  def __init__(self):
    self.velocities = []

  def step(self, velocity, tau, latents, return_dict):
    self.velocities.append(velocity.numpy())
    return (latents - velocity,)


@pytest.mark.parametrize("variant, guidance", [("preview", PREVIEW), ("flash", FLASH)])
@pytest.mark.parametrize("has_audio", [True, False])
def test_guidance_is_that_of_the_released_settings(variant, guidance, has_audio):
  from emv3_jax.verify.theirs import Theirs
  solver = Keeping()
  implementation = types.SimpleNamespace(has_audio=has_audio, solver=lambda settings: solver)
  settings = SamplingConfig(steps=STEPS).with_defaults(variant)
  theirs = Theirs(implementation, {}, settings, variant)

  def velocity(latents, tau, text, voice):
    return latents.sin() * text + tau / 1000 + 0.3 * (voice and has_audio)

  prompt, negative, latents = torch.tensor(1.5), torch.tensor(-0.7), torch.linspace(-1, 1, 8)
  loop = theirs._by_audio if variant == "flash" else theirs._by_text_and_audio
  result = loop(velocity, latents, prompt, negative)

  x = latents.numpy()
  for i, (tau, step) in enumerate(zip(Keeping.timesteps, guidance.schedule(STEPS), strict=True)):
    velocities = []
    for branch in step.branches:
      text = prompt if branch.text == "prompt" else negative * float(step.negative_scale)
      velocities.append(velocity(torch.tensor(x), tau, text, branch.audio == "voice").numpy())
    guided = guidance_lib.mix(step.branches, np.stack(velocities), step.text_scale, step.audio_scale)
    np.testing.assert_allclose(solver.velocities[i], guided, rtol=2e-5, atol=1e-5)
    x = x - solver.velocities[i]
  np.testing.assert_allclose(result.numpy(), x, rtol=1e-6)


def test_a_module_is_emptied_whoever_holds_it():
  from emv3_jax.verify.theirs import _emptied
  module = torch.nn.Sequential(torch.nn.Linear(2, 2))
  _emptied(module)
  assert {parameter.device.type for parameter in module.parameters()} == {"meta"}
