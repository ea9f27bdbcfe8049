"""Sharding of the parameters: one rule for each, by its dotted name, gives axes of the mesh.

The transformer's parameters are split over fsdp and context along the model width ("embed") and over
tensor along heads and hidden width; a layer's are gathered when it runs. The encoders, whose tokens
are few and whose weights are many, are split along hidden axes alone ("wide"), so that weights stay
where they are and activations are summed; a wide axis is split over those mesh axes that divide it
(1280 over 4 of data 4 x tensor 3). None is whole on every device: vectors, modulations, the
first maps of the audio and image paths, all of the VAE (0.24 GiB in bfloat16, its pictures are what
is split) and wav2vec2 but for its feed-forward layers.
"""

import functools
import math
import re
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.models.network import Params, param_name
from emv3_jax.sharding import mesh as mesh_lib

Axes = tuple[str | None, ...]

INT8_LEAVES = tuple(f".{array}.{leaf}" for array in ("kernel", "embedding") for leaf in ("int8", "scale"))
_VECTOR = (None,)
_MATRIX = (None, None)
_STACKED = "blocks."  # parameters of scanned layers have a leading layers axis

RULES: dict[str, tuple[tuple[str, Axes], ...]] = {  # component -> (pattern, axes of one layer)
    "transformer": (
        (r"patch_embedding\.kernel", (None, None, None, None, "embed")),
        (r"(text|time)_embedding\.up\.kernel", (None, "embed")),
        (r"(text|time)_embedding\.down\.kernel", ("embed", None)),
        (r"time_projection\.kernel", (None, "embed")),
        (r"image_embedding\.up\.kernel", _MATRIX),
        (r"image_embedding\.down\.kernel", (None, "embed")),
        (r"audio_projection\.proj\.kernel", (None, "embed")),
        (r"audio_projection\.proj1(_vf)?\.kernel", ("features", None)),
        (r"audio_projection\.proj2\.kernel", _MATRIX),
        (r"audio_projection\.proj3\.kernel", (None, "embed")),
        (r"(patch_embedding|time_projection|(text|time|image)_embedding\.(up|down)"
         r"|audio_projection\.proj\w*)\.bias", _VECTOR),
        (r"(image_embedding\.norm_(in|out)|audio_projection\.norm)\.(scale|bias)", _VECTOR),
        (r"blocks\.(self|cross)_attn\.[qkv](_img|_audio)?\.kernel", ("embed", "heads")),
        (r"blocks\.(self|cross)_attn\.[qkv](_img|_audio)?\.bias", ("heads",)),
        (r"blocks\.(self|cross)_attn\.norm_[qk](_img|_audio)?\.scale", ("heads",)),
        (r"blocks\.(self|cross)_attn\.o\.kernel", ("heads", "embed")),
        (r"blocks\.ffn\.up\.kernel", ("embed", "mlp")),
        (r"blocks\.ffn\.up\.bias", ("mlp",)),
        (r"blocks\.ffn\.down\.kernel", ("mlp", "embed")),
        (r"blocks\.((self|cross)_attn\.o|ffn\.down)\.bias", _VECTOR),
        (r"blocks\.norm3\.(scale|bias)", _VECTOR),
        (r"(blocks|head)\.modulation", _MATRIX),
        (r"head\.linear\.kernel", ("embed", None)),
        (r"head\.linear\.bias", _VECTOR),
    ),
    "vae": (
        (r".*\.(conv|conv[12]|time_conv|conv_in|conv_out|qkv|proj|shortcut)\.bias", _VECTOR),
        (r".*\.(norm|norm[12]|norm_out)\.scale", _VECTOR),
        (r".*\.(conv[12]|time_conv|conv_in|conv_out)\.kernel", (None,) * 5),
        (r".*\.conv\.kernel", (None,) * 4),
        (r".*\.(qkv|proj|shortcut)\.kernel", _MATRIX),
        (r"(to_moments|from_latents)\.kernel", _MATRIX),
        (r"(to_moments|from_latents)\.bias", _VECTOR),
    ),
    "text_encoder": (
        (r"token_embedding\.embedding", (None, "wide")),
        (r"blocks\.attn\.[qkv]\.kernel", (None, "wide")),
        (r"blocks\.attn\.o\.kernel", ("wide", None)),
        (r"blocks\.attn\.position_bias\.embedding", _MATRIX),
        (r"blocks\.ffn\.(up|gate)\.kernel", (None, "wide")),
        (r"blocks\.ffn\.down\.kernel", ("wide", None)),
        (r"(blocks\.norm[12]|norm)\.scale", _VECTOR),
    ),
    "image_encoder": (
        (r"patch_embedding\.kernel", (None,) * 4),
        (r"cls_embedding", _VECTOR),
        (r"position_embedding", _MATRIX),
        (r"blocks\.attn\.[qkv]\.kernel", (None, "wide")),
        (r"blocks\.attn\.[qkv]\.bias", ("wide",)),
        (r"blocks\.attn\.o\.kernel", ("wide", None)),
        (r"blocks\.ffn\.up\.kernel", (None, "wide")),
        (r"blocks\.ffn\.up\.bias", ("wide",)),
        (r"blocks\.ffn\.down\.kernel", ("wide", None)),
        (r"blocks\.(attn\.o|ffn\.down)\.bias", _VECTOR),
        (r"(blocks\.norm[12]|pre_norm)\.(scale|bias)", _VECTOR),
    ),
    "audio_encoder": (
        (r"convs\.conv\d\.kernel", (None,) * 3),
        (r"feature_projection\.kernel", _MATRIX),
        (r"position_conv\.(direction|gain)", (None,) * 3),
        (r"(feature_projection|position_conv)\.bias", _VECTOR),
        (r"(convs\.norm|feature_norm|norm|blocks\.norm[12])\.(scale|bias)", _VECTOR),
        (r"blocks\.attn\.[qkvo]\.kernel", _MATRIX),
        (r"blocks\.attn\.[qkvo]\.bias", _VECTOR),
        (r"blocks\.ffn\.up\.kernel", (None, "wide")),
        (r"blocks\.ffn\.up\.bias", ("wide",)),
        (r"blocks\.ffn\.down\.kernel", ("wide", None)),
        (r"blocks\.ffn\.down\.bias", _VECTOR),
    ),
}


@functools.cache
def axes_of(name: str, component: str = "transformer") -> Axes:
  """Logical axes of the parameter with dotted `name`, those of one layer for stacked ones.

  Raises:
    ValueError: no rule or several rules of `component` match the name.
  """
  if name.endswith(INT8_LEAVES):  # of the rule of the array that is quantised
    of_array = axes_of(name.rpartition(".")[0], component)
    if name.endswith("kernel.scale"):
      return None, *of_array[1:]
    return (*of_array[:-1], None) if name.endswith(".scale") else of_array
  found = [axes for pattern, axes in RULES[component] if re.fullmatch(pattern, name)]
  if len(found) != 1:
    raise ValueError(f"{component} parameter {name}: {len(found)} sharding rules match, "
                     "expected exactly one.")
  return found[0]


def param_sharding(name: str, shape: tuple[int, ...], mesh: Mesh,
                   component: str = "transformer") -> NamedSharding:
  """Sharding of one parameter.

  Raises:
    ValueError: not exactly one rule, or the rule is for another number of axes.
    InputError: an axis does not divide over the mesh.
  """
  axes = axes_of(name, component)
  if name.startswith(_STACKED):
    axes = ("layers", *axes)
  if len(axes) != len(shape):
    raise ValueError(f"{component} parameter {name} has shape {shape}; its sharding rule {axes} is "
                     f"for {len(axes)} axes.")
  split = []
  for size, axis in zip(shape, axes, strict=True):
    if axis == "wide":
      split.append(_dividing(mesh, size))
      continue
    parts = mesh_lib.degree(mesh, axis)
    split.append(mesh_lib.spec(axis)[0])
    if size % parts:
      raise InputError(
          f"{component} parameter {name} {shape}: its axis {axis} of {size} does not divide over "
          f"{mesh_lib.describe(mesh, axis)} = {parts}; choose mesh sizes that divide {size}.")
  return NamedSharding(mesh, PartitionSpec(*split))


def _dividing(mesh: Mesh, size: int) -> tuple[str, ...] | None:
  """Those mesh axes, in order, that `size` divides over together."""
  chosen = ()
  for axis in mesh_lib.LOGICAL["wide"]:
    parts = mesh.shape[axis]
    if parts > 1 and size % (math.prod(mesh.shape[name] for name in chosen) * parts) == 0:
      chosen += (axis,)
  return chosen or None


def param_shardings(abstract: Params, mesh: Mesh, component: str = "transformer") -> Params:
  """Shardings of all parameters of a network, as a tree like `abstract`.

  Args:
    abstract: nested dicts of anything with a shape, e.g. `Network.abstract`.
    mesh: the mesh.
    component: whose rules to take, a name of `components.config.COMPONENTS`.

  Raises:
    ValueError: a parameter has not exactly one rule, or one for another number of axes.
    InputError: an axis does not divide over the mesh.
  """
  return jax.tree_util.tree_map_with_path(
      lambda path, leaf: param_sharding(param_name(path), tuple(leaf.shape), mesh, component),
      abstract)


def abstract_on(abstract: Params, mesh: Mesh, component: str = "transformer") -> Params:
  """`jax.ShapeDtypeStruct`s with shardings: to restore a checkpoint into, or to compile for.

  Raises: as `param_shardings`.
  """
  return jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype,
                                                                 sharding=sharding),
                      abstract, param_shardings(abstract, mesh, component))


def shard_params(params: Params, mesh: Mesh, component: str = "transformer") -> Params:
  """Parameters, the same on every process, split over the devices of the mesh.

  Raises: as `param_shardings`.
  """
  return jax.tree.map(put, params, param_shardings(params, mesh, component))


def replicate(tree: Any, mesh: mesh_lib.AnyMesh) -> Any:
  """Puts arrays, the same on every process, whole on every device of the mesh."""
  return jax.tree.map(lambda leaf: put(leaf, NamedSharding(mesh, PartitionSpec())), tree)


def put(array, sharding: NamedSharding) -> jax.Array:
  """Puts an array, the same on every process or there already, where `sharding` says."""
  if isinstance(array, jax.Array) and array.sharding.is_equivalent_to(sharding, array.ndim):
    return array
  if sharding.is_fully_addressable:
    return jax.device_put(array, sharding)
  # device_put would compare the whole array between the processes.
  host = np.asarray(array)
  return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def fetch(array: jax.Array) -> np.ndarray:
  """The whole of an array on the host, of every process."""
  if array.is_fully_addressable or array.is_fully_replicated:
    return np.asarray(array)
  return multihost_utils.process_allgather(array, tiled=True)
