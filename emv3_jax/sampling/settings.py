"""What sampling can be told: the settings of a config and the request of one clip."""

import dataclasses
import pathlib

from emv3_jax.errors import InputError
from emv3_jax.model_config import ModelConfig, PrecisionConfig
from emv3_jax.sharding import MeshConfig

FPS = 25  # the rate the released weights were trained at; audio features are tied to it


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
  """Settings of a sampling run.

  Attributes:
    solver: `euler`, `unipc` or `dpmpp`.
    steps: number of solver steps.
    shift: timestep shift of the schedule.
    solver_shift: shift in the solver's own configuration; the released preview scripts leave 5
      there (so that it acts twice), flash sets 1.
    text_scale, audio_scale: guidance scales; text guidance is off at text_scale <= 1.
    dynamic_text, dynamic_audio: decay of the scales over the steps, as released.
    neg_scale, neg_steps: released compounding scale on the negative prompt's embedding.
    negative_prompt: what text guidance moves away from.
    audio_gain: factor on the audio expert's output (the released `audio_scale`).
    allocation: name of a phase-aware allocation of modalities (PhDA); `released` is 1 throughout.
    riflex_k: RIFLEx temporal frequency index, counted from 1; 0 is off.
    attention: backend of local attention, see `emv3_jax.attention_backends`; `auto` takes the fast
      kernel of the platform, which on TPU and GPU wants bfloat16.
    branches: guidance branches `batched` in one forward pass, or `in_turn` with less memory.
    token_blocks: parts of the clip that each layer's maps work on in turn, for less memory (rounded
      up to a divisor of the token positions); 0 keeps parts below 8192 tokens.
    max_frames: longest clip in one window, 4k+1 frames.
    max_area: pictures with more pixels than this are scaled down to it.
    height, width: fixed size in pixels, multiples of 16; 0 takes the picture's.
  """

  solver: str = "euler"
  steps: int = 25
  shift: float = 5.0
  solver_shift: float = 5.0
  text_scale: float = 4.0
  audio_scale: float = 2.9
  dynamic_text: bool = True
  dynamic_audio: bool = True
  neg_scale: float = 1.5
  neg_steps: int = 2
  negative_prompt: str = ""
  audio_gain: float = 1.0
  allocation: str = "released"
  riflex_k: int = 0
  attention: str = "auto"
  branches: str = "batched"
  token_blocks: int = 0
  max_frames: int = 113
  max_area: int = 768 * 768
  height: int = 0
  width: int = 0

  def __post_init__(self):
    if self.steps < 1:
      raise InputError(f"sampling.steps is {self.steps}; at least 1 is needed.")
    if self.token_blocks < 0:
      raise InputError(f"sampling.token_blocks is {self.token_blocks}; 0 (automatic) or more.")
    if self.max_frames % 4 != 1:
      raise InputError(f"sampling.max_frames is {self.max_frames}; it must be 4k+1, "
                       f"e.g. {self.max_frames // 4 * 4 + 1}.")
    if self.branches not in ("batched", "in_turn"):
      raise InputError(f"sampling.branches is {self.branches!r}; known: batched, in_turn.")
    if bool(self.height) != bool(self.width):
      raise InputError("sampling.height and sampling.width go together; set both or neither.")
    for name in ("height", "width"):
      side = getattr(self, name)
      if side % 16 or side < 0:
        raise InputError(f"sampling.{name} is {side}; it must be a multiple of 16, "
                         f"e.g. {max(16, round(side / 16) * 16)}.")


RELEASED = {  # settings of the released scripts, by variant
    "preview": SamplingConfig(negative_prompt=(
        "Gesture is bad. Gesture is unclear. Strange and twisted hands. Bad hands. Bad fingers. "
        "Unclear and blurry hands. 手部快速摆动, 手指频繁抽搐, 夸张手势, 重复机械性动作.")),
    "flash": SamplingConfig(
        solver="unipc", steps=8, solver_shift=1.0, text_scale=6.0, audio_scale=3.0,
        dynamic_text=False, dynamic_audio=False, neg_scale=1.0, neg_steps=-1, max_frames=81),
}


@dataclasses.dataclass(frozen=True)
class Config:
  """A whole sampling config, as `configs/*.py` give it.

  Attributes:
    name: what reports and metadata call this config.
    checkpoint: model folder, or `untrained` for random parameters.
    tokenizer: tokenizer.json to use; empty takes the model folder's.
    prompt_cache: folder of prompt embeddings; empty turns the cache off.
    prompt_cache_mib: what it may take; then it loses what was not used for longest.
    mesh: how the work is split over all devices: the transformer by every axis, the encoders'
      weights and the VAE's pictures over all of them together; all 1 runs on the first device.
    program_cache: folder of compiled programs; empty turns the cache off.
    face_detector: ONNX file of OpenCV's YuNet; empty uses scikit-image's cascade.
    seed: seed of the noise when the request has none.
    keep_parts: keep every network loaded between uses instead of freeing it; for small models
      and for many clips where memory allows.
    enlarge: whole factor by which pictures are written larger than they are made.
  """

  name: str
  checkpoint: str = ""
  tokenizer: str = ""
  prompt_cache: str = "~/.cache/emv3_jax/prompts"
  prompt_cache_mib: int = 2048
  program_cache: str = "~/.cache/emv3_jax/programs"
  face_detector: str = ""
  seed: int = 43
  keep_parts: bool = False
  enlarge: int = 1
  model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
  precision: PrecisionConfig = dataclasses.field(default_factory=PrecisionConfig)
  sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
  mesh: MeshConfig = MeshConfig()

  def __post_init__(self):
    if self.enlarge < 1:
      raise InputError(f"enlarge is {self.enlarge}; it must be 1 (as made) or more.")


@dataclasses.dataclass(frozen=True)
class Request:
  """One clip to make. Paths may be given as strings.

  Attributes:
    audio: file with the voice; any container, a video's sound is used.
    prompt: what the video shows; may be empty.
    image: portrait, first frame of the clip (tasks i2v, flf2v).
    last_image: last frame (task flf2v).
    video: source whose mouth is redrawn (task lipsync).
    task: `i2v`, `t2v`, `flf2v` or `lipsync`.
    face_box: `y1,y2,x1,x2` in pixels of the picture, a `.npy` as the released scripts store it,
      `auto` (detect, an error when there is no face) or `none` (audio acts everywhere).
    seed: seed of the noise; None takes the config's.
    negative_prompt: None takes the config's.
    seconds: use only so much of the audio; None uses all.
    paste: lipsync only: put the source's pixels back outside the mouth region.
  """

  audio: str | pathlib.Path
  prompt: str = ""
  image: str | pathlib.Path | None = None
  last_image: str | pathlib.Path | None = None
  video: str | pathlib.Path | None = None
  task: str = "i2v"
  face_box: str = "auto"
  seed: int | None = None
  negative_prompt: str | None = None
  seconds: float | None = None
  paste: bool = True
