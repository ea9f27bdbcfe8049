"""The size that a clip is prepared at."""

import math


def nearest_size(height: int, width: int, sizes: tuple[tuple[int, int], ...]) -> tuple[int, int]:
  """The (height, width) of `sizes` with the nearest aspect ratio; of equal ones the largest that does
  not enlarge the picture, or else the smallest."""
  def distance(size):
    aspect = abs(math.log(size[0] / size[1]) - math.log(height / width))
    enlarges = size[0] > height and size[1] > width
    return round(aspect, 6), enlarges, size[0] * size[1] * (1 if enlarges else -1)

  return min(sizes, key=distance)
