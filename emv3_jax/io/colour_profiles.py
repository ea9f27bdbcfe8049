"""ICC profiles of pictures: colours to sRGB."""

import functools
import io

from absl import logging
import numpy as np
from PIL import Image, ImageCms

_MODES = {"RGB": ("RGB", "RGBA"), "GRAY": ("L",), "CMYK": ("CMYK",)}  # by colour space of the profile
ROUNDING = 1  # of 255; a profile that changes no colour by more is sRGB


def to_srgb(image: Image.Image, profile: bytes | None, path) -> Image.Image:
  """`image` in sRGB, mode RGB or RGBA where its profile is of other colours; else `image` itself.

  A profile that cannot be read, or that is of another kind of colours than the picture, is told and
  left aside.

  Args:
    image: of mode RGB, RGBA, L, LA, CMYK or another that converts to RGB.
    profile: of the file; None without one.
    path: what messages call the picture.
  """
  if not profile:
    return image
  try:
    found = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    # PIL's hints take the profile for the file that it came from.
    space = found.profile.xcolor_space.strip()  # pyright: ignore[reportAttributeAccessIssue]
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    fitting = _fitting(image, space)
    if fitting is None:
      raise ValueError(f"it is of {space} colours, the picture of {image.mode}")
    if space != "CMYK" and _is_srgb(profile, space):
      return image
    target = "RGBA" if fitting.mode == "RGBA" else "RGB"
    result = ImageCms.profileToProfile(fitting, found, _srgb(), outputMode=target)
  except (ImageCms.PyCMSError, OSError, ValueError) as error:
    logging.warning("%s: its colour profile cannot be used (%s); its colours are taken for sRGB.", path,
                    error)
    return image
  assert result is not None  # it is where a new picture is asked for
  if alpha is not None:
    result.putalpha(alpha)
  return result


def _fitting(image: Image.Image, space: str) -> Image.Image | None:
  """The picture in a mode that the profile's colours have; None where there is none."""
  modes = _MODES.get(space, ())
  if image.mode in modes:
    return image
  if space == "RGB" and image.mode != "CMYK":
    return image.convert("RGB")
  if space == "GRAY" and image.mode in ("LA", "1", "I;16"):
    return image.convert("L")
  return None


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
  return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@functools.lru_cache(16)
def _is_srgb(profile: bytes, space: str) -> bool:
  """By what it does to colours: names lie."""
  if space == "GRAY":
    levels = np.arange(256, dtype=np.uint8)[None]
    before, colours = levels[..., None].repeat(3, -1), Image.fromarray(levels)
  else:
    axis = np.linspace(0, 255, 9, dtype=np.uint8)
    before = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(1, -1, 3)
    colours = Image.fromarray(before)
  after = ImageCms.profileToProfile(
      colours, ImageCms.ImageCmsProfile(io.BytesIO(profile)), _srgb(), outputMode="RGB")
  return np.abs(np.asarray(after).astype(int) - before).max() <= ROUNDING
