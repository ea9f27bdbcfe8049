import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.errors import InputError
from emv3_jax.tasks import masks, names, of
from tests import golden_data


@pytest.mark.parametrize("frames, count", [(17, 1), (17, 5), (17, 8), (5, 1)])
def test_mask_latents_match_golden(frames, count):
  geometry = golden_data.load("e2e", "geometry").meta
  want = np.array(geometry[f"mask_latents frames={frames} known={count} [4 channels][T]"]).T
  got = masks.mask_latents(np.arange(frames) < count, (16, 32))
  assert got.shape == ((frames + 3) // 4, 2, 4, 4) and got.dtype == np.float32
  np.testing.assert_array_equal(got, np.broadcast_to(want[:, None, None], got.shape))


@pytest.mark.parametrize("task, mask", [
    ("t2v", [0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ("i2v", [1, 0, 0, 0, 0, 0, 0, 0, 0]),
    ("flf2v", [1, 0, 0, 0, 0, 0, 0, 0, 1])])
def test_condition_masks(task, mask):
  np.testing.assert_array_equal(of(task).condition_mask(9), np.array(mask, bool))


def test_one_frame_is_first_and_last():
  assert [of(task).condition_mask(1).tolist() for task in ("t2v", "i2v", "flf2v")] == [
      [False], [True], [True]]


def test_last_frame_is_the_last_channel():
  latents = masks.mask_latents(of("flf2v").condition_mask(9), (8, 8))[:, 0, 0]
  np.testing.assert_array_equal(latents, [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]])


def test_lipsync_cell_is_generated_with_any_of_its_pixels():
  mouth = np.zeros((9, 16, 24), bool)
  mouth[:, 9, 8] = True  # one pixel of cell (1, 1), in every frame
  mouth[6, 0, 23] = True  # one pixel of cell (0, 2), in one frame of latent frame 2
  want = np.ones((3, 2, 3))
  want[:, 1, 1] = 0
  want[2, 0, 2] = 0
  mask = masks.outside_mouth(mouth, 9)
  got = masks.mask_latents(mask, (16, 24))
  np.testing.assert_array_equal(got, np.repeat(want[..., None], 4, axis=-1))


def test_lipsync_first_latent_frame_sees_the_first_frame_only():
  mouth = np.zeros((5, 8, 8), bool)
  mouth[1:] = True
  np.testing.assert_array_equal(
      masks.mask_latents(masks.outside_mouth(mouth, 5), (8, 8))[:, 0, 0, 0], [1, 0])


def test_one_mouth_region_serves_all_frames():
  mouth = np.zeros((8, 16), bool)
  mouth[2:4, 3] = True
  mask = masks.outside_mouth(mouth, 5)
  assert mask.shape == (5, 8, 16)
  assert (~mask).sum() == 5 * 2 and not mask[:, 2:4, 3].any()


def test_lipsync_has_to_know_where_the_mouth_is():
  with pytest.raises(ValueError, match="give the mouth region"):
    of("lipsync").condition_mask(5)


def test_masked_video_is_mid_grey_outside_the_mask(rng):
  video = rng.uniform(-1, 1, (5, 8, 8, 3)).astype(np.float32)
  by_frame = masks.masked_video(video, of("i2v").condition_mask(5))
  np.testing.assert_array_equal(by_frame[0], video[0])
  assert not by_frame[1:].any()
  mouth = np.zeros((8, 8), bool)
  mouth[4:] = True
  by_pixel = masks.masked_video(video, masks.outside_mouth(mouth, 5))
  np.testing.assert_array_equal(by_pixel[:, :4], video[:, :4])
  assert not by_pixel[:, 4:].any() and by_pixel.dtype == np.float32


def test_masked_pixels_that_are_nan_stay_out():
  video = np.full((5, 8, 8, 3), np.nan, np.float32)
  video[0] = 0.5
  assert np.isfinite(masks.masked_video(video, of("i2v").condition_mask(5))).all()


def test_masked_video_matches_golden():
  case = golden_data.load("e2e", "image_io")
  video = 2 * case["video_two_refs"][0].transpose(1, 2, 3, 0) - 1
  mask = case["mask_two_refs"].reshape(-1) < 127
  assert mask.tolist() == [True, True, False, False, False]
  got = masks.masked_video(video, mask)
  np.testing.assert_array_equal(got[:2], video[:2])
  assert not got[2:].any()


def test_latents_are_zeroed_only_where_nothing_is_given():
  frame = masks.mask_latents(of("i2v").condition_mask(5), (8, 8))
  mask = np.stack([frame, np.zeros_like(frame)])
  latents = np.full((2, 2, 1, 1, 16), 3.0, np.float32)
  got = jax.jit(masks.condition)(mask, latents)
  assert got.shape == (2, 2, 1, 1, 20) and got.dtype == jnp.float32
  np.testing.assert_array_equal(got[..., :4], mask)
  np.testing.assert_array_equal(got[0, ..., 4:], latents[0])
  assert not got[1].any()
  assert not masks.condition(mask, None)[..., 4:].any()


@pytest.mark.parametrize("mask, size", [
    (np.ones(4, bool), (8, 8)), (np.ones(5, bool), (8, 12)), (np.ones((5, 8, 8), bool), (8, 16))])
def test_misshapen_masks_are_refused(mask, size):
  with pytest.raises(ValueError):
    masks.mask_latents(mask, size)


def test_task_names():
  assert [of(name).name for name in ("t2v", "i2v", "flf2v", "lipsync")] == list(names())
  with pytest.raises(InputError, match="(?s)'lip-sync'.*t2v, i2v, flf2v, lipsync.*mean lipsync"):
    of("lip-sync")
