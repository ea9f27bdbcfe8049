import io

import numpy as np
from PIL import Image
import pytest

from emv3_jax.errors import InputError
from emv3_jax.io.image_files import load_image


def picture(rng, height=24, width=40):
  return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_reads_rgb_exactly(tmp_path, rng):
  pixels = picture(rng)
  Image.fromarray(pixels).save(tmp_path / "a.png")
  got = load_image(tmp_path / "a.png")
  assert got.dtype == np.uint8
  np.testing.assert_array_equal(got, pixels)


def test_turns_upright(tmp_path, rng):
  pixels = picture(rng)
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned 90 degrees clockwise
  Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
  np.testing.assert_array_equal(load_image(tmp_path / "a.png"), np.rot90(pixels, -1))


def test_composites_alpha_onto_white(tmp_path):
  pixels = np.zeros((16, 16, 4), np.uint8)
  pixels[..., 0], pixels[:8, :, 3] = 200, 255
  Image.fromarray(pixels).save(tmp_path / "a.png")
  got = load_image(tmp_path / "a.png")
  assert got[0, 0].tolist() == [200, 0, 0] and got[15, 0].tolist() == [255, 255, 255]


def test_scales_sixteen_bits(tmp_path):
  grey = np.linspace(0, 65535, 16 * 16).reshape(16, 16).astype(np.uint16)
  Image.fromarray(grey).save(tmp_path / "a.png")
  got = load_image(tmp_path / "a.png")
  assert np.abs(got - grey[..., None] / 257).max() <= 0.5


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA"])
def test_other_modes_become_rgb(tmp_path, rng, mode):
  file = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
  Image.fromarray(picture(rng)).convert(mode).save(file)
  assert load_image(file).shape == (24, 40, 3)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "gif", "tiff"])
@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_truncated_at_any_place_is_refused(tmp_path, rng, kind):
  whole = io.BytesIO()
  Image.fromarray(picture(rng)).save(whole, kind)
  file = tmp_path / f"a.{kind}"
  for share in (0.02, 0.1, 0.3, 0.6, 0.9, 0.98):
    file.write_bytes(whole.getvalue()[:int(whole.tell() * share)])
    with pytest.raises(InputError, match=f"a.{kind}"):
      load_image(file)


@pytest.mark.parametrize("content, found", [(b"", "empty"), (b"no picture at all", "17 bytes")])
def test_what_is_no_image_is_refused(tmp_path, content, found):
  (tmp_path / "a.png").write_bytes(content)
  with pytest.raises(InputError, match=found):
    load_image(tmp_path / "a.png")


@pytest.mark.parametrize("height, width", [(1, 1), (15, 400)])
def test_small_images_are_refused(tmp_path, rng, height, width):
  Image.fromarray(picture(rng, height, width)).save(tmp_path / "a.png")
  with pytest.raises(InputError, match=f"{width}x{height}.*16"):
    load_image(tmp_path / "a.png")


def test_missing_files_folders_and_unknown_ranges_are_refused(tmp_path):
  with pytest.raises(InputError, match="no such file"):
    load_image(tmp_path / "none.png")
  with pytest.raises(InputError):
    load_image(tmp_path)
  Image.fromarray(np.ones((16, 16), np.float32)).save(tmp_path / "a.tiff")
  with pytest.raises(InputError, match="32 bits"):
    load_image(tmp_path / "a.tiff")


def test_a_folder_is_called_a_folder(tmp_path):
  with pytest.raises(InputError, match="is a folder; name a picture in it"):
    load_image(tmp_path)
