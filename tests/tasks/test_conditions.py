"""Training batches by task, against what sampling gives the network."""

import numpy as np
import pytest

from emv3_jax.data.pipeline import collate
from emv3_jax.tasks import masks, names, number, of
from emv3_jax.tasks.conditions import assemble
from emv3_jax.variants.preview import PREVIEW
from tests.data.test_records import moving_record
from tests.data.windows import CONFIG, make_record


@pytest.fixture
def batch():
  return collate([make_record(n) for n in range(4)], np.arange(4), CONFIG.text_tokens, PREVIEW)


@pytest.mark.parametrize("task", names())
def test_each_task_is_given_its_own(batch, task):
  got = assemble(batch, [number(task)] * 4, "released")
  if task == "lipsync":
    want = np.repeat(batch["lipsync_mask"][..., None], 4, axis=-1).astype(np.float32)
  else:
    want = np.broadcast_to(masks.mask_latents(of(task).condition_mask(5), (32, 48)),
                           got["mask"].shape)
  np.testing.assert_array_equal(got["mask"], want)
  masked = {"i2v": 0, "flf2v": 1, "lipsync": 2}
  image = {"i2v": 0, "flf2v": 0, "lipsync": 1}
  if task == "t2v":
    assert not got["masked_latents"].any() and not got["image"].any() and not got["mask"].any()
  else:
    np.testing.assert_array_equal(got["masked_latents"], batch["masked_latents"][:, masked[task]])
    np.testing.assert_array_equal(got["image"], batch["image"][:, image[task]])


def test_examples_keep_apart(batch):
  mixed = assemble(batch, [2, 0, 3, 1], "released")
  for row, place in enumerate([2, 0, 3, 1]):
    alone = assemble({name: array[row:row + 1] for name, array in batch.items()}, [place],
                     "released")
    for name in mixed:
      np.testing.assert_array_equal(mixed[name][row:row + 1], alone[name], err_msg=name)


@pytest.mark.parametrize("task", names())
def test_a_record_that_names_its_task_is_given_what_it_holds(task):
  own, other = make_record(1, task=task), make_record(2)
  batch = collate([own, other], np.arange(2), CONFIG.text_tokens, PREVIEW)
  got = assemble(batch, [number("flf2v"), number("i2v")], "released")
  assert got["task"].tolist() == [number(task), number("i2v")]
  np.testing.assert_array_equal(got["mask"][0], own.task_mask)
  np.testing.assert_array_equal(got["masked_latents"][1], other.masked_latents[0])
  if task == "t2v":
    assert (got["face_mask"][0] == 1).all() and not got["image"][0].any()
  else:
    np.testing.assert_array_equal(got["masked_latents"][0], own.masked_latents[0])
    np.testing.assert_array_equal(got["image"][0], own.image[0])
    np.testing.assert_array_equal(got["face_mask"][0], own.face_mask.ravel())


def test_shapes_and_dtypes(batch):
  got = assemble(batch, [0, 1, 2, 3], "released")
  assert {name: (array.shape, array.dtype.name) for name, array in got.items()} == {
      "latents": ((4, 2, 4, 6, 16), "float32"), "mask": ((4, 2, 4, 6, 4), "float32"),
      "masked_latents": ((4, 2, 4, 6, 16), "float32"), "text": ((4, 8, 6), "float32"),
      "image": ((4, 3, 5), "float32"), "audio": ((4, 10, 4), "float32"),
      "face_mask": ((4, 6), "float32"), "face_region": ((4, 6), "float32"),
      "mouth_mask": ((4, 2, 4, 6), "float32"), "task": ((4,), "int32"), "example": ((4,), "uint32")}
  np.testing.assert_array_equal(got["face_mask"][2].reshape(2, 3), batch["face_mask"][2])


def test_text_to_video_hears_everywhere_and_its_loss_knows_the_face(batch):
  got = assemble(batch, [0, 1, 2, 3], "released")
  assert (got["face_mask"][0] == 1).all()
  np.testing.assert_array_equal(got["face_mask"][1:], got["face_region"][1:])
  np.testing.assert_array_equal(got["face_region"].reshape(4, 2, 3), batch["face_mask"])


def test_old_and_new_records_in_one_batch():
  """The old one has its mask in every frame and for every task."""
  old, new = make_record(1), moving_record(2)
  batch = collate([old, new], np.arange(2), CONFIG.text_tokens, PREVIEW)
  got = assemble(batch, [number("i2v"), number("lipsync")], "moving")
  for name in ("face_mask", "face_region"):
    np.testing.assert_array_equal(got[name][0], np.repeat(old.face_mask.reshape(6, 1), 2, axis=1))
    np.testing.assert_array_equal(got[name][1][:3].T, [[1, 0, 0], [1, 1, 1]])
    assert not got[name][1][3:].any()


@pytest.mark.parametrize("task, want", [  # by latent frame: columns of the face
    ("t2v", [[1, 1, 1], [1, 1, 1]]), ("i2v", [[1, 0, 0], [1, 0, 0]]), ("flf2v", [[1, 1, 1], [1, 1, 1]]),
    ("lipsync", [[1, 0, 0], [1, 1, 1]])])
def test_each_task_s_mask_is_of_the_frames_that_it_is_given(task, want):
  batch = collate([moving_record(2)], np.arange(1), CONFIG.text_tokens, PREVIEW)
  got = assemble(batch, [number(task)], "moving")
  np.testing.assert_array_equal(got["face_mask"][0, :3].T, want)
  assert got["face_mask"][0, 3:].any() == (task == "t2v")
  np.testing.assert_array_equal(got["face_region"][0, :3].T, [[1, 0, 0], [1, 1, 1]])


def test_released_is_one_box_around_all_of_them():
  batch = collate([moving_record(2)], np.arange(1), CONFIG.text_tokens, PREVIEW)
  got = assemble(batch, [number("i2v")], "released")
  assert got["face_mask"].tolist() == got["face_region"].tolist() == [[1, 1, 1, 0, 0, 0]]
