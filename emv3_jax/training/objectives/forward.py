"""The forward pass of training: from a batch to each clip's error, on any mesh."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from emv3_jax import sharding, variants
from emv3_jax.diffusion import flow
from emv3_jax.models.network import Network, Params
from emv3_jax.models.rope import RopeTable, time_sinusoid_on_device
from emv3_jax.tasks.masks import condition
from emv3_jax.training.batch import Batch
from emv3_jax.training.objectives.draws import Draws


class Forward:
  """The transformer as training runs it.

  Args:
    transformer: the network on its mesh, of `sharding.on_mesh`.
  """

  def __init__(self, transformer: sharding.ShardedTransformer):
    self.transformer = transformer

  @property
  def network(self) -> Network:
    return self.transformer.network

  @property
  def mesh(self) -> Mesh:
    return self.transformer.mesh

  def rope(self, latents_shape: tuple[int, ...]) -> RopeTable:
    """RoPE tables (cos, sin) of latents [b, f, H8, W8, 16], each [s, k/2], on the host.

    Raises:
      InputError: token positions do not divide over context.
    """
    return self.transformer.rope(latents_shape)

  def velocity(self, params: Params, batch: Batch, draws: Draws, rope: RopeTable) -> jax.Array:
    """The prediction for x_sigma, [b, f, H8, W8, 16] float32."""
    net, execution = self.transformer.config, self.transformer.execution
    model = self.network.bind(params)
    x = flow.interpolate(batch.latents, draws.noise, draws.sigma)
    context = model.embed_context(batch.text, batch.image, batch.audio, execution)
    return model(
        x, condition(batch.mask, batch.masked_latents),
        time_sinusoid_on_device(flow.tau(draws.sigma), net.freq_dim), context, rope=rope,
        face_mask=batch.face_mask if variants.of(net.variant).face_mask else None,
        modality_weights=draws.weights, execution=execution)

  def errors(self, params: Params, batch: Batch, draws: Draws, rope: RopeTable,
             weights: jax.Array | None = None) -> jax.Array:
    """Mean squared error of the velocity of each example, [b] float32."""
    velocity = self.velocity(params, batch, draws, rope)
    with jax.named_scope("loss"):
      target = flow.velocity_target(batch.latents, draws.noise)
      return mean_squared_error(velocity, target, weights)

  def constrain(self, batch: Batch) -> Batch:
    """The batch with its leading axis split over data and fsdp."""
    constrain = self.transformer.execution.constrain
    return jax.tree.map(lambda array: constrain(
        jnp.asarray(array), "batch", *(None,) * (array.ndim - 1)), batch)


def mean_squared_error(velocity: jax.Array, target: jax.Array,
                       weights: jax.Array | None = None) -> jax.Array:
  """Mean over an example's numbers [b, f, H8, W8, c], cells weighted by [b, f, H8, W8]: [b]."""
  error = jnp.square(velocity.astype(jnp.float32) - target.astype(jnp.float32)).mean(-1)
  return jnp.mean(error if weights is None else error * weights, axis=(1, 2, 3))
