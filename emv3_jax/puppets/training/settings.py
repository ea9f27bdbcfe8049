"""How the parts of the small default are trained; docs/training.md has the figures reached."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Learning:
  """The optimiser, whose rate rises, follows a cosine, and at last falls to zero.

  Attributes:
    rate: learning rate after the warm-up.
    rule: "adam", or "muon": kernels take orthogonalised steps as long as 0.2 of Adam's, all else
      Adam's of half the rate. A VAE gets as far in a third of the steps.
    warmup: steps of a linear rise.
    horizon: steps after which the cosine would be zero; 0 for those of the training.
    cooldown: steps, the last ones, in which a linear factor falls from 1 to 0.
    clip: greatest global norm of a gradient.
    ema: decay of the average of the weights, which is what is kept.
  """

  rate: float
  rule: str = "adam"
  warmup: int = 100
  horizon: int = 0
  cooldown: int = 0
  clip: float = 1.0
  ema: float = 0.995


@dataclasses.dataclass(frozen=True)
class Phase:
  """Steps on windows of one length: `frames` video frames, `batch` of them a step."""

  frames: int
  batch: int
  steps: int


def phase_at(phases: tuple[Phase, ...], step: int) -> Phase:
  """The phase of a step, counted from 0."""
  for phase in phases:
    if step < phase.steps:
      return phase
    step -= phase.steps
  return phases[-1]


@dataclasses.dataclass(frozen=True)
class VAESettings:
  """Training of the VAE.

  Attributes:
    phases: single pictures first, where a step is cheap, then ever longer windows.
    split, clips: which puppets of the world `seed` are trained on, and how many clips of them.
    noise: standard deviation of the posterior, the same for all latents: what the decoder has to
      stand, and with `kl` what keeps the latents small.
    kl: weight of the divergence from a standard normal distribution.
    knee: error, of pixels in [-1, 1], above which it counts linearly and below which squared.
    mouth_weight, hand_weight: by how much more a pixel there counts than any other.
    grey_share: of windows of which all but the first frame is grey, as image to video has them.
    grey_mouth_share: of windows in which the mouth of every frame is grey, as lip-sync has them.
  """

  phases: tuple[Phase, ...] = (Phase(1, 8, 3000), Phase(9, 2, 1000), Phase(17, 1, 800))
  learning: Learning = Learning(rate=3e-3, rule="muon", horizon=7000, cooldown=1200)
  split: str = "crowd"
  clips: int = 1000
  seed: int = 0
  noise: float = 0.1
  kl: float = 1e-3
  knee: float = 0.05
  mouth_weight: float = 4.0
  hand_weight: float = 2.0
  grey_share: float = 0.07
  grey_mouth_share: float = 0.07

  @property
  def steps(self) -> int:
    return sum(phase.steps for phase in self.phases)


@dataclasses.dataclass(frozen=True)
class AudioSettings:
  """Training of the audio encoder on the training sentences, varied in voice, pace and place.

  Attributes:
    phases: windows of video frames, in turn, 4 k + 1; long ones hold whole sentences.
    seed: of all draws.
    bands: of the log mel spectrum that is predicted beside the mouth's opening.
    mel_weight: of its squared error, per band standardised, beside the opening's.
    variants: of each sentence that are made.
    pace: greatest share by which speech is made faster or slower, which moves its pitch too.
    tilt: greatest slope, in dB an octave, of a filter over the sound.
    hiss: greatest level of added noise, of a sentence's own level.
  """

  phases: tuple[Phase, ...] = (Phase(97, 8, 500),)
  learning: Learning = Learning(rate=2e-3, warmup=30, ema=0.98)
  seed: int = 0
  bands: int = 20
  mel_weight: float = 0.2
  variants: int = 6
  pace: float = 0.15
  tilt: float = 3.0
  hiss: float = 0.02

  @property
  def steps(self) -> int:
    return sum(phase.steps for phase in self.phases)


@dataclasses.dataclass(frozen=True)
class TextSettings:
  """Training of the text encoder on captions.

  Attributes:
    steps, batch: of texts.
    tokens: length that texts are padded to; that of the transformer.
    fragments: share of texts that are some of a caption's phrases, in any order.
    seed: of all draws.
  """

  steps: int = 900
  batch: int = 64
  tokens: int = 64
  learning: Learning = Learning(rate=3e-3, warmup=50, ema=0.98)
  fragments: float = 0.3
  seed: int = 0
