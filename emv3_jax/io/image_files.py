"""Still images from files."""

from collections.abc import Iterator
import contextlib
import os

from absl import logging
from jaxtyping import UInt8
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from emv3_jax.errors import InputError
from emv3_jax.geometry import TOKEN
from emv3_jax.io import colour_profiles

SMALLEST_SIDE = TOKEN
# Of larger pictures the memory while they are decoded, four bytes a pixel, would exceed 1.6 GB. PIL's
# own limit, which warns of 89 megapixels and refuses 179, is set to it.
LARGEST = 400_000_000  # pixels
SCALED_ABOVE = 89_000_000  # pixels; these are scaled while they are read
ORIENTATION = 0x0112  # number of the EXIF tag
KEPT_SIDE = 2048  # pixels at least that are kept of the shorter side


def load_image(path: str | os.PathLike) -> UInt8[np.ndarray, "H W 3"]:
  """Reads an image upright (EXIF orientation applied), 8 bits a channel, sRGB.

  Colours of a profile are converted to sRGB, transparent pixels are composited onto white, 16-bit grey
  is scaled to 8 bits, and of an animation the first frame is taken. Of more than 89 megapixels every
  2x2, 4x4 or more pixels become one.

  Raises:
    InputError: no such file, no image, cut short, a side below 16 pixels, or more than 400 megapixels.
  """
  with _opened(path) as file:
    factor, profile = _factor(file, path), file.info.get("icc_profile")
    image = ImageOps.exif_transpose(file if factor == 1 else _reduced(file, factor))
    image.load()
    if min(image.size) < SMALLEST_SIDE:
      raise InputError(f"Image {path} is {image.width}x{image.height} pixels; "
                       f"both sides must have {SMALLEST_SIDE} at least.")
    return _eight_bit_rgb(image, profile, path)


def upright_size(path: str | os.PathLike) -> tuple[int, int]:
  """Height and width in the file, upright; only its header is read.

  Raises:
    InputError: as `load_image`, of what the header tells.
  """
  with _opened(path) as file:
    turned = file.getexif().get(ORIENTATION, 1) >= 5
    return (file.width, file.height) if turned else (file.height, file.width)


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Image.Image]:
  """PIL's file; errors of opening and decoding become `InputError`s."""
  if os.path.isdir(path):
    raise InputError(f"Image {path} is a folder; name a file in it.")
  limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # `_factor` has its own
  try:
    with Image.open(path) as file:
      yield file
  except FileNotFoundError:
    raise InputError(f"Image {path}: no such file.") from None
  except IsADirectoryError:
    raise InputError(f"Image {path} is a folder; name a picture in it.") from None
  except UnidentifiedImageError:
    size = os.path.getsize(path)
    found = "is empty (0 bytes)" if size == 0 else f"is no image that can be read ({size} bytes)"
    raise InputError(f"Image {path} {found}; give a PNG, JPEG or WebP file.") from None
  except InputError:
    raise
  except (OSError, SyntaxError, ValueError) as error:
    raise InputError(f"Image {path} cannot be read whole: {error}\n"
                     "The file may be cut short or damaged; save it again.") from None
  finally:
    Image.MAX_IMAGE_PIXELS = limit


def _factor(file: Image.Image, path) -> int:
  """By how much a picture is scaled down while it is read: a power of 2; 1 for ordinary ones."""
  pixels, factor = file.width * file.height, 1
  if pixels > LARGEST:
    raise InputError(f"Image {path} is {file.width}x{file.height} pixels, {pixels / 1e6:.0f} megapixels; "
                     f"at most {LARGEST // 10**6} are read. Save it smaller.")
  while pixels > SCALED_ABOVE and min(file.size) // (2 * factor) >= KEPT_SIDE:
    factor *= 2
  if factor > 1:
    logging.warning("%s: its %dx%d pixels are read as %dx%d.", path, file.width, file.height,
                    file.width // factor, file.height // factor)
  return factor


def _reduced(file: Image.Image, factor: int) -> Image.Image:
  """`file` scaled down by `factor`; of a JPEG the decoder does it as far as it can."""
  width, height = file.width // factor, file.height // factor
  orientation = file.getexif().get(ORIENTATION)
  file.draft(None, (width, height))
  factor = max(1, round(file.width / width))
  if factor == 1:
    return file
  if file.mode.startswith("I;16"):
    rows, columns = file.height // factor, file.width // factor
    blocks = np.asarray(file)[:rows * factor, :columns * factor].reshape(rows, factor, columns, factor)
    image = Image.fromarray(np.stack([row.mean(axis=(0, 2)).astype(np.uint16) for row in blocks]))
  else:
    if file.mode in ("P", "1"):
      file = file.convert("RGBA" if file.has_transparency_data else "RGB")
    image = file.reduce(factor)
  if orientation:
    image.getexif()[ORIENTATION] = orientation
  return image


def _eight_bit_rgb(image: Image.Image, profile: bytes | None, path) -> np.ndarray:
  if image.mode.startswith("I;16"):
    image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
  if image.mode in ("I", "F"):
    raise InputError(f"Image {path} has 32 bits a pixel, whose range is unknown; "
                     "save it with 8 bits a channel.")
  if image.has_transparency_data:
    image = colour_profiles.to_srgb(image.convert("RGBA"), profile, path)
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))
  return np.asarray(colour_profiles.to_srgb(image, profile, path).convert("RGB"))
