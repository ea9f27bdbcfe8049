"""Reads and checks all inputs of a request, before any network is loaded."""

from collections.abc import Collection
import dataclasses
import os
import pathlib

from absl import logging
import numpy as np

from emv3_jax import geometry, tasks, variants
from emv3_jax.conditioning import audio as audio_lib
from emv3_jax.conditioning import face as face_lib
from emv3_jax.conditioning import face_boxes
from emv3_jax.conditioning import framing as framing_lib
from emv3_jax.conditioning import image as image_lib
from emv3_jax.conditioning import text as text_lib
from emv3_jax.conditioning.framing import Framing
from emv3_jax.errors import InputError
from emv3_jax.geometry import FPS
from emv3_jax.io import audio_files, image_files, paths, video_files
from emv3_jax.sampling import faces, guidance_settings, long_plan, memory, timed_prompts
from emv3_jax.sampling.given_frames import GivenFrames
from emv3_jax.sampling.settings import VISUAL_INPUTS, Config, Request, Settings
from emv3_jax.tasks import ReferenceImage, TaskSpec, masks
from emv3_jax.variants import Variant


@dataclasses.dataclass(frozen=True)
class Inputs:
  """Inputs of a request, read, resized and checked. F = sample_frames (4k+1), (H, W) = size.

  Attributes:
    prompts: by `timed_prompts.names`, and the negative ones that guidance uses by `negative_phases.name_of`.
    prompt_times: beginnings in seconds of all but the negative ones.
    tokenizer: for the prompts.
    waveform: float32 [samples] at 16 kHz, input of the audio encoder.
    sound: (samples float32 [n, channels], rate) of the audio file, for the output video.
    frames: number of requested frames; F frames are sampled and the surplus is dropped.
    video: its pictures for [F, H, W, 3].
    condition_mask: bool [F] or [F, H, W], True for frames or pixels that the request gives.
    reference_image: input of the image encoder (CLIP), uint8 [H, W, 3] or float32 in [-1, 1]; None
      without a picture.
    face_mask: float32 [h*w], or [h*w, f] by latent frame, 1 where the audio acts; None for everywhere.
    mouth_mask: bool [F, H, W], True in the inpainted region; only for a task that inpaints the mouth.
    face_tokens: uint16 [F, 4], the token boxes that `face_mask` is made of, see `tasks.face_masks`; None likewise.
  """

  prompts: dict[str, str]
  tokenizer: text_lib.Tokenizer
  waveform: np.ndarray
  sound: tuple[np.ndarray, int]
  frames: int
  sample_frames: int
  size: tuple[int, int]
  video: GivenFrames
  condition_mask: np.ndarray
  reference_image: np.ndarray | None
  face_mask: np.ndarray | None
  seed: int
  prompt_times: tuple[float, ...] = (0.0,)
  mouth_mask: np.ndarray | None = None
  face_tokens: np.ndarray | None = None

  def without_waveform(self) -> "Inputs":
    """Returns what is needed once the voice is encoded: a waveform may be as large as the sound."""
    return dataclasses.replace(self, waveform=np.zeros(0, np.float32))


def read_inputs(request: Request, config: Config, tokenizer_path: pathlib.Path,
                normalise: bool = True) -> Inputs:
  """Reads the files of `request`.

  Args:
    request: the clip to sample.
    config: the sampling config.
    tokenizer_path: file of the tokenizer.
    normalise: `do_normalize` of the audio encoder's feature extractor, see `Variant.waveform`.

  Raises:
    InputError: the task is unknown, a picture is missing or not used by the task, a file cannot be
      used, the audio is too short, window and overlap do not fit each other, or no face is found.
  """
  task, variant = tasks.of(request.task), variants.of(config.model.transformer.variant)
  settings = config.settings
  check_request(request, config)
  check_files(request)
  seed = config.seed if request.seed is None else request.seed
  samples, rate = audio_files.read_audio(request.audio)
  samples = _first_seconds(samples, rate, request)
  voice = audio_lib.to_voice(samples, rate, request.audio)
  frames = audio_lib.num_frames(voice.seconds)
  sample_frames = geometry.sample_frames(frames)
  is_long = long_plan.is_long(settings, sample_frames)  # window and overlap fit each other
  prompts = dict(zip(timed_prompts.names(len(request.prompts) or 1),
                     [text for _, text in request.prompts] or [request.prompt], strict=True))
  prompts |= guidance_settings.negative_prompts(
      settings, variant.name, request, settings.long.mode if is_long else "blended")
  pictures = _read_pictures(request, config, task, frames, sample_frames)
  return Inputs(
      prompts=prompts, tokenizer=text_lib.Tokenizer.load(tokenizer_path),
      waveform=variant.waveform(voice.samples, sample_frames, normalise),
      sound=(samples, rate), frames=frames, sample_frames=sample_frames, seed=seed,
      prompt_times=tuple(begin for begin, _ in request.prompts) or (0.0,), **pictures)


def num_frames(request: Request) -> int:
  """Returns the number of video frames that a request asks for.

  Raises:
    InputError: the audio cannot be read.
  """
  samples, rate = audio_files.read_audio(request.audio)
  return audio_lib.num_frames(len(_first_seconds(samples, rate, request)) / rate)


def named_files(request: Request) -> dict[str, pathlib.Path]:
  """Returns the files that a request names, by field."""
  found = {name: getattr(request, name) for name in ("audio", *VISUAL_INPUTS)}
  if face_boxes.is_file(request.face_box or ""):
    found["face_box"] = request.face_box
  return {name: pathlib.Path(path) for name, path in found.items() if path is not None}


def check_files(request: Request, made: Collection[str] = ()) -> None:
  """Checks that the files of a request can be opened.

  Args:
    request: the clip to sample.
    made: real paths of files that may still be missing because an earlier job writes them.

  Raises:
    InputError: a file is an address, is missing, is not a regular file, or is not readable.
  """
  for name, file in named_files(request).items():
    what = name.replace("_", " ").capitalize()
    paths.refuse_address(getattr(request, name), what)
    if os.path.realpath(file) not in made:
      paths.check_input(file, what)


def check_request(request: Request, config: Config) -> None:
  """Checks the fields of a request without opening its files.

  Raises:
    InputError: the task is unknown, a picture is missing or not used by the task, the face box is
      impossible, or a field would have no effect.
  """
  task = tasks.of(request.task)
  _check_pictures(request, task)
  _check_used(request, task, variants.of(config.model.transformer.variant), config.settings)
  if request.face_box not in (None, "auto", "none") and not face_boxes.is_file(request.face_box):
    face_lib.parse_numbers(request.face_box, optional=not task.inpaints_mouth)
  if request.face_box == "none" and task.inpaints_mouth:
    raise InputError(f"Task {task.name} needs the position of the mouth; pass --face_box=y1,y2,x1,x2 or auto.")


def _check_pictures(request: Request, task: TaskSpec) -> None:
  for name in VISUAL_INPUTS:
    given, needed = getattr(request, name) is not None, name in task.inputs
    if needed and not given:
      raise InputError(f"Task {task.name} needs {name}; pass --{name}=FILE.")
    if given and not needed:
      raise InputError(f"Task {task.name} does not use {name}; leave --{name} out or choose another "
                       "--task.")


def uses_face_box(task: TaskSpec, variant: Variant) -> bool:
  """Returns whether the face box has an effect."""
  return task.inpaints_mouth or task.uses_face and variant.face_mask


def looks_for_faces(task: TaskSpec, variant: Variant) -> bool:
  """Returns whether it can have an effect that face masks move: faces of more than the first picture count."""
  return uses_face_box(task, variant) and (task.inpaints_mouth or len(task.condition_inputs) > 1)


def _check_used(request: Request, task: TaskSpec, variant: Variant, settings: Settings) -> None:
  """Raises InputError for a field that would have no effect."""
  guidance_settings.check_negative_prompts(settings, variant.name, request)
  if request.face_box not in (None, "none") and not uses_face_box(task, variant):
    why = (f"{variant.name} has no face mask" if not variant.face_mask else
           f"task {task.name} looks for no face" if task.inputs else f"task {task.name} has no picture")
    raise InputError(f"The face box would not be used: {why}, the voice acts everywhere. Leave "
                     "--face_box out.")
  if request.paste is not None and task.postprocess is None:
    raise InputError(f"Task {task.name} has no source to paste; leave --no_paste out.")


def _first_seconds(samples: np.ndarray, rate: int, request: Request) -> np.ndarray:
  return samples if request.seconds is None else samples[:round(request.seconds * rate)]


def _size(config: Config, height: int, width: int, frames: int, given: int) -> tuple[int, int]:
  """Returns (H, W) of a clip of `frames` frames, of which the request gives `given`."""
  settings = config.settings
  size = (settings.height, settings.width) if settings.height else image_lib.sample_size(
      height, width, settings.max_area)
  memory.check(size, frames, settings.enlarge, window=settings.long.window_frames(settings.max_frames), given=given)
  return size


def _read_pictures(request: Request, config: Config, task: TaskSpec, frames: int,
                   sample_frames: int) -> dict:
  """Reads the task's condition inputs; a picture at the end of the clip is repeated over the surplus frames.

  Returns:
    Fields of `Inputs`.
  """
  if not task.condition_inputs:
    size = _set_size(config, task, sample_frames)
    return {"size": size, "video": GivenFrames(sample_frames, size),
            "condition_mask": task.condition_mask(frames, sample_frames),
            "reference_image": None, "face_mask": None}
  first = _read(request, task.condition_inputs[0].request_field, frames, sample_frames)
  _, height, width, _ = first.shape
  size = _size(config, height, width, sample_frames, sample_frames if len(first) > 1 else 2)
  framing = framing_lib.for_sampling(height, width, size)
  seen = []
  video = GivenFrames(sample_frames, size)
  for index, item in enumerate(task.condition_inputs):
    read, current = first, framing
    if index:
      read = _read(request, item.request_field, frames, sample_frames)
      current = Framing(read.shape[1], read.shape[2], size, framing.crop[2:])
    seen.append(faces.Seen(item, read, current))
    _warn_of_crop(getattr(request, item.request_field), current,
                  "the size that is set" if current is framing else "the first image")
    picture = current.picture(read[0])
    for number in range(sample_frames)[item.frames(frames, sample_frames)]:
      video.put(number, picture if len(read) == 1 else current.picture(read[number]))
  face = faces.Face(request, config, task, seen, frames, sample_frames)
  mouth_mask = face.mouth_mask() if task.inpaints_mouth else None
  condition_mask = task.condition_mask(frames, sample_frames, mouth_mask)
  fields = {"size": size, "video": video, "condition_mask": condition_mask, "reference_image": None,
            "face_mask": None}
  variant = variants.of(config.model.transformer.variant)
  if task.uses_face and variant.face_mask:
    fields["face_tokens"], fields["face_mask"] = face.audio_mask()
  if task.reference_image is ReferenceImage.FIRST:
    fields["reference_image"] = framing.picture(first[0])
  elif task.reference_image is ReferenceImage.FIRST_MASKED:
    fields["reference_image"] = masks.masked_video(video.video(0, 1), condition_mask[:1])[0]
  if task.inpaints_mouth:
    fields["mouth_mask"] = mouth_mask
  return fields


def _set_size(config: Config, task: TaskSpec, frames: int) -> tuple[int, int]:
  settings = config.settings
  if not settings.height:
    raise InputError(f"Task {task.name} has no picture to take the size from; set "
                     "--config.sampling.height and --config.sampling.width.")
  return _size(config, settings.height, settings.width, frames, 0)


def _read(request: Request, name: str, frames: int, sample_frames: int) -> np.ndarray:
  """Reads a picture, uint8 [1, h, w, 3], or a video, uint8 [F, h, w, 3], its last frame repeated."""
  path = getattr(request, name)
  if name != "video":
    return image_files.load_image(path)[None]
  read = video_files.read_video(path, fps=FPS, max_frames=sample_frames + 1).frames
  if len(read) > sample_frames:
    logging.info("%s has more pictures than the %.2f s of sound of %s; the rest is not used.", path, frames / FPS,
                 request.audio)
    read = read[:sample_frames]
  if len(read) < frames:
    raise InputError(
        f"{path} has {len(read) / FPS:.2f} s of pictures, {request.audio} has "
        f"{frames / FPS:.2f} s of sound; pass --seconds={len(read) / FPS:g} or a longer video.")
  return np.concatenate([read, np.repeat(read[-1:], sample_frames - len(read), axis=0)])


def _warn_of_crop(path: str, framing: Framing, reason: str) -> None:
  if not framing.is_whole:
    _, _, height, width = framing.crop
    logging.warning("%s: of its %dx%d pixels the %dx%d in the middle are used, the shape of %s.", path,
                    framing.source_width, framing.source_height, width, height, reason)
