import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms
import pytest

from emv3_jax.errors import InputError
from emv3_jax.io import image_files
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
  with pytest.raises(InputError, match="is a folder; name a file in it"):
    load_image(tmp_path)


def profile(matrix, gamma=2.2):
  """An ICC profile of RGB: its primaries are the rows of `matrix` (XYZ of D50), of one gamma."""
  fixed = lambda value: struct.pack(">i", round(value * 65536))
  xyz = lambda values: b"XYZ \0\0\0\0" + b"".join(map(fixed, values))
  curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
  text = b"text\0\0\0\0none\0\0\0\0"
  title = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"name\0" + bytes(78) + b"\0"
  parts = {b"wtpt": xyz((0.9642, 1.0, 0.8249)), b"cprt": text, b"desc": title,
           **{b"%cXYZ" % key: xyz(row) for key, row in zip(b"rgb", matrix, strict=True)},
           **{b"%cTRC" % key: curve for key in b"rgb"}}
  table, data, at = struct.pack(">I", len(parts)), b"", 132 + 12 * len(parts)
  for name, part in parts.items():
    part += bytes(-len(part) % 4)
    table += name + struct.pack(">II", at + len(data), len(part))
    data += part
  head = struct.pack(">I4sI4s4s4s", at + len(data), b"\0" * 4, 0x02400000, b"mntr", b"RGB ", b"XYZ ")
  head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642) + fixed(1.0) + fixed(0.8249)
  return head.ljust(128, b"\0") + table + data


SRGB = np.array([[0.4360, 0.2225, 0.0139], [0.3851, 0.7169, 0.0971], [0.1431, 0.0606, 0.7141]])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_profiles_become_srgb(tmp_path, rng, mode):
  """Of primaries in another order: red is stored in the channel of green."""
  pixels = np.zeros((16, 16, 3), np.uint8)
  pixels[:8, :, 1], pixels[8:] = 255, 255
  icc = profile(SRGB[[1, 0, 2]])
  Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png", icc_profile=icc)
  got = load_image(tmp_path / "a.png").astype(int)
  assert np.abs(got[0, 0] - [255, 0, 0]).max() <= 3 and np.abs(got[12, 0] - 255).max() <= 2


def test_srgb_stays_exactly(tmp_path, rng):
  pixels = picture(rng)
  icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  for name, data in (("a.png", pixels), ("b.png", pixels[..., 0])):  # grey with it is usual too
    Image.fromarray(data).save(tmp_path / name, icc_profile=icc)
  np.testing.assert_array_equal(load_image(tmp_path / "a.png"), pixels)
  np.testing.assert_array_equal(load_image(tmp_path / "b.png"), pixels[..., :1].repeat(3, -1))


@pytest.mark.parametrize("icc", [b"none", profile(SRGB).replace(b"RGB ", b"CMYK")])
def test_profiles_that_cannot_be_used_are_told(tmp_path, rng, told, icc):
  pixels = picture(rng)
  Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=icc)
  np.testing.assert_array_equal(load_image(tmp_path / "a.png"), pixels)
  assert len(told) == 1 and "colour profile cannot be used" in told[0]


@pytest.mark.parametrize("mode, ending", [("RGB", "png"), ("RGB", "jpg"), ("L", "png"), ("P", "png"),
                                          ("I;16", "png"), ("RGBA", "png")])
def test_large_pictures_are_scaled_while_read(tmp_path, monkeypatch, told, mode, ending):
  """Limits a thousandth of what they are."""
  monkeypatch.setattr(image_files, "SCALED_ABOVE", 89_000)
  monkeypatch.setattr(image_files, "MIN_SHORTER_SIDE", 64)
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
  ramp = np.linspace(0, 255, 512).astype(np.uint8) + np.zeros((300, 1), np.uint8)
  image = Image.fromarray(257 * ramp.astype(np.uint16)) if mode == "I;16" else Image.fromarray(ramp)
  exif = Image.Exif()
  exif[0x0112] = 6
  (image if mode == "I;16" else image.convert(mode)).save(tmp_path / f"a.{ending}", exif=exif)
  got = load_image(tmp_path / f"a.{ending}")
  assert got.shape == (128, 75, 3) and "its 512x300 pixels are read as 128x75" in told[0]
  np.testing.assert_allclose(got[:, 40, 0], ramp[0].reshape(128, 4).mean(1), atol=3)
  assert image_files.upright_size(tmp_path / f"a.{ending}") == (512, 300)
  assert Image.MAX_IMAGE_PIXELS == 50_000


def test_pictures_that_no_memory_holds_are_refused(tmp_path, monkeypatch):
  for mode in ("RGB", "L"):
    Image.new(mode, (64, 48)).save(tmp_path / f"{mode}.png")
  Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg")
  monkeypatch.setattr(image_files.machine, "memory", lambda: 64 * 48 * 4 - 1)
  with pytest.raises(InputError, match="RGB.png is 64x48 pixels, which take 0.0 GiB .*; this machine has"):
    load_image(tmp_path / "RGB.png")
  assert load_image(tmp_path / "L.png").shape == load_image(tmp_path / "a.jpg").shape
  Image.new("L", (32, 48)).save(tmp_path / "a.webp")
  with pytest.raises(InputError, match="a.webp is 32x48 pixels"):
    load_image(tmp_path / "a.webp")
  monkeypatch.setattr(Image.Image, "load", raise_memory_error)
  with pytest.raises(InputError, match="takes more memory than there is"):
    load_image(tmp_path / "L.png")


def raise_memory_error(*_):
  raise MemoryError


def test_bands_of_a_large_picture_fit_together(tmp_path, rng, monkeypatch):
  monkeypatch.setattr(image_files, "SCALED_ABOVE", 1000)
  monkeypatch.setattr(image_files, "MIN_SHORTER_SIDE", 20)
  monkeypatch.setattr(image_files, "_BAND", 6)
  pixels = rng.integers(0, 256, (83, 90, 3), np.uint8)  # rows and columns are left over
  Image.fromarray(pixels).save(tmp_path / "a.png")
  want = pixels[:80, :88].reshape(20, 4, 22, 4, 3).mean((1, 3))
  np.testing.assert_allclose(load_image(tmp_path / "a.png"), want, atol=1)


def test_too_large_pictures_are_refused(tmp_path):
  """By the size in the header: nothing is decoded."""
  Image.new("1", (16, 16)).save(tmp_path / "a.png")
  content = bytearray((tmp_path / "a.png").read_bytes())
  content[16:24] = struct.pack(">II", 30_000, 15_000)
  content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
  (tmp_path / "a.png").write_bytes(content)
  with pytest.raises(InputError, match="30000x15000 pixels, 450 megapixels; at most 400"):
    load_image(tmp_path / "a.png")
