"""What each example of a training batch is given of its video, by the task drawn for it."""

from collections.abc import Mapping, Sequence

from jaxtyping import Int32
import numpy as np

from emv3_jax.tasks import masks
from emv3_jax.tasks.masks import TASKS, Task

_MASKED = (Task.I2V, Task.FLF2V, Task.LIPSYNC)  # the order of `masked_latents` in a record
_FULL, _MOUTH_GREYED = 0, 1  # the order of `image` in a record
ANY_TASK = -1  # the task of a record that is for all of them


def assemble(batch: Mapping[str, np.ndarray], tasks: Int32[np.ndarray, "b"] | Sequence[int]
             ) -> dict[str, np.ndarray]:
  """A training batch, as sampling conditions the network for the same tasks.

  Args:
    batch: records as `data.pipeline.collate` stacks them, of b examples.
    tasks: positions in TASKS, one an example; those of records that name their own do not count.

  Returns:
    latents float32 [b, f, h8, w8, 16];
    mask float32 [b, f, h8, w8, 4], 1 where known;
    masked_latents float32 [b, f, h8, w8, 16], zeros where nothing at all is known (t2v);
    text float32 [b, text_tokens, text_dim], zero-padded;
    image float32 [b, image_tokens, image_dim]: of the first frame, for lip-sync with what it draws
      greyed, zeros for t2v;
    audio float32, preview [b, 2F, dim], flash [b, F, 5, layers, dim];
    face_mask float32 [b, h w] over tokens: where the audio acts, everywhere for t2v, which has no
    picture to say where the face is;
    face_region float32 [b, h w], mouth_mask float32 [b, f, h8, w8]: for the loss;
    task int32 [b]; example uint32 [b].
  """
  named = batch["task"] != ANY_TASK
  tasks = np.where(named, batch["task"], np.asarray(tasks, np.int32))
  latents = batch["latents"]
  length, height8, width8 = latents.shape[1:4]
  mask = np.zeros((*latents.shape[:4], masks.TEMPORAL), np.float32)
  masked = np.zeros_like(latents)
  image = np.zeros_like(batch["image"][:, _FULL])
  face_region = batch["face_mask"].reshape(len(tasks), -1).astype(np.float32)
  face_mask = face_region.copy()
  for row, number in enumerate(tasks):
    task = TASKS[number]
    if named[row]:
      mask[row] = batch["task_mask"][row]
    elif task is Task.LIPSYNC:
      mask[row] = batch["lipsync_mask"][row][..., None]
    else:
      known = masks.known_frames(task, masks.TEMPORAL * (length - 1) + 1)
      mask[row] = masks.mask_latents(known, (masks.SPATIAL * height8, masks.SPATIAL * width8))
    if task is Task.T2V:
      face_mask[row] = 1
    else:
      masked[row] = batch["masked_latents"][row, _MASKED.index(task)]
      image[row] = batch["image"][row, _MOUTH_GREYED if task is Task.LIPSYNC else _FULL]
  kept = {name: batch[name] for name in ("latents", "text", "audio", "example")}
  return {**kept, "mask": mask, "masked_latents": masked, "image": image,
          "face_mask": face_mask, "face_region": face_region,
          "mouth_mask": batch["mouth_mask"].astype(np.float32), "task": tasks}
