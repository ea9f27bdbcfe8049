"""Prefixes that training code and other programs add to the names of a network.

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
# Words anywhere in a name: layers that a library has wrapped one by one.
ANYWHERE = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module",
                      "_forward_module"))
Value = TypeVar("Value")


def without_wrapped_layers(tensors: Mapping[str, Value]) -> dict[str, Value]:
  """The tensors under names without the words of `ANYWHERE`; all as they are where two would be
  one."""
  plain = {".".join(part for part in name.split(".") if part not in ANYWHERE): value
           for name, value in tensors.items()}
  return plain if len(plain) == len(tensors) else dict(tensors)


def prefixes(names: Collection[str]) -> list[str]:
  """What may stand before the names of a network, each with its dot; the shortest, "", first."""
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
  """{name without the prefix, or as it is where it has none: name}.

  A name whose shorter form is the name of another tensor stays as it is.
  """
  known = set(names)
  short = {name: name.removeprefix(prefix) for name in names}
  return {name if without != name and without in known else without: name
          for name, without in short.items()}
