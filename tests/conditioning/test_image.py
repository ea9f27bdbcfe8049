import numpy as np
import pytest

from emv3_jax.conditioning import colour_match, image
from emv3_jax.errors import InputError
from tests import golden_data


def test_sample_sizes_match_golden():
  sizes = golden_data.load("e2e", "geometry").meta["get_sample_size(PIL (w,h), [768,768]) -> (H,W)"]
  assert len(sizes) >= 7
  for name, want in sizes.items():
    width, height = map(int, name.split("x"))
    assert image.sample_size(height, width) == tuple(want), name


def test_sample_size_takes_any_area_and_never_enlarges():
  assert image.sample_size(100, 37) == (96, 32)
  assert image.sample_size(640, 480, max_area=64 * 64) == (64, 48)


def test_too_narrow_for_sampling_is_refused():
  with pytest.raises(InputError, match="100000x16"):
    image.sample_size(16, 100_000)


def test_lanczos_matches_golden():
  case = golden_data.load("e2e", "image_io")
  want = case["resized_lanczos_u8"]
  np.testing.assert_array_equal(image.resize_lanczos(case["src_u8"], want.shape[:2]), want)
  film = np.stack([case["src_u8"], case["src_u8"][::-1]])
  got = image.resize_lanczos(film, want.shape[:2])
  assert got.shape == (2, *want.shape)
  np.testing.assert_array_equal(got[0], want)


def test_pixels_match_golden():
  case = golden_data.load("e2e", "image_io")
  want = 2 * case["video_single"][0, :, 0].transpose(1, 2, 0) - 1
  got = image.to_pixels(case["resized_lanczos_u8"])
  assert got.dtype == np.float32
  np.testing.assert_array_equal(got, want)


@golden_data.cases("clip", "case_*")
def test_clip_pixels_match_golden(name):
  case = golden_data.load("clip", name)
  if "mid.pixels_224" not in case.arrays:
    pytest.skip("recorded without the pixels")
  want = case["mid.pixels_224"][0].transpose(1, 2, 0)
  pixels = case["in.image_u8"]
  golden_data.check("CLIP pixels", image.clip_vision_pixels(pixels), want, 1e-5)
  golden_data.check("CLIP pixels", image.clip_vision_pixels(image.to_pixels(pixels)), want, 1e-5)


def test_clip_pixels_overshoot_and_keep_constants():
  grey = image.clip_vision_pixels(np.zeros((40, 24, 3), np.float32))  # 0.0 in [-1, 1], mid grey
  np.testing.assert_allclose(
      grey, np.broadcast_to((0.5 - image.CLIP_VISION_MEAN) / image.CLIP_VISION_STD, grey.shape), atol=1e-6)
  edge = np.zeros((64, 64, 3), np.uint8)
  edge[:, 32:] = 255
  unit = image.clip_vision_pixels(edge) * image.CLIP_VISION_STD + image.CLIP_VISION_MEAN
  assert unit.min() < -0.05 and unit.max() > 1.05


def test_sizes_that_rounding_gives_are_known(rng):
  for _ in range(200):
    height, width = (int(side) for side in rng.integers(64, 3000, 2))
    size = image.sample_size(height, width, int(rng.integers(200_000, 1_000_000)))
    assert image.is_sample_size(height, width, size)
  for height, width, size in ((512, 256, (256, 256)), (64, 54, (64, 64)), (80, 64, (64, 64)),
                              (64, 64, (80, 80))):
    assert not image.is_sample_size(height, width, size)


def test_colours_are_matched_as_in_the_released_scripts():
  case = golden_data.load("e2e", "image_io")
  source, first, want = (case[f"color_transfer.{name}"] for name in ("src", "ref(first frame)", "out"))
  got = colour_match.matched(np.stack([first, source]))
  np.testing.assert_array_equal(got[0], first)
  off = np.abs(got[1].astype(int) - want)  # OpenCV rounds to 8 bit Lab
  assert off.max() <= 5 and off.mean() < 1 and np.abs(source.astype(int) - want).mean() > 20


def test_lab_and_back():
  pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
  np.testing.assert_array_equal(colour_match.to_rgb(colour_match.to_lab(pixels)), pixels)
  np.testing.assert_allclose(colour_match.to_lab(np.full((1, 1, 3), 255, np.uint8))[0, 0], [100, 0, 0], atol=1e-4)
