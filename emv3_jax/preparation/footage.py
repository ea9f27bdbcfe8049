"""Reading of a clip: checks it, finds its windows, and detects face and mouth."""

from collections.abc import Iterator
import dataclasses
import hashlib
import math

from absl import logging
import numpy as np

from emv3_jax import geometry
from emv3_jax.conditioning import audio as audio_lib
from emv3_jax.conditioning import face_track
from emv3_jax.conditioning.framing import Framing
from emv3_jax.errors import InputError
from emv3_jax.io import video_files
from emv3_jax.preparation.framing import nearest_size
from emv3_jax.preparation.manifest import Clip, Rejection
from emv3_jax.preparation.regions import RegionFinder, Regions
from emv3_jax.preparation.settings import PrepareConfig


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
  """A window of a clip, before it is encoded. H, W = size of its bucket.

  Attributes:
    index: number of the window in the clip.
    start: first frame, at 25 frames a second.
    first: uint8 [H, W, 3], the first frame.
    regions: face and mouth.
  """

  index: int
  start: int
  first: np.ndarray
  regions: Regions

  @property
  def face_tokens(self) -> np.ndarray:
    """uint16 [n, 4]: token boxes of the face, all tokens without one; n = 1 stands for all frames."""
    return self.regions.face_tokens()

  @property
  def inpainted(self) -> np.ndarray:
    """bool [n, H, W], the region that lip-sync inpaints: the lower part of the face and the mouth."""
    return self.regions.inpainted()

  @property
  def mouth(self) -> np.ndarray:
    """bool [n, H, W], the mouth region."""
    return self.regions.mouth_region()


@dataclasses.dataclass(frozen=True, eq=False)
class Footage:
  """A clip that can be used.

  Attributes:
    clip: line of the manifest.
    framing: framing of the pictures.
    digest: sha256 of the file.
    voice: the sound.
    windows: windows that can be used, at least one.
    rejected: windows that cannot be used.
  """

  clip: Clip
  framing: Framing
  digest: str
  voice: audio_lib.Voice
  windows: tuple[Window, ...]
  rejected: tuple[Rejection, ...] = ()

  @property
  def size(self) -> tuple[int, int]:
    """(H, W) of its windows, in pixels."""
    return self.framing.size


def read_footage(clip: Clip, settings: PrepareConfig, detector: str | None = None) -> Footage:
  """Reads and checks a clip; its pictures are streamed, not kept.

  A window ends where pictures or sound end, whichever is sooner; what is left over at the end of the
  clip is not used.

  Args:
    clip: a line of the manifest.
    settings: of the windows.
    detector: see `face.detect_face`.

  Raises:
    InputError: a file that is missing, damaged, cut short, without sound, or too short for a
      window; a box that cannot be used; no face in any window.
  """
  if clip.fault:
    raise InputError(clip.fault)
  count, framing, firsts, found = _scan(clip, settings, detector)
  _check_length(clip, "pictures", count, settings)
  voice = audio_lib.load_voice(clip.video)
  frames_of_sound = audio_lib.num_frames(voice.seconds)
  _check_length(clip, "sound", frames_of_sound, settings)
  finder = RegionFinder(clip, framing, settings, found)
  windows, rejected = [], []
  for index, first in firsts.items():
    start = index * settings.step
    if start + settings.frames > min(count, frames_of_sound):
      continue
    try:
      windows.append(Window(index, start, first, finder.regions(start)))
    except InputError as error:
      rejected.append(Rejection(clip.line, clip.id, str(clip.video), index, str(error)))
  if windows and clip.face_box == "auto":
    logging.info("Clip %s: faces found in %d of %d windows.", clip.id, len(windows),
                 len(windows) + len(rejected))
  if not windows:
    raise InputError(rejected[0].reason)
  with open(clip.video, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  return Footage(clip, framing, digest, voice, tuple(windows), tuple(rejected))


def _check_length(clip: Clip, what: str, count: int, settings: PrepareConfig) -> None:
  if count < settings.frames:
    raise InputError(f"Video {clip.video} is too short: its {what} last {count / geometry.FPS:g} s "
                     f"({count} frames), a window takes {settings.frames} frames.")


def stream_windows(footage: Footage, settings: PrepareConfig) -> Iterator[tuple[Window, np.ndarray]]:
  """Yields (window, uint8 [F, H, W, 3]); memory holds the pictures of one window and of the overlap."""
  wanted = {window.start: window for window in footage.windows}
  held: dict[int, np.ndarray] = {}  # by frame
  for number, frame in enumerate(video_files.stream_video(footage.clip.video, geometry.FPS)):
    if any(start in wanted for start in _starts(number, settings)):
      held[number] = footage.framing.picture(frame)
    start = number - settings.frames + 1
    if start in wanted:
      yield wanted.pop(start), np.stack([held[n] for n in range(start, number + 1)])
      held = {n: picture for n, picture in held.items() if n >= start + settings.step}
    if not wanted:
      return


def _starts(number: int, settings: PrepareConfig) -> range:
  """Returns the first frames of the windows that contain frame `number`."""
  first = max(0, math.ceil((number - settings.frames + 1) / settings.step))
  return range(first * settings.step, number + 1, settings.step)


def _scan(clip: Clip, settings: PrepareConfig, detector: str | None
          ) -> tuple[int, Framing, dict[int, np.ndarray], dict[int, np.ndarray]]:
  """Returns the number of frames, the framing, the first picture of each window, and faces by frame."""
  count, framing, firsts, found, look = 0, None, {}, {}, face_track.Look(detector)
  for number, frame in enumerate(video_files.stream_video(clip.video, geometry.FPS)):
    if framing is None:
      height, width = frame.shape[:2]
      framing = Framing(height, width, nearest_size(height, width, settings.sizes))
    starts = _starts(number, settings)
    if number in starts:
      firsts[number // settings.step] = framing.picture(frame)
    if clip.face_box == "auto" and starts and (number in starts or number % face_track.EVERY == 0):
      top, left, height, width = framing.crop
      down, across = framing.size[0] / height, framing.size[1] / width
      boxes = look(frame[top:top + height, left:left + width])  # resizing all takes longer than looking
      found[number] = boxes * np.array([down, down, across, across])
    count = number + 1
  assert framing is not None  # the reader refuses a video without frames
  return count, framing, firsts, found
