"""Still images from files."""

import os

from jaxtyping import UInt8
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from emv3_jax.errors import InputError

SMALLEST_SIDE = 16  # pixels; one transformer token


def load_image(path: str | os.PathLike) -> UInt8[np.ndarray, "H W 3"]:
  """Reads an image upright (EXIF orientation applied), 8 bits a channel, RGB.

  Transparent pixels are composited onto white, 16-bit grey is scaled to 8 bits, and of an
  animation the first frame is taken.

  Raises:
    InputError: no such file, no image, cut short, or a side below 16 pixels.
  """
  try:
    with Image.open(path) as file:
      image = ImageOps.exif_transpose(file)
      image.load()
  except FileNotFoundError:
    raise InputError(f"Image {path}: no such file.") from None
  except IsADirectoryError:
    raise InputError(f"Image {path} is a folder; name a picture in it.") from None
  except UnidentifiedImageError:
    size = os.path.getsize(path)
    found = "is empty (0 bytes)" if size == 0 else f"is no image that can be read ({size} bytes)"
    raise InputError(f"Image {path} {found}; give a PNG, JPEG or WebP file.") from None
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise InputError(f"Image {path} cannot be read whole: {error}\n"
                     "The file may be cut short or damaged; save it again.") from None
  if min(image.size) < SMALLEST_SIDE:
    raise InputError(f"Image {path} is {image.width}x{image.height} pixels; "
                     f"both sides must have {SMALLEST_SIDE} at least.")
  return _eight_bit_rgb(image, path)


def _eight_bit_rgb(image: Image.Image, path) -> np.ndarray:
  if image.mode.startswith("I;16"):
    grey = np.rint(np.asarray(image) / 257).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
  if image.mode in ("I", "F"):
    raise InputError(f"Image {path} has 32 bits a pixel, whose range is unknown; "
                     "save it with 8 bits a channel.")
  if image.has_transparency_data:
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
  return np.asarray(image.convert("RGB"))
