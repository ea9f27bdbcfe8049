"""Boxes of a face by frame: what is read, bridged, framed, and refused."""

import json
import os

import numpy as np
import pytest

from emv3_jax.conditioning import face_boxes
from emv3_jax.conditioning.framing import Framing
from emv3_jax.errors import InputError
from emv3_jax.tasks import face_masks
from tests import golden_data

BOXES = np.array([[10, 30, 8 + 2 * number, 24 + 2 * number] for number in range(5)], np.float64)


def read(source, frames=5):
  return face_boxes.read_boxes(str(source), 48, 64, frames)


def test_one_list_in_four_forms(tmp_path):
  sized = np.concatenate([2 * BOXES, np.tile([96, 128], (5, 1))], axis=1)  # of pictures twice as large
  np.save(tmp_path / "four.npy", BOXES)
  np.save(tmp_path / "six.npy", sized)
  (tmp_path / "list.json").write_text(json.dumps(BOXES.tolist()))
  for source in (tmp_path / "four.npy", tmp_path / "six.npy", tmp_path / "list.json", json.dumps(BOXES.tolist())):
    assert face_boxes.is_by_frame(str(source))
    np.testing.assert_array_equal(read(source), BOXES)
  np.save(tmp_path / "one.npy", sized[0])
  assert not face_boxes.is_by_frame(str(tmp_path / "one.npy")) and not face_boxes.is_by_frame("1,2,3,4")


@pytest.mark.parametrize("boxes, said", [
    (BOXES[:4], "boxes for 4 frames, the video has 5"), ([None] * 5, "no box for any frame"),
    ([*BOXES[:4].tolist(), [1, 2, 3]], r"has \[1, 2, 3\] for frame 4; wanted a list"), ({"a": 1}, "wanted a list"),
    ([*BOXES[:4].tolist(), [9, 9, 1, 2]], r"box of frame 4, 9,9,1,2, is reversed or empty.*\(frame 4\)")])
def test_lists_that_cannot_be_used(tmp_path, boxes, said):
  path = tmp_path / "boxes.json"
  path.write_text(json.dumps(boxes.tolist() if isinstance(boxes, np.ndarray) else boxes))
  with pytest.raises(InputError, match=said):
    read(path)


@pytest.mark.parametrize("values, said", [
    (np.zeros((5, 3)), r"float64 \[5, 3\]; wanted numbers \[F, 4\]"),
    (np.tile([1.0, 9, 1, 9, 64, 32], (5, 1)), "another aspect ratio than the video's 64x48")])
def test_arrays_that_cannot_be_used(tmp_path, values, said):
  np.save(tmp_path / "boxes.npy", values)
  with pytest.raises(InputError, match=said):
    read(tmp_path / "boxes.npy")


def test_files_that_are_no_boxes(tmp_path):
  (tmp_path / "boxes.json").write_text("{")
  with pytest.raises(InputError, match=r"boxes.json is not JSON"):
    read(tmp_path / "boxes.json")
  with pytest.raises(InputError, match="absent.json: No such file"):
    read(tmp_path / "absent.json")


def test_short_gaps_are_bridged_and_long_ones_named():
  boxes = BOXES.copy()
  boxes[[0, 2, 3]] = np.nan
  got = face_boxes.bridged(boxes, "Face box")
  np.testing.assert_allclose(got, [BOXES[1], *BOXES[1:]])
  long = np.repeat(BOXES[:1], 60, axis=0)
  long[20:20 + face_boxes.MAX_GAP] = np.nan
  face_boxes.bridged(long, "Face box")
  long[20 + face_boxes.MAX_GAP] = np.nan
  with pytest.raises(InputError, match="Face box: frames 120-145 have no box; at most 25 frames"):
    face_boxes.bridged(long, "Face box", 100)
  with pytest.raises(InputError, match="frames 0-4 have no box"):
    face_boxes.bridged(np.full((5, 4), np.nan), "Face box")


def test_a_face_that_leaves_the_picture():
  framing, told = Framing(48, 64, (48, 48)), []  # columns 8 to 56
  leaving = BOXES + np.array([[0, 0, 10 * number, 10 * number] for number in range(5)])
  tell = lambda text, *values: told.append(text % values)
  got = face_boxes.framed(leaving[:4], framing, "Face box", 100, tell)
  np.testing.assert_array_equal(got[:, 2], [0, 12, 24, 36])
  assert told == ["Face box leaves the picture in frame 103; what is outside is cut off."]
  with pytest.raises(InputError, match=r"in frame 4 \(rows 0 to 48, columns 8 to 56\)"):
    face_boxes.framed(leaving, framing, "Face box")


def _mask(box, picture, size):
  tokens = face_boxes.token_boxes(np.array([box], np.float64), picture, size)
  return face_masks.token_mask(tokens, (size[0] // 16, size[1] // 16))


def test_face_masks_match_golden():
  masks = golden_data.load("e2e", "geometry").meta["ip_mask"]
  assert len(masks) >= 2
  for box, want in masks.items():
    *edges, height, width = map(int, box.strip("()").split(","))
    mask = _mask(edges, (height, width), tuple(want["sample"]))
    assert mask.dtype == np.float32 and mask.shape == (np.prod(want["coords"][4:]),)
    assert np.flatnonzero(mask).tolist() == want["ones_idx"] and mask.sum() == want["sum"]


def test_the_mask_is_scaled_alike_along_both_axes():
  """By the root of the areas' ratio, 0.32 here, though the height shrinks to 0.64."""
  mask = _mask((0, 100, 100, 400), (100, 400), (64, 64)).reshape(4, 4)
  np.testing.assert_array_equal(np.argwhere(mask), [[0, 2], [0, 3], [1, 2], [1, 3]])


def test_face_smaller_than_a_token_is_refused():
  with pytest.raises(InputError, match="too small for sampling at 64x48"):
    _mask((100, 160, 100, 160), (1200, 1600), (48, 64))


def _mouth(box, picture, size, **how):
  region, = face_boxes.mouth_regions(np.array([box], np.float64), picture, size, **how)
  rows, columns = np.nonzero(region)
  assert region.dtype == bool and region.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
  return rows.min(), rows.max(), columns.min(), columns.max()


def test_mouth_is_the_lower_half_of_the_box():
  box = (20, 60, 10, 50)
  assert _mouth(box, (100, 200), (100, 200)) == (40, 59, 10, 49)
  assert _mouth(box, (100, 200), (200, 200), fraction=0.25) == (100, 119, 10, 49)  # twice as high


def test_the_mouth_is_scaled_along_both_axes():
  """A pixel is redrawn if its centre lies in the region: the right edge is at 3.5 here."""
  assert _mouth((0, 20, 0, 7), (20, 10), (10, 5)) == (5, 9, 0, 2)


def test_a_latent_frame_has_the_regions_of_its_four_frames():
  regions = face_boxes.mouth_regions(BOXES, (48, 64), (48, 64))
  columns = [np.flatnonzero(region.any(axis=0))[[0, -1]].tolist() for region in regions]
  assert columns == [[8, 23]] + [[10, 31]] * 4
  assert np.flatnonzero(regions[0].any(axis=1))[[0, -1]].tolist() == [20, 29]


def test_a_mouth_or_a_face_that_is_not_to_be_seen_names_its_frames():
  low = BOXES + np.array([[20 * (number == 4), 40 * (number == 4), 0, 0] for number in range(5)])
  with pytest.raises(InputError, match="The mouth is outside the picture in frame 14"):
    face_boxes.mouth_regions(low, (48, 64), (48, 64), first=10)
  small = BOXES.copy()
  small[2:4, 1] = 12
  with pytest.raises(InputError, match=r"too small for sampling at 64x48 in frames 2-3: it covers no cell"):
    face_boxes.token_boxes(small, (48, 64), (48, 64))


def test_files_of_other_kinds(tmp_path):
  """A pipe that nobody writes into, an archive, pickled objects, half an array, numbers without end."""
  os.mkfifo(tmp_path / "pipe.json")
  np.savez(tmp_path / "many.npz", BOXES)
  (tmp_path / "many.npz").rename(tmp_path / "many.npy")
  np.save(tmp_path / "objects.npy", np.array([[None] * 4] * 5), allow_pickle=True)
  np.save(tmp_path / "half.npy", BOXES)
  (tmp_path / "half.npy").write_bytes((tmp_path / "half.npy").read_bytes()[:-9])
  (tmp_path / "endless.json").write_text(f"[[0, {'9' * 400}, 0, 1]]")
  for name, said in (("pipe.json", "not a regular file"), ("many.npy", "cannot be read"), ("endless.json", "frame 0"),
                     ("objects.npy", "cannot be read"), ("half.npy", "cannot be read")):
    face_boxes.is_by_frame(str(tmp_path / name))
    with pytest.raises(InputError, match=said):
      read(tmp_path / name)
