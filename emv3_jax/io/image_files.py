"""Decoding of still images."""

from collections.abc import Iterator
import contextlib
import os

from absl import logging
from jaxtyping import UInt8
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from emv3_jax.errors import InputError
from emv3_jax.geometry import TOKEN
from emv3_jax.io import colour_profiles, paths
from emv3_jax.runtime import machine

SMALLEST_SIDE = TOKEN
# Decoding a larger picture would take more than 1.6 GB of memory. It replaces PIL's own limits, a warning above 89
# megapixels and an error above 179.
LARGEST = 400_000_000  # pixels
SCALED_ABOVE = 89_000_000  # pixels; larger pictures are scaled down while they are read
ORIENTATION = 0x0112  # number of the EXIF tag
MIN_SHORTER_SIDE = 2048  # pixels of the shorter side that remain after scaling
# Bytes per pixel while a picture is read: by format (the JPEG decoder scales, WebP is decoded into several canvases),
# and by mode; all other modes take four.
_BYTES_OF_FORMAT = {"JPEG": 3, "WEBP": 16}
_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
_BAND = 256  # approximate number of rows that are scaled at a time


def load_image(path: str | os.PathLike) -> UInt8[np.ndarray, "H W 3"]:
  """Reads an image upright (EXIF orientation applied), with 8 bits per channel, in sRGB.

  Colours with an ICC profile are converted to sRGB, transparent pixels are composited onto white, 16-bit
  grey is scaled to 8 bits, and of an animation the first frame is read. Images of more than 89
  megapixels are scaled down by 2, 4 or a higher power of 2.

  Raises:
    InputError: there is no such file, it is not an image, is cut short, has a side below 16 pixels or more
      than 400 megapixels, or does not fit into this machine's memory.
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
  """Returns height and width of the upright image; reads only the header of the file.

  Raises:
    InputError: as `load_image`, as far as the header shows it.
  """
  with _opened(path) as file:
    turned = file.getexif().get(ORIENTATION, 1) >= 5
    return (file.width, file.height) if turned else (file.height, file.width)


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Image.Image]:
  """Opens a file with PIL; errors of opening and decoding become `InputError`s."""
  paths.check_input(path, "Image")
  limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # `_factor` checks the size
  try:
    with Image.open(path) as file:
      yield file
  except UnidentifiedImageError:
    size = os.path.getsize(path)
    found = "is empty (0 bytes)" if size == 0 else f"is not an image that can be read ({size} bytes)"
    raise InputError(f"Image {path} {found}; give a PNG, JPEG or WebP file.") from None
  except InputError:
    raise
  except MemoryError:
    raise InputError(f"Image {path} takes more memory than there is while it is read; save it smaller.") from None
  except (OSError, SyntaxError, ValueError) as error:
    raise InputError(f"Image {path} cannot be read whole: {error}\n"
                     "The file may be cut short or damaged; save it again.") from None
  finally:
    Image.MAX_IMAGE_PIXELS = limit


def _factor(file: Image.Image, path) -> int:
  """Returns the factor by which a picture is scaled down while it is read: a power of 2, usually 1."""
  pixels, factor = file.width * file.height, 1
  if pixels > LARGEST:
    raise InputError(f"Image {path} is {file.width}x{file.height} pixels, {pixels / 1e6:.0f} megapixels; "
                     f"at most {LARGEST // 10**6} are read. Save it smaller.")
  _check_memory(file, path)
  while pixels > SCALED_ABOVE and min(file.size) // (2 * factor) >= MIN_SHORTER_SIDE:
    factor *= 2
  if factor > 1:
    logging.warning("%s: its %dx%d pixels are read as %dx%d.", path, file.width, file.height,
                    file.width // factor, file.height // factor)
  return factor


def _check_memory(file: Image.Image, path) -> None:
  a_pixel = _BYTES_OF_FORMAT.get(file.format or "") or _BYTES.get(file.mode, 4)
  needed, there = file.width * file.height * a_pixel, machine.memory()
  if needed > there:
    raise InputError(f"Image {path} is {file.width}x{file.height} pixels, which take {needed / 2**30:.1f} GiB while "
                     f"they are read; this machine has {there / 2**30:.1f} GiB. Save it smaller, or as a JPEG.")


def _reduced(file: Image.Image, factor: int) -> Image.Image:
  """Scales a picture down by `factor` and cuts the remainder at the right and lower edges.

  A JPEG's decoder does it as far as it can. The rest is done in bands, so that little memory is used in
  addition to the decoded file.
  """
  width, height = file.width // factor, file.height // factor
  orientation = file.getexif().get(ORIENTATION)
  file.draft(None, (width, height))
  factor = max(1, round(file.width / width))
  if factor == 1:
    return file
  width, height, rows = file.width // factor, file.height // factor, max(1, _BAND // factor)
  bands = [_reduced_band(file.crop((0, top * factor, width * factor, min(top + rows, height) * factor)), factor)
           for top in range(0, height, rows)]
  image = Image.new(bands[0].mode, (width, height))
  for number, band in enumerate(bands):
    image.paste(band, (0, number * rows))
  if orientation:
    image.getexif()[ORIENTATION] = orientation
  return image


def _reduced_band(band: Image.Image, factor: int) -> Image.Image:
  if band.mode.startswith("I;16"):
    rows, columns = band.height // factor, band.width // factor
    means = np.asarray(band).reshape(rows, factor, columns, factor).mean(axis=(1, 3))
    return Image.fromarray(means.astype(np.uint16))
  if band.mode in ("P", "1"):
    band = band.convert("RGBA" if band.has_transparency_data else "RGB")
  return band.reduce(factor)


def _eight_bit_rgb(image: Image.Image, profile: bytes | None, path) -> UInt8[np.ndarray, "H W 3"]:
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
