"""Conditions of a training batch, by the task that was drawn for each example."""

from collections.abc import Mapping, Sequence

from jaxtyping import Int32
import numpy as np

from emv3_jax import geometry
from emv3_jax.errors import InputError
from emv3_jax.tasks import face_masks, masks
from emv3_jax.tasks.spec import ReferenceImage, TaskSpec
from emv3_jax.tasks.table import by_number

ANY_TASK = -1  # the task of a record that serves all tasks


def assemble(batch: Mapping[str, np.ndarray], tasks: Int32[np.ndarray, "b"] | Sequence[int],
             setting: str) -> dict[str, np.ndarray]:
  """Builds a training batch with the conditions that sampling uses for the same tasks.

  Args:
    batch: b records, stacked by `data.pipeline.collate`.
    tasks: one task number (`tasks.number`) for each example; it is ignored for a record that names its
      own task.
    setting: of the face masks, `moving` or `released`, see `face_masks`. A record with one face mask has it
      in every frame and for every task.

  Returns:
    latents float32 [b, f, h8, w8, 16];
    mask float32 [b, f, h8, w8, 4], 1 where the video is given;
    masked_latents float32 [b, f, h8, w8, 16], zeros where nothing is given (t2v);
    text float32 [b, text_tokens, text_dim], zero-padded;
    image float32 [b, image_tokens, image_dim]: of the first frame, for lip-sync with the
      inpainted region in grey, zeros for t2v;
    audio float32, the input of the variant's network, e.g. preview [b, 2F, dim];
    face_mask float32 over tokens, [b, h w] or, if they move, [b, h w, f]: 1 where the audio acts; 1
    everywhere for t2v, which has no picture to locate the face in;
    face_region, of the shape of face_mask, and mouth_mask float32 [b, f, h8, w8]: weights of the loss;
    task int32 [b]; example uint32 [b].

  Raises:
    InputError: records that serve all tasks do not hold the masked latents of one of `tasks`.
  """
  named = batch["task"] != ANY_TASK
  tasks = np.where(named, batch["task"], np.asarray(tasks, np.int32))
  latents = batch["latents"]
  mask = np.zeros((*latents.shape[:4], geometry.FRAMES), np.float32)
  masked = np.zeros_like(latents)
  image = np.zeros_like(batch["image"][:, ReferenceImage.FIRST])
  moves = setting == face_masks.MOVING
  grid, frames = batch["face_mask"].shape[1:], latents.shape[1]
  face_mask = np.zeros((len(tasks), grid[0] * grid[1], *(frames,) * moves), np.float32)
  face_region = np.zeros_like(face_mask)
  for row, number in enumerate(tasks):
    task = by_number(number)
    if named[row]:
      mask[row], slot = batch["task_mask"][row], 0  # the same array in every slot
    else:
      mask[row], slot = _mask(task, batch["lipsync_mask"][row]), task.slot
      _check_stored(task, batch["masked_latents"].shape[1])
    if task.condition_inputs:
      masked[row] = batch["masked_latents"][row, slot]
    if task.reference_image is not None:
      image[row] = batch["image"][row, task.reference_image]
    face_region[row], face_mask[row] = (
        _aligned(mask, moves) for mask in _faces(task, batch["face_box"][row], batch["face_mask"][row], setting))
    if not task.uses_face:
      face_mask[row] = 1
  unchanged = {name: batch[name] for name in ("latents", "text", "audio", "example")}
  return {**unchanged, "mask": mask, "masked_latents": masked, "image": image,
          "face_mask": face_mask, "face_region": face_region,
          "mouth_mask": batch["mouth_mask"].astype(np.float32), "task": tasks}


def _faces(task: TaskSpec, boxes: np.ndarray, still: np.ndarray, setting: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns the face, and as much of it as the task knows: each [h w], or [h w, f] if it moves."""
  if not boxes.any():  # a record with one mask for all frames
    mask = still.reshape(-1).astype(np.float32)
    return mask, mask
  face = boxes if setting == face_masks.MOVING else face_masks.known_boxes(task, boxes, setting)
  known = face_masks.known_boxes(task, boxes, setting) if task.uses_face else face
  return face_masks.token_mask(face, still.shape), face_masks.token_mask(known, still.shape)


def _aligned(mask: np.ndarray, moves: bool) -> np.ndarray:
  return mask[:, None] if moves and mask.ndim == 1 else mask


def _mask(task: TaskSpec, lipsync_mask: np.ndarray) -> np.ndarray:
  """Returns the mask channels [f, h8, w8, 4] of a task, for a record that serves all tasks."""
  length, *size8 = lipsync_mask.shape
  frame_mask = task.frame_mask(geometry.frames_of(length))
  mask = masks.mask_latents(frame_mask, geometry.pixel_size(size8))
  return mask * lipsync_mask[..., None] if task.inpaints_mouth else mask


def _check_stored(task: TaskSpec, slots: int) -> None:
  if not task.is_trainable:
    raise InputError(f"Task {task.name} cannot be trained on records that serve all tasks: they do "
                     "not hold its masked latents. Give records that name it as their task.")
  if task.slot is not None and task.slot >= slots:
    raise InputError(f"The dataset holds the masked latents of {slots} tasks, but not those of "
                     f"{task.name}; prepare the clips again.")
