"""One box a frame for the main face of a video, from the boxes that a detector found in its frames.

Boxes are (y1, y2, x1, x2). Faces are told apart by where they move: each track predicts its next box at the
velocity it had, and the boxes of a frame are shared out so that the predictions are missed least. So two
faces keep their identities when they cross, also if one hides the other for a while. The face with the most
area over the video is the main one.
"""

from collections.abc import Sequence
import dataclasses

from jaxtyping import Bool, Float
import numpy as np

VERSION = 1  # to be raised when the same detections give other boxes
MAX_GAP = 1.0  # seconds without a face that are bridged
MAX_MISS = 1.0  # of a prediction, in units of the face's size, to be of the same face
GROWTH = 1.0  # of MAX_MISS in units of itself for each second without the face
BLEND, TURN = 0.6, 0.2  # what a new box changes of a track's place and of its velocity
WINDOW = 0.36  # seconds that are smoothed over

Spans = tuple[tuple[int, int], ...]  # (first frame, frame after the last)
Found = Float[np.ndarray, "_ 4"] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Track:
  """The main face of a video.

  Attributes:
    boxes: for each frame; where the face is lost, that of the nearest frame; zeros if there is no face at all.
    found: frames in which a detector found the face.
    bridged: spans in which it was looked for and not found, filled by interpolation.
    lost: spans without the face that are longer than what is bridged.
    jumps: frames in which the face continues at another place, as after a cut; it may be another person.
    others: number of other faces.
  """

  boxes: Float[np.ndarray, "frames 4"]
  found: Bool[np.ndarray, "frames"]
  bridged: Spans
  lost: Spans
  jumps: tuple[int, ...]
  others: int


def follow(detections: Sequence[Found], fps: float, max_gap: float = MAX_GAP) -> Track:
  """Follows the main face.

  Args:
    detections: for each frame the boxes that were found, [n, 4]; None if the frame was not looked at. Frames
      that were not looked at are interpolated however many they are.
    fps: frames a second.
    max_gap: seconds without a face that are bridged, at most. At the ends of the video the nearest box is held.
  """
  faces = _Faces(fps, max_gap)
  for frame, boxes in enumerate(detections):
    if boxes is not None:
      faces.see(frame, np.asarray(boxes, float).reshape(-1, 4))
  looked = np.array([boxes is not None for boxes in detections])
  if not faces.tracks:
    missed = ((0, len(detections)),) if len(detections) else ()
    return Track(np.zeros((len(detections), 4)), np.zeros(len(detections), bool), (), missed, (), 0)
  main, jumps, joined = _joined(faces.tracks)
  found = np.zeros(len(detections), bool)
  found[main.frames] = True
  bridged, lost = _gaps(found, looked, round(max_gap * fps))
  boxes = _smooth(main, len(detections), [*jumps, *(span[1] for span in lost)], fps)
  others = sum(len(track.frames) > 1 for track in faces.tracks) - joined
  return Track(boxes, found, bridged, lost, jumps, max(others, 0))


@dataclasses.dataclass(eq=False)
class _Seen:
  """The boxes of one face: frames and, for each, centre and size (y, x, height, width)."""

  frames: list[int]
  shapes: list[np.ndarray]
  place: np.ndarray  # filtered, at the last frame
  velocity: np.ndarray  # a frame
  missed_from: int | None = None  # the first frame since then that was looked at without finding it

  def predict(self, frame: int) -> np.ndarray:
    ahead = self.place + self.velocity * (frame - self.frames[-1])
    return np.concatenate([ahead[:2], self.place[2:]])  # sizes are kept

  def add(self, frame: int, shape: np.ndarray) -> None:
    passed = frame - self.frames[-1]
    missed = shape - self.predict(frame)
    if len(self.frames) == 1:  # the first velocity that can be known
      self.place, self.velocity = shape, (shape - self.place) / passed
    else:
      self.place = self.predict(frame) + BLEND * missed
      self.velocity = self.velocity + TURN * missed / passed
    self.frames.append(frame)
    self.shapes.append(shape)
    self.missed_from = None

  @property
  def weight(self) -> float:
    """Mean area times frames from the first to the last, so that it does not count who hides whom."""
    area = np.mean([shape[2] * shape[3] for shape in self.shapes])
    return float(area) * (self.frames[-1] - self.frames[0] + 1)


class _Faces:
  """Tracks of all faces of a video, frame by frame."""

  def __init__(self, fps: float, max_gap: float):
    self._fps, self._max_gap = fps, max_gap
    self.tracks: list[_Seen] = []

  def see(self, frame: int, boxes: Float[np.ndarray, "n 4"]) -> None:
    shapes = _shapes(boxes)
    alive = [track for track in self.tracks
             if track.missed_from is None or frame - track.missed_from <= self._max_gap * self._fps]
    misses = np.array([[self._miss(track, frame, shape) for shape in shapes] for track in alive])
    taken = set()
    if misses.size:
      for row, column in assign(misses):
        if misses[row, column] <= 1:
          alive[row].add(frame, shapes[column])
          taken.add(column)
    for track in alive:
      if track.frames[-1] != frame and track.missed_from is None:
        track.missed_from = frame
    self.tracks += [_Seen([frame], [shape], shape, np.zeros(4)) for column, shape in enumerate(shapes)
                    if column not in taken]

  def _miss(self, track: _Seen, frame: int, shape: np.ndarray) -> float:
    """How far a box is from where the track should be, over what is allowed."""
    expected, seconds = track.predict(frame), (frame - track.frames[-1]) / self._fps
    size = np.sqrt(expected[2] * expected[3])
    distance = np.hypot(*(shape[:2] - expected[:2])) / size
    growth = abs(np.log(shape[2] * shape[3] / (expected[2] * expected[3]))) / 2
    return float((distance + growth) / (MAX_MISS * (1 + GROWTH * seconds)))


def assign(costs: Float[np.ndarray, "n m"]) -> list[tuple[int, int]]:
  """Pairs rows with columns so that no exchange of two pairs lowers the sum of the costs.

  Costs above 2 count as 2, so that what is too far anyway does not decide about the others.
  """
  rows, columns = costs.shape
  size = max(rows, columns)
  square = np.full((size, size), 2.0)
  square[:rows, :columns] = np.minimum(costs, 2.0)
  column_of: dict[int, int] = {}
  for index in np.argsort(square, axis=None, kind="stable").tolist():  # the nearest pair first
    row, column = divmod(index, size)
    if row not in column_of and column not in column_of.values():
      column_of[row] = column
  improved = True
  while improved:
    improved = False
    for one in range(size):
      for other in range(one):
        first, second = column_of[one], column_of[other]
        if square[one, second] + square[other, first] < square[one, first] + square[other, second] - 1e-9:
          column_of[one], column_of[other], improved = second, first, True
  return [(row, column) for row, column in column_of.items() if row < rows and column < columns]


def _joined(tracks: list[_Seen]) -> tuple[_Seen, tuple[int, ...], int]:
  """Continues the main track by tracks before and after it that are of the only face then.

  Returns:
    the track, frames in which it continues at another place, and how many tracks it was made of.
  """
  main = max(tracks, key=lambda track: track.weight)
  parts = [main]
  for track in sorted((track for track in tracks if len(track.frames) > 1), key=lambda track: -track.weight):
    rivals = [other for other in tracks if other is not track and 4 * other.weight > track.weight]
    if not any(_meet(track, other) for other in [*parts, *rivals]):
      parts.append(track)
  parts.sort(key=lambda track: track.frames[0])
  jumps = []
  for before, after in zip(parts, parts[1:], strict=False):
    last, first = before.shapes[-1], after.shapes[0]
    if np.hypot(*(first[:2] - last[:2])) > MAX_MISS * np.sqrt(last[2] * last[3]):
      jumps.append(after.frames[0])
  whole = dataclasses.replace(main, frames=[frame for part in parts for frame in part.frames],
                              shapes=[shape for part in parts for shape in part.shapes])
  return whole, tuple(jumps), len(parts)


def _meet(one: _Seen, other: _Seen) -> bool:
  return one.frames[0] <= other.frames[-1] and other.frames[0] <= one.frames[-1]


def _gaps(found: np.ndarray, looked: np.ndarray, gap: int) -> tuple[Spans, Spans]:
  """Returns the spans that are bridged and those that are lost."""
  bridged, lost = [], []
  for first, end in spans(~found):
    missed = np.flatnonzero(looked[first:end])
    if missed.size:
      (lost if end - first > gap else bridged).append((first, end))
  return tuple(bridged), tuple(lost)


def spans(marked: Bool[np.ndarray, "frames"]) -> Spans:
  """Returns the spans of frames that are marked."""
  edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(int)))
  return tuple((int(first), int(end)) for first, end in edges.reshape(-1, 2))


def _smooth(main: _Seen, count: int, cuts: list[int], fps: float) -> Float[np.ndarray, "frames 4"]:
  """Interpolates between the frames of a track and smooths each part between cuts.

  The filter is symmetric in time, and it keeps motion of constant velocity or acceleration as it is, also at
  the ends: there is no lag.
  """
  frames, shapes = np.array(main.frames), np.stack(main.shapes)
  result = np.empty((count, 4))
  bounds = [0, *sorted(set(cuts) & set(range(1, count))), count]
  for first, end in zip(bounds, bounds[1:], strict=False):
    inside = (frames >= first) & (frames < end)
    if not inside.any():
      nearest = np.abs(frames - first).argmin()
      result[first:end] = shapes[nearest]
      continue
    known = frames[inside]
    for column in range(4):
      values = np.interp(np.arange(known[0], known[-1] + 1), known, shapes[inside, column])
      smooth = _filtered(_without_outliers(values), fps)
      result[first:end, column] = np.concatenate([
          np.full(known[0] - first, smooth[0]), smooth, np.full(end - known[-1] - 1, smooth[-1])])
  return np.round(_boxes(result), 6)  # edges are whole pixels again where they were


def _without_outliers(values: np.ndarray) -> np.ndarray:
  """Median of three; the ends are kept."""
  if len(values) < 3:
    return values
  inner = np.median(np.stack([values[:-2], values[1:-1], values[2:]]), axis=0)
  return np.concatenate([values[:1], inner, values[-1:]])


def _filtered(values: np.ndarray, fps: float) -> np.ndarray:
  """Fits a parabola to the window about each value and takes its middle; at the ends that of the last window."""
  half = min(round(WINDOW * fps) // 2, (len(values) - 1) // 2)
  if half < 2:
    return values
  powers = np.vander(np.arange(-half, half + 1), 3)
  fit = np.linalg.pinv(powers)  # [3, window], values to coefficients
  inner = np.convolve(values, fit[2][::-1], mode="valid")
  window = 2 * half + 1
  return np.concatenate([(powers @ fit @ values[:window])[:half], inner, (powers @ fit @ values[-window:])[-half:]])


def _shapes(boxes: np.ndarray) -> np.ndarray:
  y1, y2, x1, x2 = boxes.T
  return np.stack([(y1 + y2) / 2, (x1 + x2) / 2, y2 - y1, x2 - x1], axis=1)


def _boxes(shapes: np.ndarray) -> np.ndarray:
  y, x, height, width = shapes.T
  return np.stack([y - height / 2, y + height / 2, x - width / 2, x + width / 2], axis=1)
