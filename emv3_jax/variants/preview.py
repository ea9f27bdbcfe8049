"""The preview variant: two wav2vec2 features per video frame, a face mask, guidance by text and audio."""

from jaxtyping import Float, Float32
import numpy as np

from emv3_jax.diffusion.negative_phases import PHASES
from emv3_jax.variants.variant import Variant

RELEASED_SETTINGS = dict(
    solver="euler", steps=25, shift=5.0, solver_shift=5.0, text_scale=4.0, audio_scale=2.9,
    released_switch=True, dynamic_text=True, dynamic_audio=True, guidance_until=1.0, png="released", png_phases=PHASES,
    neg_scale=1.5, neg_steps=2,
    negative_prompt=(
        "Gesture is bad. Gesture is unclear. Strange and twisted hands. Bad hands. Bad fingers. "
        "Unclear and blurry hands. 手部快速摆动, 手指频繁抽搐, 夸张手势, 重复机械性动作."),
    audio_gain=1.0, allocation="released", face_mask="released", riflex_k=0, attention="auto", branches="batched",
    token_blocks=0, max_frames=113, max_area=768 * 768, height=0, width=0, enlarge=1)

# The paper gives the two scales. It mentions no decay and no factor on the negative prompt.
PAPER_SETTINGS = dict(text_scale=3.0, audio_scale=9.0, dynamic_text=False, dynamic_audio=False,
                      neg_scale=1.0, neg_steps=0)

# The paper's numbers of steps for a talking head and for a person with gestures. Its scales conflict with all released
# code; these are the released ones. UniPC is what the released scripts take few steps with.
_GUIDED = dict(text_scale=4.0, audio_scale=2.9, dynamic_text=True, dynamic_audio=True, released_switch=False,
               guidance_until=1.0)
CACHE = dict(kind="teacache")  # which the paper takes for 25 steps; with the released polynomial and threshold
HEAD_SETTINGS = dict(solver="unipc", steps=5, shift=5.0, solver_shift=1.0, png="off", **_GUIDED)
HUMAN_SETTINGS = dict(solver="euler", steps=25, shift=5.0, solver_shift=5.0, png="phases", png_phases=PHASES,
                      cache=CACHE, **_GUIDED)


def normalise(samples: Float[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
  """Normalises samples to mean 0 and variance 1."""
  return ((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)).astype(np.float32)


def num_samples(frames: int) -> int:
  """Returns the number of samples from which wav2vec2 makes exactly two features per video frame.

  Its convolutions have a receptive field of 400 samples and a stride of 320, so that 2 F features need
  400 + 320 (2 F - 1) samples. The reference does not pad, gets one feature less, and fails.
  """
  return 640 * frames + 80


PREVIEW = Variant(
    name="preview", normalise=normalise, num_samples=num_samples, encoder_options=lambda frames: {},
    features_per_frame=2, guidance="text_audio", face_mask=True, settings=RELEASED_SETTINGS,
    presets={"paper": PAPER_SETTINGS, "head": HEAD_SETTINGS, "human": HUMAN_SETTINGS}, follows_extractor=True, released_tail=3)
