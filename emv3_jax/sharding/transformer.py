"""The transformer on a mesh, as sampling uses it: like the network, with clips of any number."""

from collections.abc import Callable

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from emv3_jax import geometry
from emv3_jax.attention.local import Attend, attend_blocked
from emv3_jax.models import transformer
from emv3_jax.models.network import Params
from emv3_jax.models.precision import FLOAT32, Precision
from emv3_jax.sharding import attention as attention_lib
from emv3_jax.sharding import mesh as mesh_lib
from emv3_jax.sharding import rules
from emv3_jax.sharding.constraints import constrain


class ShardedTransformer:
  """Stands in for the `Network` of the transformer: same parameters, same calls, split over a mesh.

  Guidance branches and windows are rows of the batch, which lies on data x fsdp. A batch that does
  not divide is padded with copies of its last row (3 branches over data 2 run as 4), and the log
  says so. Latents are small and go in and come out whole on every device.

  Args:
    config: the network's configuration.
    precision: its dtypes.
    mesh: from `make_mesh`.
    attention: how self-attention crosses `context`.

  Raises:
    InputError: heads or parameters do not divide over the mesh.
  """

  def __init__(self, config: transformer.TransformerConfig, mesh: Mesh, *,
               precision: Precision = FLOAT32, attention: mesh_lib.Attention = "ulysses"):
    mesh_lib.check_heads(mesh, config.num_heads, attention)
    self.network = transformer.network(config, precision)
    self.mesh, self.attention = mesh, attention
    self.constrain = constrain(mesh, precision)
    self.shardings = rules.param_shardings(self.network.abstract, mesh)

  @property
  def abstract(self) -> Params:
    """Shapes, dtypes and shardings of the parameters."""
    return rules.abstract_on(self.network.abstract, self.mesh)

  def init(self, key: jax.Array) -> Params:
    """Random parameters, made where they belong; the numbers are the same on every mesh."""
    return jax.jit(self.network.init, out_shardings=self.shardings)(key)

  def bind(self, params: Params) -> "BoundTransformer":
    """
    Raises:
      ValueError: names or shapes differ from `abstract`.
    """
    return BoundTransformer(self, self.network.bind(params))

  def num_params(self) -> int:
    return self.network.num_params()


class BoundTransformer:
  """`Transformer.project` and `Transformer.__call__` on a mesh."""

  def __init__(self, sharded: ShardedTransformer, model: transformer.Transformer):
    self._sharded, self._model = sharded, model

  def project(self, text: jax.Array, image: jax.Array, audio: jax.Array, **_):
    """As `Transformer.project`; the batch of the result is padded."""
    mesh, batch = self._sharded.mesh, text.shape[0]
    rows = batch + self._missing(batch)
    if rows > batch:
      logging.warning("A batch of %d over %s runs as %d rows: %.0f %% of the work is padding.", batch,
                      mesh_lib.describe(mesh, "batch"), rows, 100 * (rows - batch) / rows)
    context = self._model.project(*(self._padded(x) for x in (text, image, audio)),
                                  constrain=self._sharded.constrain)
    return jax.tree.map(self._pinned, context)

  def _pinned(self, keys: jax.Array) -> jax.Array:
    """Keys or values [l, b, ..., n, k] of all layers: batch and heads split."""
    axes = (None, "batch", *(None,) * (keys.ndim - 4), "heads", None)
    where = NamedSharding(self._sharded.mesh, mesh_lib.spec(*axes))
    return jax.lax.with_sharding_constraint(keys, where)

  def __call__(self, latents: jax.Array, condition: jax.Array, sinusoid: jax.Array, context, *,
               face_mask: jax.Array | None = None, modality_weights: jax.Array | None = None,
               attend: Attend = attend_blocked, cross_attend: Attend | None = None,
               constrain: Callable | None = None, **options) -> jax.Array:
    """As `Transformer.__call__`, with these differences.

    Args:
      latents, condition, sinusoid, face_mask, modality_weights: batch of any size.
      context: of `project` here.
      attend: self-attention on one device; carried over the mesh here.
      cross_attend: likewise; None takes `attend`.
      constrain: the mesh's is taken instead.
      **options: the others of `Transformer.run_blocks`.

    Returns:
      [b, f, H8, W8, 16] float32, whole on every device.

    Raises:
      InputError: token positions do not divide over context; names the nearest sizes that do.
    """
    sharded = self._sharded
    batch, mesh = latents.shape[0], sharded.mesh
    mesh_lib.check_positions(mesh, geometry.grid_of_latents(latents.shape[2:4]))
    out = self._model(
        *(self._padded(x) for x in (latents, condition, sinusoid)), context,
        face_mask=self._padded(face_mask), modality_weights=self._padded(modality_weights),
        attend=attention_lib.self_attention(mesh, sharded.attention, attend),
        cross_attend=attention_lib.cross_attention(mesh, cross_attend or attend),
        constrain=sharded.constrain, length_shards=mesh.shape["context"], **options)
    return jax.lax.with_sharding_constraint(out[:batch], NamedSharding(mesh, PartitionSpec()))

  def _padded(self, x: jax.Array | None) -> jax.Array | None:
    """`x` [b, ...] with its last row repeated until the batch divides."""
    if x is None:
      return None
    padding = [(0, self._missing(x.shape[0]))] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, padding, mode="edge")

  def _missing(self, batch: int) -> int:
    return -batch % mesh_lib.degree(self._sharded.mesh, "batch")
