"""What each example of a training batch is given of its video, by the task drawn for it."""

from collections.abc import Mapping, Sequence

from jaxtyping import Int32
import numpy as np

from emv3_jax import geometry
from emv3_jax.errors import InputError
from emv3_jax.tasks import masks
from emv3_jax.tasks.spec import ClipPicture, TaskSpec
from emv3_jax.tasks.table import numbered

ANY_TASK = -1  # the task of a record that is for all of them


def assemble(batch: Mapping[str, np.ndarray], tasks: Int32[np.ndarray, "b"] | Sequence[int]
             ) -> dict[str, np.ndarray]:
  """A training batch, as sampling conditions the network for the same tasks.

  Args:
    batch: records as `data.pipeline.collate` stacks them, of b examples.
    tasks: numbers of tasks (`tasks.number`), one an example; those of records that name their own do
      not count.

  Returns:
    latents float32 [b, f, h8, w8, 16];
    mask float32 [b, f, h8, w8, 4], 1 where known;
    masked_latents float32 [b, f, h8, w8, 16], zeros where nothing at all is known (t2v);
    text float32 [b, text_tokens, text_dim], zero-padded;
    image float32 [b, image_tokens, image_dim]: of the first frame, for lip-sync with what it draws
      greyed, zeros for t2v;
    audio float32, as the variant's network takes it, e.g. preview [b, 2F, dim];
    face_mask float32 [b, h w] over tokens: where the audio acts, everywhere for t2v, which has no
    picture to say where the face is;
    face_region float32 [b, h w], mouth_mask float32 [b, f, h8, w8]: for the loss;
    task int32 [b]; example uint32 [b].

  Raises:
    InputError: records for all tasks do not hold what one of `tasks` knows.
  """
  named = batch["task"] != ANY_TASK
  tasks = np.where(named, batch["task"], np.asarray(tasks, np.int32))
  latents = batch["latents"]
  mask = np.zeros((*latents.shape[:4], geometry.FRAMES), np.float32)
  masked = np.zeros_like(latents)
  image = np.zeros_like(batch["image"][:, ClipPicture.FIRST])
  face_region = batch["face_mask"].reshape(len(tasks), -1).astype(np.float32)
  face_mask = face_region.copy()
  for row, number in enumerate(tasks):
    task = numbered(number)
    if named[row]:
      mask[row], slot = batch["task_mask"][row], 0  # one that fills all places
    else:
      mask[row], slot = _mask(task, batch["lipsync_mask"][row]), task.slot
      _check_stored(task, batch["masked_latents"].shape[1])
    if task.given:
      masked[row] = batch["masked_latents"][row, slot]
    if task.clip_picture is not None:
      image[row] = batch["image"][row, task.clip_picture]
    if not task.finds_face:
      face_mask[row] = 1
  kept = {name: batch[name] for name in ("latents", "text", "audio", "example")}
  return {**kept, "mask": mask, "masked_latents": masked, "image": image,
          "face_mask": face_mask, "face_region": face_region,
          "mouth_mask": batch["mouth_mask"].astype(np.float32), "task": tasks}


def _mask(task: TaskSpec, lipsync_mask: np.ndarray) -> np.ndarray:
  """The mask channels [f, h8, w8, 4] of a task, in a record for all tasks."""
  length, *size8 = lipsync_mask.shape
  known = task.known_frames(geometry.frames_of(length))
  mask = masks.mask_latents(known, geometry.pixel_size(size8))
  return mask * lipsync_mask[..., None] if task.redraws_mouth else mask


def _check_stored(task: TaskSpec, places: int) -> None:
  if not task.is_trainable:
    raise InputError(f"Task {task.name} cannot be trained on records that are for all tasks; they do "
                     "not hold what it knows of a clip. Give records that name it as their task.")
  if task.slot is not None and task.slot >= places:
    raise InputError(f"The dataset holds what {places} tasks know of a clip, {task.name} is not among "
                     "them; prepare the clips again.")
