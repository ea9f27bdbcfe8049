"""The transformer on a mesh: one object for sampling, training, plans and benchmarks."""

import dataclasses
import functools
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from emv3_jax import geometry
from emv3_jax.attention.local import Attend, attend_blocked
from emv3_jax.models import rope as rope_lib
from emv3_jax.models import transformer
from emv3_jax.models.execution import ExecutionConfig, Remat
from emv3_jax.models.network import Network, Params
from emv3_jax.models.precision import FLOAT32, Precision
from emv3_jax.runtime import kept_shapes
from emv3_jax.sharding import attention as attention_lib
from emv3_jax.sharding import constraints, rules
from emv3_jax.sharding import mesh as mesh_lib


@dataclasses.dataclass(frozen=True, eq=False)
class ShardedTransformer:
  """A transformer and all that running it on a mesh takes; made by `on_mesh`.

  Attributes:
    config: the network's sizes.
    network: its parameters' shapes, initialisation and binding.
    mesh: the devices.
    execution: what the bound network is called with.
    shardings: of the parameters, a tree like `network.abstract`.
  """

  config: transformer.TransformerConfig
  network: Network
  mesh: Mesh
  execution: ExecutionConfig
  shardings: Params

  @property
  def abstract(self) -> Params:
    """Shapes, dtypes and shardings of the parameters."""
    return rules.abstract_on(self.network.abstract, self.mesh)

  def init(self, key: jax.Array) -> Params:
    """Random parameters, initialised where they belong; the numbers are the same on every mesh."""
    return jax.jit(self.network.init, out_shardings=self.shardings)(key)

  def rope(self, latents_shape: tuple[int, ...],
           riflex: rope_lib.Riflex | None = None) -> rope_lib.RopeTable:
    """RoPE tables (cos, sin) of latents [b, f, H8, W8, 16], each [s, k/2], on the host.

    Raises:
      InputError: token positions do not divide over context; names the nearest sizes that do.
    """
    f, grid = latents_shape[1], geometry.grid_of_latents(latents_shape[2:4])
    mesh_lib.check_positions(self.mesh, grid)
    return rope_lib.rope_table((f, *grid), self.config.head_dim, riflex)

  def padding(self, batch: int) -> int:
    """Rows that a batch lacks to divide over data x fsdp."""
    return -batch % mesh_lib.degree(self.mesh, "batch")

  def warn_of_padding(self, batch: int) -> None:
    """Logs how much of the work `pad` adds to a batch, if any."""
    if added := self.padding(batch):
      rows = batch + added
      logging.warning("A batch of %d over %s runs as %d rows: %.0f %% of the work is padding.",
                      batch, mesh_lib.describe(self.mesh, "batch"), rows, 100 * added / rows)

  def pad(self, tree: Any) -> Any:
    """Arrays [b, ...] with their last row repeated until the batch divides over data x fsdp.

    Guidance branches and windows are rows of the batch, seldom as many as the mesh divides: three
    branches over data 2 run as four rows.
    """
    def pad(x):
      return jnp.pad(x, [(0, self.padding(x.shape[0]))] + [(0, 0)] * (x.ndim - 1), mode="edge")

    return jax.tree.map(pad, tree)

  def unpad(self, velocity: jax.Array, batch: int) -> jax.Array:
    """The first `batch` rows of a velocity [b, f, H8, W8, 16], whole on every device."""
    whole = NamedSharding(self.mesh, PartitionSpec())
    return jax.lax.with_sharding_constraint(velocity[:batch], whole)

  def context_sharding(self, ndim: int, leading: int = 0) -> NamedSharding:
    """Sharding of keys or values [l, b, ..., n, k] of all layers: batch and heads split.

    Args:
      ndim: number of axes, the leading ones too.
      leading: number of axes in front of these, not split.
    """
    middle = (None,) * (ndim - leading - 4)
    axes = (*(None,) * leading, None, "batch", *middle, "heads", None)
    return NamedSharding(self.mesh, mesh_lib.spec(*axes))


@functools.cache
def on_mesh(config: transformer.TransformerConfig, mesh: Mesh | None = None, *,
            precision: Precision = FLOAT32, attention: mesh_lib.Attention = "ulysses",
            local: Attend = attend_blocked, remat: Remat = "none",
            token_blocks: int = 1) -> ShardedTransformer:
  """Puts the transformer on a mesh; equal arguments give the same object.

  Args:
    config: the network's sizes.
    mesh: the devices, of `make_mesh`; None is the first device alone.
    precision: the network's dtypes.
    attention: how self-attention crosses `context`.
    local: attention on one device, e.g. a `Backend`; also serves text and image.
    remat, token_blocks: of `ExecutionConfig`.

  Raises:
    InputError: heads or parameters do not divide over the mesh.
    ValueError: an unknown `remat`.
  """
  if mesh is None:
    mesh = mesh_lib.make_mesh(devices=jax.local_devices()[:1])
  mesh_lib.check_heads(mesh, config.num_heads, attention)
  execution = ExecutionConfig(
      attend=attention_lib.self_attention(mesh, attention, local),
      cross_attend=attention_lib.cross_attention(mesh, local),
      constrain=constraints.activation_constraint(mesh),
      gather=constraints.parameter_gather(mesh, precision), remat=remat,
      token_blocks=token_blocks, length_shards=mesh.shape["context"])
  network = kept_shapes.recall(transformer.network(config, precision), repr(("transformer", config, precision)))
  return ShardedTransformer(config, network, mesh, execution,
                            rules.param_shardings(network.abstract, mesh))
