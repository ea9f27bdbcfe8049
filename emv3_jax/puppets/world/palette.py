"""The colours of the puppets' world, by the names that captions and truths use.

Every table maps a name to (red, green, blue) in 0..255. Within a table the colours lie far enough
apart to be told from one another after lossy compression, and nothing but the inside of a mouth
comes near `MOUTH`, which is what lets the readers measure an opening by its area.
"""

from types import MappingProxyType

Colour = tuple[int, int, int]

MOUTH: Colour = (158, 8, 78)
GLOVE: Colour = (250, 250, 248)
INK: Colour = (52, 50, 66)
EYE_WHITE: Colour = (250, 250, 250)

SKIN = MappingProxyType({
  "porcelain": (246, 208, 182),
  "peach": (230, 174, 136),
  "honey": (202, 146, 98),
  "caramel": (168, 110, 70),
  "cocoa": (124, 78, 52),
  "espresso": (86, 54, 40),
})

HAIR = MappingProxyType({
  "black": (38, 34, 42),
  "brown": (100, 60, 34),
  "blonde": (230, 192, 98),
  "ginger": (212, 112, 44),
  "silver": (178, 182, 192),
  "blue": (58, 100, 192),
  "green": (66, 148, 92),
})

EYES = MappingProxyType({
  "brown": (84, 50, 30),
  "blue": (50, 96, 170),
  "green": (52, 118, 74),
  "grey": (84, 92, 104),
})

CLOTHES = MappingProxyType({
  "navy": (40, 54, 112),
  "teal": (14, 122, 122),
  "mustard": (214, 160, 42),
  "green": (60, 128, 60),
  "orange": (226, 112, 40),
  "grey": (92, 94, 102),
  "sky blue": (92, 164, 224),
  "violet": (132, 104, 196),
})

BACKGROUND = MappingProxyType({
  "blue": (108, 160, 208),
  "mint": (128, 190, 156),
  "sand": (204, 180, 134),
  "lavender": (164, 150, 204),
  "grey": (150, 154, 160),
  "teal": (72, 140, 146),
  "olive": (142, 150, 84),
  "lemon": (216, 198, 106),
})


def shade(colour: Colour, factor: float) -> Colour:
  """`colour` times `factor`, clipped to 0..255: the same hue, darker or lighter."""
  red, green, blue = (min(255, max(0, round(channel * factor))) for channel in colour)
  return red, green, blue


def mix(first: Colour, second: Colour, share: float) -> Colour:
  """`first` with `share` (0..1) of `second` mixed in."""
  red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
  return red, green, blue
