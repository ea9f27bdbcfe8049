"""The audio variants by name."""

from emv3_jax.errors import InputError
from emv3_jax.models.audio_projection import AUDIO_PATHS
from emv3_jax.variants.flash import FLASH
from emv3_jax.variants.preview import PREVIEW
from emv3_jax.variants.variant import Variant

_TABLE = {variant.name: variant for variant in (PREVIEW, FLASH)}
_OWN = tuple(_TABLE)


def of(name: str | None) -> Variant:
  """Returns the variant called `name`.

  Raises:
    InputError: there is no such variant.
  """
  variant = _TABLE.get(name) if isinstance(name, str) else None
  if variant is None:
    raise InputError(f"Unknown variant {name!r}; known: {', '.join(_TABLE)}.")
  return variant


def names() -> tuple[str, ...]:
  """Returns the names of all variants."""
  return tuple(_TABLE)


def register(variant: Variant) -> Variant:
  """Adds a variant in this process. Its audio projection has to be in
  `models.audio_projection.AUDIO_PATHS` under the same name.

  Raises:
    ValueError: the name is taken, or the audio projection is missing.
  """
  if variant.name in _TABLE:
    raise ValueError(f"There is a variant {variant.name} already.")
  if variant.name not in AUDIO_PATHS:
    raise ValueError(f"models.audio_projection.AUDIO_PATHS has no {variant.name}; add it there first.")
  _TABLE[variant.name] = variant
  return variant


def unregister(name: str) -> None:
  """Removes a variant that `register` added.

  Raises:
    ValueError: the variant belongs to the package, or there is no such variant.
  """
  if name in _OWN or name not in _TABLE:
    raise ValueError(f"Variant {name} was not registered.")
  del _TABLE[name]
