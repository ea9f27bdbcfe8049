"""Reads and checks everything a request names, before any network is loaded."""

from collections.abc import Collection
import dataclasses
import os
import pathlib

from absl import logging
import numpy as np

from emv3_jax.conditioning import audio as audio_lib
from emv3_jax.conditioning import face as face_lib
from emv3_jax.conditioning import framing as framing_lib
from emv3_jax.conditioning import image as image_lib
from emv3_jax.conditioning import text as text_lib
from emv3_jax.conditioning.framing import Framing
from emv3_jax.errors import InputError
from emv3_jax.io import audio_files, image_files, paths, video_files
from emv3_jax.sampling import memory
from emv3_jax.sampling.settings import FPS, Config, Request, SamplingConfig
from emv3_jax.tasks import masks
from emv3_jax.tasks.masks import Task

_NEEDS = {"i2v": ("image",), "t2v": (), "flf2v": ("image", "last_image"), "lipsync": ("video",)}
_PICTURES = ("image", "last_image", "video")


@dataclasses.dataclass(frozen=True)
class Inputs:
  """A request's inputs, read, sized and checked. F = sample_frames (4k+1), H, W = size.

  Attributes:
    prompts: `prompt`, and `negative` where guidance uses it.
    tokenizer: for the prompts.
    waveform: float32 [samples] at 16 kHz as the audio encoder takes it.
    sound: (samples float32 [n, channels], rate), the file's own, for the video.
    frames: frames asked for; sampling makes F and drops the surplus.
    video: float32 [F, H, W, 3] in [-1, 1]; what is not known in it is not read.
    known: bool [F] or [F, H, W], frames or pixels that the task gives.
    picture: for CLIP, uint8 [H, W, 3] or float32 in [-1, 1]; None without a picture.
    face_mask: float32 [h*w] where audio acts; None for everywhere.
    source, mouth: lipsync only: uint8 [F, H, W, 3] and bool [F, H, W] of what is redrawn.
  """

  prompts: dict[str, str]
  tokenizer: text_lib.Tokenizer
  waveform: np.ndarray
  sound: tuple[np.ndarray, int]
  frames: int
  sample_frames: int
  size: tuple[int, int]
  video: np.ndarray
  known: np.ndarray
  picture: np.ndarray | None
  face_mask: np.ndarray | None
  seed: int
  source: np.ndarray | None = None
  mouth: np.ndarray | None = None


def read_inputs(request: Request, config: Config, tokenizer_path: pathlib.Path,
                normalise: bool = True) -> Inputs:
  """Reads the files of `request`.

  Args:
    normalise: whether the audio encoder takes waveforms of mean 0 and variance 1; of preview.

  Raises:
    InputError: unknown task, a picture missing or not wanted by it, a file that cannot be used,
      audio that is too short or longer than the config's window, no face.
  """
  flash, settings = config.model.transformer.variant == "flash", config.settings
  check_request(request, config)
  check_files(request)
  seed = config.seed if request.seed is None else request.seed
  samples, rate = audio_files.read_audio(request.audio)
  samples = _first_seconds(samples, rate, request)
  voice = audio_lib.to_voice(samples, rate, request.audio)
  frames = audio_lib.num_frames(voice.seconds)
  sample_frames = audio_lib.sample_frames(frames)
  if sample_frames > settings.max_frames:
    raise InputError(
        f"{request.audio}: {frames / FPS:.2f} s of audio need {sample_frames} frames, one window "
        f"holds {settings.max_frames}; use only the first part with "
        f"--seconds={settings.max_frames / FPS:g}, or raise --config.sampling.max_frames.")
  waveform = (audio_lib.flash_waveform(voice.samples, sample_frames) if flash else
              audio_lib.preview_waveform(voice.samples, sample_frames, normalise))
  prompts = {"prompt": request.prompt}
  if _guided_by_text(flash, settings):
    prompts["negative"] = (settings.negative_prompt if request.negative_prompt is None
                           else request.negative_prompt)
  pictures = {"t2v": _text_only, "lipsync": _lipsync}.get(request.task, _from_images)(
      request, config, frames, sample_frames)
  original, framing = pictures.pop("original", None), pictures.pop("framing", None)
  face_mask = None
  if original is not None and not flash:
    face_mask = _face_mask(request, config, original, framing)
  return Inputs(
      prompts=prompts, tokenizer=text_lib.Tokenizer.load(tokenizer_path),
      waveform=waveform, sound=(samples, rate), frames=frames,
      sample_frames=sample_frames, face_mask=face_mask,
      seed=seed, **pictures)


def named_files(request: Request) -> dict[str, pathlib.Path]:
  """The files that a request names, by its fields."""
  found = {name: getattr(request, name) for name in ("audio", *_PICTURES)}
  if (request.face_box or "").endswith(".npy"):
    found["face_box"] = request.face_box
  return {name: pathlib.Path(path) for name, path in found.items() if path is not None}


def check_files(request: Request, made: Collection[str] = ()) -> None:
  """
  Args:
    made: real paths of files that need not be there yet.

  Raises:
    InputError: a file that a request names is an address, not there, no regular file, or may not be read.
  """
  for name, file in named_files(request).items():
    what = name.replace("_", " ").capitalize()
    paths.refuse_address(getattr(request, name), what)
    if os.path.realpath(file) not in made:
      paths.check_input(file, what)


def check_request(request: Request, config: Config) -> None:
  """Looks at what a request says, and not into its files.

  Raises:
    InputError: an unknown task, a picture missing or not wanted by it, a face box that cannot be, or something
      that would not be used.
  """
  _check_pictures(request)
  _check_used(request, config.model.transformer.variant == "flash", config.settings)
  if request.face_box not in (None, "auto", "none") and not request.face_box.endswith(".npy"):
    face_lib.numbers(request.face_box, optional=request.task != "lipsync")
  if request.face_box == "none" and request.task == "lipsync":
    raise InputError("Task lipsync must know where the mouth is; pass --face_box=y1,y2,x1,x2 or "
                     "auto.")


def _check_pictures(request: Request) -> None:
  task = Task.parse(request.task)
  for name in _PICTURES:
    given, needed = getattr(request, name) is not None, name in _NEEDS[task]
    if needed and not given:
      raise InputError(f"Task {task} needs {name}; pass --{name}=FILE.")
    if given and not needed:
      raise InputError(f"Task {task} does not use {name}; leave --{name} out or choose another "
                       "--task.")


def _guided_by_text(flash: bool, settings: SamplingConfig) -> bool:
  return settings.text_scale > 1 and not flash


def _check_used(request: Request, flash: bool, settings: SamplingConfig) -> None:
  """Refuses what would be read and then not used."""
  task = Task.parse(request.task)
  if request.negative_prompt is not None and not _guided_by_text(flash, settings):
    why = ("flash is not guided by text" if flash else
           f"there is no guidance at sampling.text_scale={settings.text_scale:g}")
    raise InputError(f"The negative prompt would not be used: {why}. Leave --negative_prompt out.")
  if request.face_box not in (None, "none") and task is not Task.LIPSYNC and (
      flash or task is Task.T2V):
    why = "flash has no face mask" if flash else "task t2v has no picture"
    raise InputError(f"The face box would not be used: {why}, the voice acts everywhere. Leave "
                     "--face_box out.")
  if request.paste is not None and task is not Task.LIPSYNC:
    raise InputError(f"Task {task} has no source to paste; leave --no_paste out.")


def _first_seconds(samples: np.ndarray, rate: int, request: Request) -> np.ndarray:
  return samples if request.seconds is None else samples[:round(request.seconds * rate)]


def _size(config: Config, height: int, width: int, frames: int) -> tuple[int, int]:
  settings = config.settings
  size = (settings.height, settings.width) if settings.height else image_lib.sample_size(
      height, width, settings.max_area)
  memory.check(size, frames, settings.enlarge)
  return size


def _text_only(request: Request, config: Config, frames: int, sample_frames: int) -> dict:
  settings = config.settings
  if not settings.height:
    raise InputError("Task t2v has no picture to take the size from; set "
                     "--config.sampling.height and --config.sampling.width.")
  size = _size(config, settings.height, settings.width, sample_frames)
  return {"size": size, "video": np.zeros((sample_frames, *size, 3), np.float32),
          "known": np.zeros(sample_frames, bool), "picture": None}


def _from_images(request: Request, config: Config, frames: int, sample_frames: int) -> dict:
  """First frame, and for flf2v the last: held over the surplus frames that are dropped."""
  original = image_files.load_image(request.image)
  size = _size(config, *original.shape[:2], sample_frames)
  framing = framing_lib.for_sampling(*original.shape[:2], size)
  _tell_crop(request.image, framing, "the size that is set")
  picture = framing.picture(original)
  video = np.zeros((sample_frames, *size, 3), np.float32)
  known = np.zeros(sample_frames, bool)
  video[0], known[0] = image_lib.to_pixels(picture), True
  if request.task == "flf2v":
    last = image_files.load_image(request.last_image)
    like_first = Framing(*last.shape[:2], size, framing.crop[2:])
    _tell_crop(request.last_image, like_first, "the first image")
    video[frames - 1:], known[frames - 1:] = image_lib.to_pixels(like_first.picture(last)), True
  return {"size": size, "video": video, "known": known, "picture": picture, "original": original,
          "framing": framing}


def _tell_crop(path: str, framing: Framing, of_what: str) -> None:
  if not framing.is_whole:
    _, _, height, width = framing.crop
    logging.warning("%s: of its %dx%d pixels the %dx%d in the middle are used, the shape of %s.", path,
                    framing.source_width, framing.source_height, width, height, of_what)


def _lipsync(request: Request, config: Config, frames: int, sample_frames: int) -> dict:
  """Everything known but the mouth region; the CLIP picture has the mouth greyed."""
  read = video_files.read_video(request.video, fps=FPS, max_frames=sample_frames).frames
  if len(read) < frames:
    raise InputError(
        f"{request.video} has {len(read) / FPS:.2f} s of pictures, {request.audio} has "
        f"{frames / FPS:.2f} s of sound; pass --seconds={len(read) / FPS:g} or a longer video.")
  size = _size(config, *read.shape[1:3], sample_frames)
  framing = framing_lib.for_sampling(*read.shape[1:3], size)
  _tell_crop(request.video, framing, "the size that is set")
  read = np.concatenate([read, np.repeat(read[-1:], sample_frames - len(read), axis=0)])
  source = np.stack([framing.picture(frame) for frame in read])
  box = _in_crop(_find_face(request, config, read), framing)
  mouth = np.broadcast_to(face_lib.mouth_region(box, size), (sample_frames, *size))
  known, video = masks.known_pixels(mouth, sample_frames), image_lib.to_pixels(source)
  return {"size": size, "video": video, "known": known, "source": source, "mouth": mouth,
          "picture": masks.masked_video(video[:1], known[:1])[0], "original": read[0],
          "framing": framing}


def _find_face(request: Request, config: Config, pictures: np.ndarray) -> face_lib.FaceBox | None:
  """Face box of a picture [H, W, 3], or the one around the faces of a video [F, H, W, 3]."""
  detector, source = config.face_detector or None, request.face_box or "auto"
  if pictures.ndim == 3:
    if source != "auto" and request.image is not None:  # in pixels of the file, which may be larger
      pictures = np.broadcast_to(np.uint8(0), (*image_files.upright_size(request.image), 3))
    # Lip-sync looks at its first picture again, and has told of all of them.
    first = request.task != "lipsync"
    box = face_lib.parse_face_box(source, pictures, detector, optional=first)
    if source == "auto" and first:
      logging.info("Face found at %s.", box)
    return box
  if source != "auto":
    return face_lib.parse_face_box(source, pictures[0], detector, optional=False)
  looked_at = pictures[np.linspace(0, len(pictures) - 1, num=min(9, len(pictures)), dtype=int)]
  boxes = [face_lib.detect_face(frame, detector) for frame in looked_at]
  around = dataclasses.replace(
      boxes[0], y1=min(box.y1 for box in boxes), y2=max(box.y2 for box in boxes),
      x1=min(box.x1 for box in boxes), x2=max(box.x2 for box in boxes))
  logging.info("Faces found in %d pictures of %s, all within %s.", len(boxes), request.video, around)
  return around


def _in_crop(box: face_lib.FaceBox, framing: Framing) -> face_lib.FaceBox:
  return box if framing.is_whole else framing.box(box)


def _face_mask(request: Request, config: Config, original: np.ndarray,
               framing: Framing) -> np.ndarray | None:
  box = _find_face(request, config, original)
  return None if box is None else face_lib.face_mask(
      _in_crop(box, framing), framing.size, optional=request.task != "lipsync")
