"""Prefixes that training code and other programs add to the names of a network's tensors.

The same network is `blocks.0...` in one file, `module.blocks.0...` in the next, and
`{"state_dict": {"model._orig_mod.blocks.0...": ...}}` in a third.
"""

from collections.abc import Collection, Mapping
from typing import TypeVar

# Words at the beginning of a name, in any order and number.
LEADING = frozenset((
    "module", "model", "diffusion_model", "transformer", "transformer3d", "dit", "unet", "net",
    "network", "base_model", "state_dict", "model_state_dict", "params", "weights", "ema",
    "ema_model", "model_ema", "shadow", "generator", "generator_ema", "vae", "first_stage_model",
    "autoencoder", "text_encoder", "text_encoders", "cond_stage_model", "umt5xxl", "image_encoder",
    "clip", "clip_vision", "audio_encoder"))
# Words anywhere in a name, for layers that a library has wrapped individually.
ANYWHERE = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module",
                      "_forward_module"))
Value = TypeVar("Value")


def without_wrapped_layers(tensors: Mapping[str, Value]) -> dict[str, Value]:
  """Removes the words of `ANYWHERE` from all names, or from none if two names would become equal."""
  plain = {".".join(part for part in name.split(".") if part not in ANYWHERE): value
           for name, value in tensors.items()}
  return plain if len(plain) == len(tensors) else dict(tensors)


def prefixes(names: Collection[str]) -> list[str]:
  """Returns the possible prefixes of a network's names, each with a final dot; the shortest, "", first."""
  found = {""}
  for name in names:
    prefix = ""
    for word in name.split(".")[:-1]:
      if word not in LEADING:
        break
      prefix += f"{word}."
      found.add(prefix)
  return sorted(found, key=lambda prefix: (len(prefix), prefix))


def unwrapped(names: Collection[str], prefix: str) -> dict[str, str]:
  """Returns {name without the prefix: name}; names without the prefix are unchanged.

  A name whose shorter form is the name of another tensor is unchanged as well.
  """
  all_names = set(names)
  short = {name: name.removeprefix(prefix) for name in names}
  return {name if without != name and without in all_names else without: name
          for name, without in short.items()}
