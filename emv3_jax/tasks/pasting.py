"""Post-processing of lip-sync: pixels of the source outside the mouth region, with a soft seam."""

from jaxtyping import Bool, Float32, UInt8
import numpy as np
from PIL import Image, ImageFilter


def feathered(mouth: Bool[np.ndarray, "H W"], radius: float) -> Float32[np.ndarray, "H W"]:
  """Computes the weight of the generated picture: 1 well inside the mouth region, 0 outside it.

  Args:
    mouth: True where the mouth is inpainted.
    radius: width of the seam in pixels; the seam lies inside the region, so that no pixel
      outside of it changes.

  Returns:
    In [0, 1].
  """
  size = 2 * int(np.ceil(radius)) + 1
  picture = Image.fromarray(mouth.astype(np.uint8) * 255)
  core = picture.filter(ImageFilter.MinFilter(size))
  soft = core.filter(ImageFilter.GaussianBlur(radius / 2))
  return np.asarray(soft, np.float32) / 255 * mouth


def paste(frames: UInt8[np.ndarray, "F H W 3"], source: UInt8[np.ndarray, "F H W 3"],
          mouth: Bool[np.ndarray, "F H W"]) -> UInt8[np.ndarray, "F H W 3"]:
  """Puts the source's pixels back outside the mouth region.

  Args:
    frames: as decoded.
    source: of the same size.
    mouth: True where it is redrawn.
  """
  radius = max(1.0, min(frames.shape[1:3]) / 64)
  pasted = source.copy()
  weight, region, part = np.empty(0), None, (slice(0), slice(0))
  for index, (new, old) in enumerate(zip(frames, source, strict=True)):
    if region is None or not np.array_equal(region, mouth[index]):
      region = mouth[index]
      part = _surroundings(region, 2 * int(np.ceil(radius)) + 1)
      weight = feathered(region[part], radius)[..., None]
    pasted[index][part] = np.round(weight * new[part] + (1 - weight) * old[part])
  return pasted


def _surroundings(region: Bool[np.ndarray, "H W"], margin: int) -> tuple[slice, slice]:
  """Returns rows and columns of the region, `margin` pixels more on each side where the picture has them.

  Beyond the region the weight is 0: nothing but this part of a picture changes.
  """
  def span(other_axis: int) -> slice:
    found = np.flatnonzero(region.max(axis=other_axis))
    return slice(max(0, int(found[0]) - margin), int(found[-1]) + 1 + margin) if len(found) else slice(0)

  return span(1), span(0)
