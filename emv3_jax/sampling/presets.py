"""Presets: named settings of sampling, some of all variants and some of one."""

from emv3_jax import variants
from emv3_jax.errors import InputError

# Fields of the preset `released`. Numbers of pixels and frames are not in it: they belong to a model.
_RELEASED_FIELDS = ("solver", "steps", "shift", "solver_shift", "text_scale", "audio_scale",
                    "released_switch", "dynamic_text", "dynamic_audio", "guidance_until", "png", "neg_scale", "neg_steps",
                    "negative_prompt")
_RELEASED = "released"  # the preset that each variant has


def preset_names() -> tuple[str, ...]:
  """Returns the names of the presets of all variants."""
  own = [name for variant in map(variants.of, variants.names()) for name in variant.presets]
  return tuple(dict.fromkeys((_RELEASED, *own)))


def preset_of(name: str, variant: str) -> dict:
  """Returns the settings of a preset for a variant.

  Raises:
    InputError: the variant has no such preset.
  """
  found = variants.of(variant)
  if name == _RELEASED:
    return {field: found.settings[field] for field in _RELEASED_FIELDS}
  if name not in found.presets:
    having = [other for other in variants.names() if name in variants.of(other).presets]
    raise InputError(f"sampling.preset={name} is for {', '.join(having)}, this model is {variant}; "
                     "leave it out.")
  return dict(found.presets[name])
