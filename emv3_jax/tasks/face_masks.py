"""The face over tokens, from its box in each frame; training and sampling compute their masks here.

A token box is uint16 [4]: the first row of the face, the row after its last, the first column and the column
after its last. Boxes by frame are [F, 4]; [1, 4] stands for one box in all frames.

With the setting `moving` a mask follows the face: a latent frame has the tokens that the face covers in one of
its four frames (the first one: in its only frame). What a task cannot know, it does not use: where only some
frames are given, as the first one to i2v, one box around the faces of these frames serves the whole clip. With
`released` one box around the faces of nine frames of the clip serves all tasks: a mask that stays, as that of the released weights.
"""

from jaxtyping import Bool, Float32, UInt16
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.geometry import FRAMES
from emv3_jax.tasks.spec import TaskSpec

MOVING, RELEASED = "moving", "released"
SAMPLED = 9  # frames of a clip whose faces `released` looks at

Boxes = UInt16[np.ndarray, "n 4"]


def check_name(where: str, name: str) -> None:
  """Checks that `name` is a setting of face masks.

  Raises:
    InputError: it is not; the message begins with `where`.
  """
  if name not in (MOVING, RELEASED):
    raise InputError(f"{where} is {name!r}; known: {MOVING}, {RELEASED}.")


def sampled_frames(count: int) -> np.ndarray:
  """Returns the numbers, ascending, of the up to nine frames out of `count` whose faces `released` encloses."""
  return np.linspace(0, count - 1, min(SAMPLED, count), dtype=int)


def around(boxes: np.ndarray) -> np.ndarray:
  """Returns the box [1, 4] around boxes [n, 4], of tokens or of pixels."""
  low, high = boxes.min(0), boxes.max(0)
  return np.stack([low[0], high[1], low[2], high[3]])[None]


def known_boxes(task: TaskSpec, boxes: np.ndarray, setting: str, frames: int | None = None) -> np.ndarray:
  """Returns the boxes that the mask of a task is made of.

  Args:
    task: it decides in which frames the video is given, so that the face can be seen.
    boxes: [F, 4], one for each frame; those of frames that the task does not give may be anything with
      `moving`.
    setting: `moving` or `released`.
    frames: number of requested frames, see `TaskSpec.frame_mask`; None stands for F.

  Returns:
    [F, 4], or [1, 4] for one box in all frames.
  """
  if setting == RELEASED:
    return around(boxes[sampled_frames(len(boxes))])
  given = task.frame_mask(frames or len(boxes), len(boxes))
  return boxes if given.all() else around(boxes[given])


def covered(boxes: Boxes, grid: tuple[int, int]) -> Bool[np.ndarray, "n h w"]:
  """Computes which tokens of the grid (h, w) each box covers."""
  row, column = (np.arange(side) for side in grid)
  y1, y2, x1, x2 = np.asarray(boxes, int)[..., None].transpose(1, 0, 2)
  rows, columns = (row >= y1) & (row < y2), (column >= x1) & (column < x2)
  return rows[:, :, None] & columns[:, None, :]


def by_latent_frame(mask: Bool[np.ndarray, "F *size"]) -> Bool[np.ndarray, "f *size"]:
  """Returns for each latent frame where `mask` is True in one of its frames; F = 4 k + 1."""
  rest = mask[1:].reshape(-1, FRAMES, *mask.shape[1:]).any(axis=1)
  return np.concatenate([mask[:1], rest])


def token_mask(boxes: Boxes, grid: tuple[int, int]) -> Float32[np.ndarray, "hw *f"]:
  """Computes a mask over tokens in row-major order: 1 on the face, 0 elsewhere.

  Args:
    boxes: [1, 4] or [F, 4].
    grid: rows and columns of tokens.

  Returns:
    float32 [h w] of one box, else [h w, f].
  """
  tokens = covered(boxes, grid)
  if len(boxes) == 1:
    return tokens.reshape(-1).astype(np.float32)
  latent = by_latent_frame(tokens)
  return np.ascontiguousarray(latent.reshape(len(latent), -1).T, np.float32)
