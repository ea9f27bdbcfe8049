"""Conversion of pictures with an ICC profile to sRGB."""

import functools
import io

from absl import logging
import numpy as np
from PIL import Image, ImageCms

_MODES = {"RGB": ("RGB", "RGBA"), "GRAY": ("L",), "CMYK": ("CMYK",)}  # by colour space of the profile
ROUNDING = 1  # in levels of 255; a profile that changes no colour by more is treated as sRGB


def to_srgb(image: Image.Image, profile: bytes | None, path) -> Image.Image:
  """Converts a picture to sRGB, mode RGB or RGBA; returns `image` itself if its colours are sRGB already.

  A profile that cannot be read, or whose colour space does not fit the picture's mode, is ignored with
  a warning.

  Args:
    image: picture of mode RGB, RGBA, L, LA, CMYK or another that converts to RGB.
    profile: ICC profile of the file; None if it has none.
    path: path of the picture, for messages.
  """
  if not profile:
    return image
  try:
    found = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    # PIL's type hints confuse the profile with the file that it was read from.
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
  assert result is not None  # it is None only for inPlace=True
  if alpha is not None:
    result.putalpha(alpha)
  return result


def _fitting(image: Image.Image, space: str) -> Image.Image | None:
  """Converts a picture to a mode of the profile's colour space; returns None if there is none."""
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
  """Returns whether a profile leaves colours unchanged; its name is not reliable."""
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
