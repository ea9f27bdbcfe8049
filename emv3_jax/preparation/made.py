"""Clips that the model itself made: one window each, for the task and under the conditions of sampling.

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
from emv3_jax.preparation.reports import MadeBy, read_report
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling import clip as clip_lib
from emv3_jax.sampling.inputs import Inputs, named_files, read_inputs
from emv3_jax.sampling.model import Model
from emv3_jax.sampling.output import latents_path
from emv3_jax.variants import Variant

ENCODERS = ("vae", "text_encoder", "image_encoder", "audio_encoder")


@dataclasses.dataclass(frozen=True, eq=False)
class MadeClip:
  """A clip of the model's own that can be used.

  Attributes:
    clip: its line of the manifest, with the request's prompt.
    made: its report.
    inputs: of the request, without its video and what is known of it.
    latents: file with the latents as the model made them; None where they were not saved.
  """

  clip: Clip
  made: MadeBy
  inputs: Inputs
  latents: pathlib.Path | None

  @property
  def size(self) -> tuple[int, int]:
    return self.made.size

  @property
  def transformer(self) -> str:
    """Digest of the weights that made it; empty where the report does not tell."""
    return str(self.made.networks.get("transformer") or "")


def read_made(clip: Clip, settings: PrepareConfig, model: Model) -> MadeClip:
  """Reads and checks a clip, its report and all files that the report names.

  Raises:
    InputError: a file that is missing, damaged or not the one that was sampled with; a clip of
      another size than any window's, shorter than a window, or of another model.
  """
  made = read_report(_report_of(clip))
  latents = latents_path(clip.video) if made.latents else None
  _check_model(made, model)
  _check_window(clip, made, settings, latents)
  _check_files(clip, made)
  if latents is not None:
    _read_latents(latents, made)
  inputs = _read_inputs(made, model)
  light = dataclasses.replace(inputs, video=np.zeros(0), condition_mask=np.zeros(0),
                              source_video=None, mouth_mask=None)
  return MadeClip(dataclasses.replace(clip, prompt=made.request.prompt), made, light, latents)


def files_of(clip: Clip) -> list[pathlib.Path]:
  """All files that a line with a report depends on, as far as they can be told."""
  own = [clip.video, _report_of(clip), latents_path(clip.video)]
  try:
    return own + list(named_files(read_report(_report_of(clip)).request).values())
  except InputError:
    return own


def _report_of(clip: Clip) -> pathlib.Path:
  assert clip.report is not None  # it is a clip that the model made
  return clip.report


def encode_states(model: Model, clips: Sequence[MadeClip]) -> list[tuple[np.ndarray, np.ndarray]]:
  """(CLIP states [image_tokens, image_dim], audio features [n, ...]) of each clip, over all frames that
  were sampled."""
  with _held(model, "image_encoder"):
    images = [clip_lib.encode_image(model, clip.inputs)[0] for clip in clips]
  with _held(model, "audio_encoder"):
    sounds = [clip_lib.encode_features(model, clip.inputs) for clip in clips]
  return list(zip(images, sounds, strict=True))


def encode_pictures(model: Model, clips: Sequence[MadeClip], frames: int
                    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """(latents [f, h8, w8, 16], condition latents [f, h8, w8, 20]) of the first `frames` frames of each clip.

  The latents are those that the model made where they were saved: exact, and what the model gave a
  probability to. Else they are the VAE's of the video as it was written.
  """
  with _held(model, "vae") as params:
    for clip in clips:
      inputs = _read_inputs(clip.made, model)
      # The VAE looks back only: what is cut off does not change the rest.
      inputs = dataclasses.replace(inputs, video=inputs.video[:frames],
                                   condition_mask=inputs.condition_mask[:frames])
      yield _latents(model, params, clip, frames), clip_lib.encode_condition(model, inputs)[0]


def make_record(clip: MadeClip, frames: int, latents: np.ndarray, condition: np.ndarray,
                text: np.ndarray, image: np.ndarray, audio: np.ndarray, variant: Variant) -> Record:
  """The record of a clip's first `frames` frames; text without padding, the rest as encoded here."""
  mask = condition[..., :FRAMES].astype(np.uint8)
  tokens, task = geometry.token_grid(clip.size), clip.made.task
  face = clip.inputs.face_mask
  mouth = 1 - mask[..., 0] if task.inpaints_mouth else np.zeros_like(mask[..., 0])
  return Record(
      id=clip.clip.id, index=0, start=0, caption=clip.clip.prompt, source=clip.made.video,
      task=task.name, latents=latents, masked_latents=condition[None, ..., FRAMES:],
      task_mask=mask, mouth_mask=mouth,
      face_mask=(np.ones(tokens) if face is None else face.reshape(tokens)).astype(np.uint8),
      text=text, image=image[None], audio=variant.crop_features(audio, 0, frames))


def _check_model(made: MadeBy, model: Model) -> None:
  wanted = index_lib.condition_fields(model.config.model.transformer)
  found = {name: made.transformer.get(name) for name in wanted}
  faults = config_lib.differences(found, wanted)
  for name in ENCODERS:
    told = made.networks.get(name)
    if told and told != model.digest(name):
      faults.append(f"weights of {name}")
  if made.tokenizer and made.tokenizer != file_digest(model.tokenizer_path):
    faults.append("tokenizer")
  if faults:
    raise InputError(f"Report {made.path} is of a clip of another model (report != these encoders): "
                     f"{'; '.join(faults)}. Prepare it with the config and checkpoint that made it.")


def _check_window(clip: Clip, made: MadeBy, settings: PrepareConfig,
                  latents: pathlib.Path | None) -> None:
  if made.size not in settings.sizes:
    height, width = made.size
    raise InputError(f"Video {clip.video} was made at {width}x{height} pixels and no window has that "
                     f"size; add ({height}, {width}) to --config.prepare.sizes.")
  sampled = geometry.sample_frames(made.frames)
  held = made.frames if latents is None else sampled  # saved latents have the surplus frames too
  if held < settings.frames:
    shorter = geometry.whole_frames(held)
    advice = f"set --config.prepare.frames={shorter}" if shorter > 1 else "make it longer"
    if sampled >= settings.frames:
      advice += ", or sample it with --save_latents, which keeps the frames that were dropped"
    raise InputError(f"Video {clip.video} is too short: it has {made.frames} frames, a window takes "
                     f"{settings.frames}; {advice}.")
  for item in made.task.condition_inputs:
    if item.request_field != "video" and item.frames(made.frames, sampled).stop > settings.frames:
      raise InputError(f"Video {clip.video} is too long: of its {made.frames} frames a window takes "
                       f"{settings.frames}, without the {item.request_field.replace('_image', ' picture')} that "
                       f"{made.task.name} was given; set --config.prepare.frames={sampled}.")


def _check_files(clip: Clip, made: MadeBy) -> None:
  for name, path in named_files(made.request).items():
    where = f"Report {made.path}: its {name} {path}"
    if not path.is_file():
      raise InputError(f"{where} is not there; a relative path is looked for from the current folder, "
                       "as it was in sampling.")
    if file_digest(path) != made.files.get(name):
      raise InputError(f"{where} has changed since the clip was made.")
  if file_digest(clip.video) != made.video:
    raise InputError(f"Video {clip.video} is not the one that its report {made.path} tells of, or has "
                     "changed since; sample it again.")


def _read_inputs(made: MadeBy, model: Model) -> Inputs:
  """What sampling read: at the size it took, whatever the settings that led to it. A negative prompt
  is no condition of a record."""
  settings = dataclasses.replace(
      model.config.sampling, height=made.size[0], width=made.size[1], text_scale=1.0,
      max_frames=geometry.sample_frames(made.frames))
  config = dataclasses.replace(model.config, seed=made.seed, face_detector=made.face_detector,
                               sampling=settings)
  try:
    inputs = read_inputs(dataclasses.replace(made.request, negative_prompt=None), config,
                         model.tokenizer_path, model.normalises_waveform)
  except InputError as error:
    raise InputError(f"Report {made.path}: {error}") from None
  if inputs.frames != made.frames:
    raise InputError(f"Report {made.path} tells of {made.frames} frames, its audio "
                     f"{made.request.audio} makes {inputs.frames}: it has changed since.")
  return inputs


def _latents(model: Model, params: Params, clip: MadeClip, frames: int) -> np.ndarray:
  if clip.latents is not None:
    return np.array(_read_latents(clip.latents, clip.made)[:geometry.latent_frames(frames)])
  pictures = video_files.read_video(clip.clip.video, geometry.FPS, frames).frames
  if pictures.shape[1:3] != clip.size:  # they were written larger
    pictures = image_lib.resize_lanczos(pictures, clip.size)
  return model.vae_encode(params, image_lib.to_pixels(pictures)[None])[0]


def _read_latents(path: pathlib.Path, made: MadeBy) -> np.ndarray:
  length = geometry.latent_frames(geometry.sample_frames(made.frames))
  shape = (length, *geometry.latent_size(made.size), geometry.CHANNELS)
  if file_digest(path) != made.latents:
    raise InputError(f"Latents {path} are not those that the report {made.path} tells of, or have "
                     "changed since; sample the clip again.")
  latents = np.load(path, mmap_mode="r", allow_pickle=False)
  if latents.shape != shape or latents.dtype != np.float32 or not np.isfinite(latents).all():
    raise InputError(f"Latents {path} are {latents.dtype} {latents.shape}, wanted finite float32 "
                     f"{shape}; sample the clip again.")
  return latents


@contextlib.contextmanager
def _held(model: Model, name: str) -> Iterator[Params]:
  """Parameters of a part, loaded once for all that is encoded in the block."""
  with model.parameters(name) as params, model.using(name, params):
    yield params
