"""Sampling of one clip, from a request to frames. Networks are loaded, used and freed in turn."""

from collections.abc import Callable, Iterator
import dataclasses
import pathlib
import time

from absl import logging
from jaxtyping import Float32
import numpy as np

from emv3_jax import geometry, tasks, variants
from emv3_jax.conditioning import image as image_lib
from emv3_jax.conditioning import text as text_lib
from emv3_jax.conditioning.colour_match import ColourMatch
from emv3_jax.conditioning.face import NoFace
from emv3_jax.errors import InputError
from emv3_jax.geometry import FPS
from emv3_jax.io import paths
from emv3_jax.io.digests import file_digest
from emv3_jax.runtime import processes, start_up
from emv3_jax.sampling import fingerprint, long_clip, long_plan, memory, one_window, timed_prompts
from emv3_jax.sampling.denoise import Conditions
from emv3_jax.sampling.inputs import Inputs, named_files, read_inputs
from emv3_jax.sampling.length_buckets import extended, padded_latents
from emv3_jax.sampling.long_plan import LongPlan
from emv3_jax.sampling.model import Model
from emv3_jax.sampling.profile import Profile, versions
from emv3_jax.sampling.settings import Request
from emv3_jax.sampling.streaming import Finish, Group, Stream, decode_groups, finished
from emv3_jax.sampling.window_conditions import Encoded
from emv3_jax.sharding.mesh import degree
from emv3_jax.tasks import TaskSpec, masks

LENGTH_STEP = 64  # prompts are encoded with a multiple of this number of tokens


@dataclasses.dataclass(frozen=True, repr=False)
class Clip:
  """A finished clip.

  Attributes:
    frames: uint8 [F, H, W, 3].
    fps: frames a second.
    sound: (samples float32 [n, channels], rate) as in the request's audio file.
    latents: float32 [f, H/8, W/8, 16], before decoding, surplus frames included.
    report: fingerprint and digests of the networks, request, sha256 of its files, config, seed,
      versions, seconds and peak memory of each part, of a long clip its windows in `long`, and in
      `start_up` the seconds since the start of the process by kind of work; can be written as JSON.
    overlaps: (first frame, first frame after) of what two windows share, in order; none for one window.
  """

  frames: np.ndarray
  fps: int
  sound: tuple[np.ndarray, int]
  latents: np.ndarray
  report: dict
  overlaps: tuple[tuple[int, int], ...] = ()

  @property
  def num_frames(self) -> int:
    """Number of frames F."""
    return len(self.frames)

  @property
  def size(self) -> tuple[int, int]:
    """(H, W) of a frame in pixels."""
    return self.frames.shape[1:3]

  def __repr__(self) -> str:
    frames, height, width, _ = self.frames.shape
    samples, rate = self.sound
    return (f"Clip({frames} frames of {width}x{height} at {self.fps} a second, "
            f"{len(samples) / rate:.2f} s of sound at {rate} Hz)")


def sample(model: Model, request: Request, *, progress: Callable | None = None) -> Clip:
  """Samples the clip of `request`.

  Args:
    model: from `load`.
    request: the clip to sample.
    progress: wraps the iterator of solver steps, e.g. a `tqdm`.

  Raises:
    InputError: the request or one of its files cannot be used. All files are read and checked before
      the first network is loaded.
  """
  made = stream(model, request, progress=progress)
  memory.check_frames(made.size, made.num_frames)
  frames, begin = np.empty((made.num_frames, *made.size, 3), np.uint8), 0
  for group in made:
    frames[begin:begin + len(group)] = group
    begin += len(group)
  return Clip(frames=frames, fps=made.fps, sound=made.sound, latents=made.latents, report=made.report,
              overlaps=made.overlaps)


def stream(model: Model, request: Request, *, progress: Callable | None = None) -> Stream:
  """Samples the clip of `request` group by group: `for frames in stream(model, request)`.

  The call reads and checks the inputs. The clip is sampled when the first frames are asked for, and
  decoded a group at a time.

  Args: as of `sample`.

  Raises:
    InputError: as of `sample`.
  """
  start_up.watch()
  began, profile = time.monotonic(), Profile()
  with profile.measure("inputs"):
    inputs, used = processes.run_on_all(lambda: read(model, request))
    plan = long_plan.plan(model.config.settings, inputs.sample_frames, degree(model.mesh, "batch"))
    timed_prompts.warn_of_unused(inputs.prompt_times, [(0, inputs.frames)] if plan is None else plan.described()["windows"])
    provenance = processes.run_on_all(lambda: fingerprint.provenance(model, request))
    files = {name: file_digest(path) for name, path in named_files(request).items()}
  made = generate(model, inputs, plan, tasks.of(request.task), profile, progress or iter)
  inputs = inputs.without_waveform()
  groups = finished(made, inputs.frames, _finish(model, request, inputs, plan))
  return Stream(groups, fps=FPS, num_frames=inputs.frames, size=inputs.size, sound=inputs.sound, began=began,
                overlaps=() if plan is None else plan.overlaps(inputs.frames),
                describe=lambda: {**provenance, **_describe(model, used, files, inputs, profile),
                                  **({"long": plan.described()} if plan else {})})


def _finish(model: Model, request: Request, inputs: Inputs, plan: LongPlan | None) -> Finish:
  """Returns what is done to groups of decoded frames: colour matching of long clips, post-processing of the task."""
  postprocess = tasks.of(request.task).postprocess
  match = ColourMatch() if plan is not None and model.config.settings.long.match_colour else None

  def finish(frames: np.ndarray, begin: int) -> np.ndarray:
    frames = frames if match is None else match(frames)
    if postprocess is None or request.paste is False:
      return frames
    assert inputs.mouth_mask is not None  # it is there for a task with post-processing
    stop = begin + len(frames)
    return postprocess(frames, inputs.video.pixels(begin, stop), inputs.mouth_mask[begin:stop])

  return finish


def generate(model: Model, inputs: Inputs, plan: LongPlan | None, task: TaskSpec, profile: Profile,
             progress: Callable) -> Iterator[Group]:
  """Generates the frames of a clip as soon as they are final, surplus frames included."""
  encoded = encode(model, inputs, profile)
  inputs = inputs.without_waveform()
  if plan is not None:
    yield from long_clip.generate(model, inputs, encoded, plan, task, profile, progress)
    return
  conditions = window_conditions(model, inputs, encoded, profile)
  with profile.measure("transformer"):
    latents = one_window.denoise(model, inputs, conditions, profile, progress)
  yield from decode_groups(model, latents, profile)


def encode(model: Model, inputs: Inputs, profile: Profile) -> Encoded:
  """Encodes prompts, voice and picture of a clip."""
  with profile.measure("text_encoder"):
    text = encode_text(model, inputs)
  with profile.measure("audio_encoder"):
    features = encode_features(model, inputs)
  with profile.measure("image_encoder"):
    image = encode_image(model, inputs)
  return Encoded(text, features, image)


def window_conditions(model: Model, inputs: Inputs, encoded: Encoded, profile: Profile) -> Conditions:
  """Returns the conditions of a clip of one window, for which the VAE encodes the given frames."""
  with profile.measure("vae_encode"):
    condition = encode_condition(model, inputs)
  return one_window.conditions_of(model, inputs, encoded, condition)


def read(model: Model, request: Request) -> tuple[Inputs, Request]:
  """Reads the inputs, and returns the request that they are of.

  The small default knows drawn puppets, of which a detector may find no face: where nobody asked for a face
  box and its task can do without one, the voice acts on the whole picture, as `none` says, with a warning.
  """
  try:
    inputs = read_inputs(request, model.config, model.tokenizer_path, model.normalises_waveform)
  except NoFace as error:
    hint = model.face_box_hint(error.size)
    if not hint or request.face_box is not None or tasks.of(request.task).inpaints_mouth:
      raise NoFace(f"{error}{hint}", error.size) from None
    logging.warning("No face was found in %s: not every drawn face is known. The voice acts on the whole "
                    "picture.%s", request.image, hint)
    return read(model, dataclasses.replace(request, face_box="none"))
  model.check_size(inputs.size)
  return inputs, request


def encode_text(model: Model, inputs: Inputs) -> dict[str, np.ndarray]:
  """Encodes the prompts: umT5 states, float32 [1, text_tokens, text_dim], zeros after the last token.

  Equal prompts are encoded once. Embeddings are cached on disk by content; the text encoder is loaded only for
  prompts that are not cached.
  """
  length, dim = model.config.model.transformer.text_tokens, model.config.model.transformer.text_dim
  cache = open_cache(model)
  cached = {prompt: cache.get(prompt) if cache else None for prompt in inputs.prompts.values()}
  missing = [prompt for prompt in cached if processes.any_process(cached[prompt] is None)]
  states = {prompt: state for prompt, state in cached.items() if state is not None}
  if missing:
    ids, mask = inputs.tokenizer.tokenize(missing, length)
    # Padding is masked, so that less padding gives the same states; few lengths need few programs.
    used = min(length, -(-int(mask.sum(axis=1).max()) // LENGTH_STEP) * LENGTH_STEP)
    hidden = model.encode_tokens(ids[:, :used], mask[:, :used])
    for row, prompt in enumerate(missing):
      states[prompt] = hidden[row, mask[row, :used]]
      if cache:
        cache.put(prompt, states[prompt])
  padded = {name: np.zeros((1, length, dim), np.float32) for name in inputs.prompts}
  for name, prompt in inputs.prompts.items():
    padded[name][0, :len(states[prompt])] = states[prompt]
  return padded


def open_cache(model: Model) -> text_lib.PromptCache | None:
  """Opens the prompt cache of the config; its digest covers all that an embedding depends on."""
  config = model.config
  if not config.prompt_cache:
    return None
  digest = repr((model.digest("text_encoder"), config.model.text_encoder,
                 file_digest(model.tokenizer_path), config.model.transformer.text_tokens))
  try:
    folder = paths.expanded(config.prompt_cache)
  except InputError as error:
    logging.log_first_n(logging.WARNING, "Embeddings of prompts are not cached: %s", 1, error)
    return None
  return text_lib.PromptCache(folder, digest,
                              repr(config.precision.text_encoder), config.prompt_cache_mib << 20)


def encode_audio(model: Model, inputs: Inputs) -> np.ndarray:
  """Encodes the audio of the whole padded clip, e.g. for preview [1, 2F, d]; see `Variant.network_input`."""
  variant = variants.of(model.config.model.transformer.variant)
  return variant.network_input(encode_features(model, inputs))[None]


def encode_features(model: Model, inputs: Inputs) -> np.ndarray:
  """Computes wav2vec2 features of the whole padded clip, one row for each feature; see `Variant`."""
  variant = variants.of(model.config.model.transformer.variant)
  with model.parameters("audio_encoder") as params:
    return model.encode_audio(params, inputs.waveform[None], **variant.encoder_options(inputs.sample_frames),
                              in_pieces=model.config.settings.length_buckets > 0)[0]


def encode_image(model: Model, inputs: Inputs) -> np.ndarray:
  """Encodes the reference image: CLIP states [1, image_tokens, image_dim], zeros for a task without one."""
  config = model.config.model.transformer
  if inputs.reference_image is None:
    return np.zeros((1, config.image_tokens, config.image_dim), np.float32)
  with model.parameters("image_encoder") as params:
    return model.encode("image_encoder", params, image_lib.clip_vision_pixels(inputs.reference_image)[None])


def encode_condition(model: Model, inputs: Inputs) -> Float32[np.ndarray, "1 f H8 W8 20"]:
  """Encodes the condition: mask channels and latents of the masked video; all zero for t2v."""
  mask = masks.mask_latents(inputs.condition_mask, inputs.size)
  if not inputs.condition_mask.any():
    return np.asarray(masks.condition(mask, None))[None]
  video = masks.masked_video(inputs.video.video(), inputs.condition_mask)[None]
  size = geometry.frames_of(padded_latents(model.config.settings, len(mask)))
  with model.parameters("vae") as params:
    latents = model.vae_encode(params, extended(video, 1, size))[:, :len(mask)]
  return np.asarray(masks.condition(mask[None], latents))


def _describe(model: Model, request: Request, files: dict[str, str], inputs: Inputs,
              profile: Profile) -> dict:
  plain = lambda value: str(value) if isinstance(value, pathlib.Path) else value
  return {
      "request": {name: plain(value) for name, value in dataclasses.asdict(request).items()},
      "files": files,
      "seed": inputs.seed,
      "frames": inputs.frames,
      "size": {"height": inputs.size[0], "width": inputs.size[1]},
      "config": dataclasses.asdict(model.config),
      "origins": model.resolved.origins,
      "mismatches": model.resolved.mismatches,
      "versions": versions(),
      "start_up": start_up.spent(),
      **profile.as_dict(),
  }
