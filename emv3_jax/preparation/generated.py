"""Generated clips: clips that the model sampled, one window each, with the task and conditions of sampling.

Their report tells the request. Its files are read, sized and encoded by the functions of sampling, so that
the record holds the portrait itself and the voice that drove it, not what the video shows of them.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import pathlib

import numpy as np

from emv3_jax import geometry
from emv3_jax.conditioning import image as image_lib
from emv3_jax.data import index as index_lib
from emv3_jax.data.records import Record
from emv3_jax.errors import InputError
from emv3_jax.geometry import FRAMES
from emv3_jax.io import video_files
from emv3_jax.io.digests import file_digest
from emv3_jax.models.network import Params
from emv3_jax.preparation.manifest import Clip
from emv3_jax.preparation.reports import ClipReport, read_report
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling import clip as clip_lib
from emv3_jax.sampling.given_frames import GivenFrames
from emv3_jax.sampling.inputs import Inputs, named_files, read_inputs
from emv3_jax.sampling.model import Model
from emv3_jax.sampling.output import latents_path
from emv3_jax.tasks import face_masks
from emv3_jax.variants import Variant

ENCODERS = ("vae", "text_encoder", "image_encoder", "audio_encoder")


@dataclasses.dataclass(frozen=True, eq=False)
class GeneratedClip:
  """A clip of the model's own that can be used.

  Attributes:
    clip: line of the manifest, with the prompt of the request.
    report: the report.
    inputs: inputs of the request, without video and condition mask.
    latents: file with the sampled latents; None if they were not saved.
  """

  clip: Clip
  report: ClipReport
  inputs: Inputs
  latents: pathlib.Path | None

  @property
  def size(self) -> tuple[int, int]:
    return self.report.size

  @property
  def transformer(self) -> str:
    """Digest of the weights that generated the clip; empty if the report has none."""
    return str(self.report.networks.get("transformer") or "")


def read_generated(clip: Clip, settings: PrepareConfig, model: Model) -> GeneratedClip:
  """Reads and checks a clip, its report and all files that the report names.

  Raises:
    InputError: a file is missing, damaged or has changed since sampling; the clip has a size that no window
      has, is shorter than a window, or is of another model.
  """
  report = read_report(_report_of(clip))
  latents = latents_path(clip.video) if report.latents else None
  _check_model(report, model)
  _check_window(clip, report, settings, latents)
  _check_files(clip, report)
  if latents is not None:
    _read_latents(latents, report)
  inputs = _read_inputs(report, model)
  moves = inputs.face_mask is not None and inputs.face_mask.ndim > 1
  if moves and settings.face_mask == face_masks.RELEASED:
    raise InputError(f"Clip {clip.id} was sampled with a face mask that moves, which records of "
                     "prepare.face_mask=released do not hold; set --config.prepare.face_mask=moving.")
  light = dataclasses.replace(inputs, video=GivenFrames(0, inputs.size), condition_mask=np.zeros(0), mouth_mask=None)
  return GeneratedClip(dataclasses.replace(clip, prompt=report.request.prompt), report, light, latents)


def files_of(clip: Clip) -> list[pathlib.Path]:
  """Returns all files that a line with a report depends on, as far as they are known."""
  files = [clip.video, _report_of(clip), latents_path(clip.video)]
  try:
    return files + list(named_files(read_report(_report_of(clip)).request).values())
  except InputError:
    return files


def _report_of(clip: Clip) -> pathlib.Path:
  assert clip.report is not None  # a line of a generated clip has a report
  return clip.report


def encode_states(model: Model, clips: Sequence[GeneratedClip]) -> list[tuple[np.ndarray, np.ndarray]]:
  """Encodes each clip to (CLIP states [image_tokens, image_dim], audio features [n, ...] of all sampled frames)."""
  with _loaded(model, "image_encoder"):
    images = [clip_lib.encode_image(model, clip.inputs)[0] for clip in clips]
  with _loaded(model, "audio_encoder"):
    sounds = [clip_lib.encode_features(model, clip.inputs) for clip in clips]
  return list(zip(images, sounds, strict=True))


def encode_pictures(model: Model, clips: Sequence[GeneratedClip], frames: int
                    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """(latents [f, h8, w8, 16], condition latents [f, h8, w8, 20]) of the first `frames` frames of each clip.

  The latents are the saved ones, the exact samples of the model. If they were not saved, the VAE encodes
  the written video.
  """
  with _loaded(model, "vae") as params:
    for clip in clips:
      inputs = _read_inputs(clip.report, model)
      # The VAE is causal: frames after the cut do not change the latents before it.
      inputs = dataclasses.replace(inputs, video=inputs.video.first(frames),
                                   condition_mask=inputs.condition_mask[:frames])
      yield _latents(model, params, clip, frames), clip_lib.encode_condition(model, inputs)[0]


def make_record(clip: GeneratedClip, settings: PrepareConfig, latents: np.ndarray, condition: np.ndarray,
                text: np.ndarray, image: np.ndarray, audio: np.ndarray, variant: Variant) -> Record:
  """Makes the record of the first `settings.frames` frames of a clip; `text` is without padding."""
  mask = condition[..., :FRAMES].astype(np.uint8)
  tokens, task = geometry.token_grid(clip.size), clip.report.task
  face = _face(clip, settings.frames, tokens, settings.face_mask)
  mouth = 1 - mask[..., 0] if task.inpaints_mouth else np.zeros_like(mask[..., 0])
  return Record(
      id=clip.clip.id, index=0, start=0, caption=clip.clip.prompt, source=clip.report.video,
      task=task.name, latents=latents, masked_latents=condition[None, ..., FRAMES:],
      task_mask=mask, mouth_mask=mouth,
      text=text, image=image[None], audio=variant.crop_features(audio, 0, settings.frames), **face)


def _face(clip: GeneratedClip, frames: int, grid: tuple[int, int], setting: str) -> dict:
  """Returns the record's face: where the audio acted in sampling, and all tokens where it acted everywhere."""
  boxes, mask = clip.inputs.face_tokens, clip.inputs.face_mask
  if setting == face_masks.MOVING:
    everywhere = np.array([0, grid[0], 0, grid[1]], np.uint16)
    return {"face_mask": None, "face_box": np.array(np.broadcast_to(everywhere, (frames, 4)) if boxes is None
                                                    else boxes[:frames])}
  return {"face_mask": (np.ones(grid) if mask is None else mask.reshape(grid)).astype(np.uint8)}


def _check_model(report: ClipReport, model: Model) -> None:
  wanted = index_lib.condition_fields(model.config.model.transformer)
  found = {name: report.transformer.get(name) for name in wanted}
  faults = config_lib.differences(found, wanted)
  for name in ENCODERS:
    digest = report.networks.get(name)
    if digest and digest != model.digest(name):
      faults.append(f"weights of {name}")
  if report.tokenizer and report.tokenizer != file_digest(model.tokenizer_path):
    faults.append("tokenizer")
  if faults:
    raise InputError(f"Report {report.path} is of a clip of another model (report != these encoders): "
                     f"{'; '.join(faults)}. Prepare it with the config and checkpoint that generated it.")


def _check_window(clip: Clip, report: ClipReport, settings: PrepareConfig,
                  latents: pathlib.Path | None) -> None:
  if report.size not in settings.sizes:
    height, width = report.size
    raise InputError(f"Video {clip.video} was sampled at {width}x{height} pixels and no window has that "
                     f"size; add ({height}, {width}) to --config.prepare.sizes.")
  sampled = geometry.sample_frames(report.frames)
  available = report.frames if latents is None else sampled  # saved latents have the surplus frames too
  if available < settings.frames:
    shorter = geometry.whole_frames(available)
    advice = f"set --config.prepare.frames={shorter}" if shorter > 1 else "make it longer"
    if sampled >= settings.frames:
      advice += ", or sample it with --save_latents, which keeps the frames that were dropped"
    raise InputError(f"Video {clip.video} is too short: it has {report.frames} frames, a window takes "
                     f"{settings.frames}; {advice}.")
  for item in report.task.condition_inputs:
    if item.request_field != "video" and item.frames(report.frames, sampled).stop > settings.frames:
      raise InputError(f"Video {clip.video} is too long: of its {report.frames} frames a window takes "
                       f"{settings.frames}, without the {item.request_field.replace('_image', ' picture')} that "
                       f"{report.task.name} was given; set --config.prepare.frames={sampled}.")


def _check_files(clip: Clip, report: ClipReport) -> None:
  for name, path in named_files(report.request).items():
    label = f"Report {report.path}: its {name} {path}"
    if not path.is_file():
      raise InputError(f"{label} is not there; a relative path is looked for from the current folder, "
                       "as it was in sampling.")
    if file_digest(path) != report.files.get(name):
      raise InputError(f"{label} has changed since the clip was sampled.")
  if file_digest(clip.video) != report.video:
    raise InputError(f"Video {clip.video} is not the one of its report {report.path}, or has "
                     "changed since; sample it again.")


def _read_inputs(report: ClipReport, model: Model) -> Inputs:
  """Reads the inputs of sampling at the sampled size. Records do not hold the negative prompt."""
  settings = dataclasses.replace(
      model.config.sampling, height=report.size[0], width=report.size[1], text_scale=1.0, released_switch=True,
      max_frames=geometry.sample_frames(report.frames), face_mask=report.face_mask)
  config = dataclasses.replace(model.config, seed=report.seed, face_detector=report.face_detector,
                               sampling=settings)
  try:
    inputs = read_inputs(dataclasses.replace(report.request, negative_prompt=None, negative_prompts=()), config,
                         model.tokenizer_path, model.normalises_waveform)
  except InputError as error:
    raise InputError(f"Report {report.path}: {error}") from None
  if inputs.frames != report.frames:
    raise InputError(f"Report {report.path} tells of {report.frames} frames, its audio "
                     f"{report.request.audio} makes {inputs.frames}: it has changed since.")
  return inputs


def _latents(model: Model, params: Params, clip: GeneratedClip, frames: int) -> np.ndarray:
  if clip.latents is not None:
    return np.array(_read_latents(clip.latents, clip.report)[:geometry.latent_frames(frames)])
  pictures = video_files.read_video(clip.clip.video, geometry.FPS, frames).frames
  if pictures.shape[1:3] != clip.size:  # they were written larger
    pictures = image_lib.resize_lanczos(pictures, clip.size)
  return model.vae_encode(params, image_lib.to_pixels(pictures)[None])[0]


def _read_latents(path: pathlib.Path, report: ClipReport) -> np.ndarray:
  length = geometry.latent_frames(geometry.sample_frames(report.frames))
  shape = (length, *geometry.latent_size(report.size), geometry.CHANNELS)
  if file_digest(path) != report.latents:
    raise InputError(f"Latents {path} are not those of the report {report.path}, or have "
                     "changed since; sample the clip again.")
  latents = np.load(path, mmap_mode="r", allow_pickle=False)
  if latents.shape != shape or latents.dtype != np.float32 or not np.isfinite(latents).all():
    raise InputError(f"Latents {path} are {latents.dtype} {latents.shape}, wanted finite float32 "
                     f"{shape}; sample the clip again.")
  return latents


@contextlib.contextmanager
def _loaded(model: Model, name: str) -> Iterator[Params]:
  """Loads the parameters of a network once for all calls in the block."""
  with model.parameters(name) as params, model.using(name, params):
    yield params
