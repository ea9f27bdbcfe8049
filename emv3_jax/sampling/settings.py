"""Settings of sampling, the sampling config, and the request for one clip."""

import dataclasses
import math
import pathlib
import typing

from emv3_jax import geometry, variants
from emv3_jax.attention import backends
from emv3_jax.components.config import ModelConfig, PrecisionConfig
from emv3_jax.diffusion import negative_phases, solvers
from emv3_jax.diffusion.negative_phases import Phase
from emv3_jax.errors import InputError
from emv3_jax.geometry import TOKEN
from emv3_jax.io import paths
from emv3_jax.limits import ABOVE_0, AMOUNT, COUNT, LARGEST, MANY, SEED, check, check_ranges, shown
from emv3_jax.models.cross_attention import ALLOCATIONS
from emv3_jax.sampling import timed_prompts
from emv3_jax.sampling.cache_settings import CacheConfig
from emv3_jax.sampling.long_settings import LongConfig
from emv3_jax.sampling.presets import preset_names
from emv3_jax.sampling.timed_prompts import TimedPrompts
from emv3_jax.sharding import MeshConfig
from emv3_jax.tasks import face_masks

_RANGES = {
    "steps": (1, 1000), "shift": (1e-3, LARGEST), "solver_shift": (1e-3, LARGEST),
    "text_scale": (-LARGEST, LARGEST), "audio_scale": (-LARGEST, LARGEST),
    "neg_scale": (0, LARGEST), "neg_steps": (-1, MANY), "audio_gain": (-LARGEST, LARGEST),
    "guidance_until": (ABOVE_0, 1),
    "riflex_k": AMOUNT, "token_blocks": AMOUNT, "max_frames": COUNT, "max_area": (256, 2 ** 62),
    "length_buckets": AMOUNT, "height": AMOUNT, "width": AMOUNT, "enlarge": (1, 64)}
PNG_MODES = ("released", "phases", "off")


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
  """Settings of a sampling run.

  A field that is None is taken from the preset, else from `model.json` of the model folder, else from the
  released settings of the variant; see `sampling.resolution`.

  Attributes:
    preset: name of a set of settings (`presets.preset_of`) that override those of `model.json`; empty for none.
    allow_mismatch: allows an allocation or a face mask other than that of the training, for ablations.
    solver: `euler`, `unipc` or `dpmpp`, see `emv3_jax.diffusion.solvers`.
    steps: number of solver steps.
    shift: timestep shift of the schedule.
    solver_shift: shift in the solver's own configuration; the released preview scripts leave 5
      there (so that it acts twice), flash sets 1.
    text_scale, audio_scale: guidance scales. A branch that they give no weight does not run, see
      `diffusion.guidance`.
    released_switch: whether guidance of both kinds is off at text_scale <= 1, as in the released code.
    dynamic_text, dynamic_audio: decay of the scales over the steps, as released.
    guidance_until: share of the steps, from the first on, that are guided; then one branch runs.
    png: phase-aware negative guidance: `released` (neg_scale), `phases` (png_phases) or `off`.
    png_phases: negative prompts and weights by steps, see `diffusion.negative_phases`.
    neg_scale, neg_steps: released compounding scale on the negative prompt's embedding.
    negative_prompt: prompt that text guidance moves away from.
    audio_gain: factor on the audio expert's output (the released `audio_scale`).
    allocation: name of a phase-aware allocation of modalities (PhDA); `released` is 1 throughout.
      It has to be that of the training.
    face_mask: where lip-sync draws and its audio acts: `moving` follows the face through the video,
      `released` is one box around it; see `tasks.face_masks`. It has to be that of the training.
    riflex_k: RIFLEx temporal frequency index, counted from 1; 0 is off.
    attention: backend of local attention, see `emv3_jax.attention.backends`; `auto` takes the fast
      kernel of the platform, which on TPU and GPU wants bfloat16.
    branches: guidance branches `batched` in one forward pass, or `in_turn` with less memory.
    token_blocks: number of token blocks that each layer processes in turn, for less memory (rounded
      up to a divisor of the token positions); 0 chooses blocks of at most about 8192 tokens.
    max_frames: longest window, 4k+1 frames; longer clips are made by several windows.
    max_area: pictures with more pixels than this are scaled down to it.
    height, width: fixed size in pixels, multiples of 16; 0 takes the size of the picture.
    length_buckets: pads clips of one window to a multiple of so many latent frames, so that those of other lengths compile
      nothing; 0 is off. See `sampling.length_buckets`.
    enlarge: integer factor by which the written pictures are larger than the sampled ones.
    long: settings of clips that are longer than a window.
    cache: which steps are skipped.
  """

  preset: str = ""
  allow_mismatch: bool = False
  length_buckets: int = 0
  solver: str | None = None
  steps: int | None = None
  shift: float | None = None
  solver_shift: float | None = None
  text_scale: float | None = None
  audio_scale: float | None = None
  released_switch: bool | None = None
  dynamic_text: bool | None = None
  dynamic_audio: bool | None = None
  guidance_until: float | None = None
  png: str | None = None
  png_phases: tuple[Phase, ...] | None = None
  neg_scale: float | None = None
  neg_steps: int | None = None
  negative_prompt: str | None = None
  audio_gain: float | None = None
  allocation: str | None = None
  face_mask: str | None = None
  riflex_k: int | None = None
  attention: str | None = None
  branches: str | None = None
  token_blocks: int | None = None
  max_frames: int | None = None
  max_area: int | None = None
  height: int | None = None
  width: int | None = None
  enlarge: int | None = None
  long: LongConfig = LongConfig()
  cache: CacheConfig = CacheConfig()

  def __post_init__(self):
    if self.preset and self.preset not in preset_names():
      raise InputError(f"sampling.preset is {self.preset!r}; known: {', '.join(preset_names())}.")
    check_ranges("sampling", self, _RANGES)
    if self.solver is not None:
      solvers.check_name(self.solver)
    if self.attention is not None:
      backends.check_name(self.attention)
    if self.allocation is not None and self.allocation not in ALLOCATIONS:
      raise InputError(f"sampling.allocation is {self.allocation!r}; known: {', '.join(sorted(ALLOCATIONS))}.")
    if self.face_mask is not None:
      face_masks.check_name("sampling.face_mask", self.face_mask)
    if self.max_frames is not None and not geometry.is_clip_length(self.max_frames):
      raise InputError(f"sampling.max_frames is {self.max_frames}; it must be 4k+1, "
                       f"e.g. {geometry.frames_of(self.max_frames // geometry.FRAMES + 1)}.")
    if self.png is not None and self.png not in PNG_MODES:
      raise InputError(f"sampling.png is {self.png!r}; known: {', '.join(PNG_MODES)}.")
    if self.png_phases is not None:
      negative_phases.check_phases(self.png_phases)
    if self.branches not in (None, "batched", "in_turn"):
      raise InputError(f"sampling.branches is {self.branches!r}; known: batched, in_turn.")
    if bool(self.height) != bool(self.width):
      raise InputError("sampling.height and sampling.width go together; set both or neither.")
    for name in ("height", "width"):
      side = getattr(self, name)
      if side is not None and side % TOKEN:
        raise InputError(f"sampling.{name} is {side}; it must be a multiple of {TOKEN}, "
                         f"e.g. {max(TOKEN, round(side / TOKEN) * TOKEN)}.")

  def with_defaults(self, variant: str) -> "Settings":
    """Returns these settings with the released settings of `variant` in place of None."""
    return typing.cast("Settings", dataclasses.replace(self, **{
        name: value for name, value in variants.of(variant).settings.items() if getattr(self, name) is None}))


if typing.TYPE_CHECKING:
  @dataclasses.dataclass(frozen=True)
  class Settings(SamplingConfig):
    """A `SamplingConfig` without None, the result of `SamplingConfig.with_defaults`, for type checkers."""

    solver: str = ""
    steps: int = 0
    shift: float = 0.0
    solver_shift: float = 0.0
    text_scale: float = 0.0
    audio_scale: float = 0.0
    released_switch: bool = False
    dynamic_text: bool = False
    dynamic_audio: bool = False
    guidance_until: float = 0.0
    png: str = ""
    png_phases: tuple[Phase, ...] = ()
    neg_scale: float = 0.0
    neg_steps: int = 0
    negative_prompt: str = ""
    audio_gain: float = 0.0
    allocation: str = ""
    face_mask: str = ""
    riflex_k: int = 0
    attention: str = ""
    branches: str = ""
    token_blocks: int = 0
    max_frames: int = 0
    max_area: int = 0
    height: int = 0
    width: int = 0
    enlarge: int = 0
else:
  Settings = SamplingConfig


def field_names() -> tuple[str, ...]:
  """Returns the fields whose values are resolved from several sources."""
  return tuple(field.name for field in dataclasses.fields(SamplingConfig) if field.default is None)


@dataclasses.dataclass(frozen=True)
class Config:
  """A complete sampling config, as `configs/*.py` define it.

  Attributes:
    name: name of this config in reports and metadata.
    checkpoint: model folder, or `untrained` for random parameters.
    tokenizer: tokenizer.json to use; empty takes that of the model folder.
    prompt_cache: folder of prompt embeddings; empty turns the cache off.
    prompt_cache_mib: its size limit in MiB; beyond it the least recently used entries are removed.
    mesh: device mesh. The transformer is sharded by every axis, the encoders' weights and the VAE's
      frames over all axes together; with all axes 1 the first device is used.
    program_cache: folder of compiled programs; empty turns the cache off.
    program_cache_mib: what it may take; then it loses what was not used for longest.
    face_detector: ONNX file of OpenCV's YuNet; empty uses BlazeFace and the face mesh.
    seed: seed of the noise if the request has none.
    keep_parts: keep every network loaded between uses instead of freeing it; for small models, and
      for many clips if memory allows.
  """

  name: str
  checkpoint: str = ""
  tokenizer: str = ""
  prompt_cache: str = "~/.cache/emv3_jax/prompts"
  prompt_cache_mib: int = 2048
  program_cache: str = "~/.cache/emv3_jax/programs"
  program_cache_mib: int = 4096
  face_detector: str = ""
  seed: int = 43
  keep_parts: bool = False
  model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
  precision: PrecisionConfig = dataclasses.field(default_factory=PrecisionConfig)
  sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
  mesh: MeshConfig = MeshConfig()

  def __post_init__(self):
    check_ranges("", self, {"seed": SEED, "prompt_cache_mib": AMOUNT,
                            "program_cache_mib": COUNT})
    paths.refuse_addresses(self, ("checkpoint", "tokenizer", "prompt_cache", "program_cache", "face_detector"))

  @property
  def settings(self) -> Settings:
    """Settings of `sampling`, with the released settings of the variant in place of None."""
    return self.sampling.with_defaults(self.model.transformer.variant)


VISUAL_INPUTS = ("image", "last_image", "video")  # fields of a request that name pictures or a video


@dataclasses.dataclass(frozen=True)
class Request:
  """A request for one clip. Paths may be strings.

  Attributes:
    audio: file with the voice, of any container; of a video the sound is used.
    prompt: description of the video; may be empty.
    image: portrait, first frame of the clip (tasks i2v, flf2v).
    last_image: last frame (task flf2v).
    video: source video whose mouth is inpainted (task lipsync).
    task: `i2v`, `t2v`, `flf2v` or `lipsync`.
    face_box: `y1,y2,x1,x2` in pixels of the picture, a `.npy` file of the released scripts, for a video a file
      of boxes by frame (see `face_boxes.read_boxes`), `auto`
      (face detection, an error if there is no face) or `none` (the audio acts everywhere); None stands
      for `auto` if the task uses a face. Only for the preview variant and for lipsync.
    seed: seed of the noise; None takes that of the config.
    negative_prompt: None takes that of the settings; only if text guidance is on.
    negative_prompts: one for each phase of PNG, in place of those of the settings; empty leaves them.
    seconds: length of the audio to use, from its start; None uses all.
    prompts: prompts by time in place of `prompt`: pairs (second, prompt), from second 0 on, each in force until
      the next. A window has the one that is in force in its middle.
    paste: lipsync only: whether pixels outside the mouth region are those of the source; None stands
      for True.

  Raises:
    InputError: a seed out of range, `seconds` that is not a positive finite number, `prompts` out of order, or
      negative prompts in two ways.
  """

  audio: str | pathlib.Path
  prompt: str = ""
  image: str | pathlib.Path | None = None
  last_image: str | pathlib.Path | None = None
  video: str | pathlib.Path | None = None
  task: str = "i2v"
  face_box: str | None = None
  seed: int | None = None
  negative_prompt: str | None = None
  seconds: float | None = None
  paste: bool | None = None
  prompts: TimedPrompts = ()
  negative_prompts: tuple[str, ...] = ()

  def __post_init__(self):
    if self.seed is not None:
      check("seed", self.seed, SEED)
    if self.seconds is not None and not 0 < self.seconds < math.inf:
      raise InputError(f"--seconds={shown(self.seconds)} is not a length of time; give a number above 0.")
    object.__setattr__(self, "prompts", timed_prompts.checked(self.prompts, self.prompt))
    object.__setattr__(self, "negative_prompts", tuple(self.negative_prompts))
    if self.negative_prompts and self.negative_prompt is not None:
      raise InputError("negative_prompt and negative_prompts are given; leave one of them out.")
