"""The forward pass of training: from a batch to each clip's error, on any mesh."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from emv3_jax import sharding, variants
from emv3_jax.attention import backends
from emv3_jax.diffusion import flow
from emv3_jax.models import transformer
from emv3_jax.models.network import Params
from emv3_jax.models.rope import RopeTable, rope_table, time_sinusoid_on_device
from emv3_jax.tasks.masks import condition
from emv3_jax.training.objectives import losses
from emv3_jax.training.objectives.draws import Draws
from emv3_jax.training.settings import Config

Batch = dict[str, jax.Array]
FIELDS = ("latents", "mask", "masked_latents", "text", "image", "audio", "face_mask", "mouth_mask",
          "task", "example")
OPTIONAL = ("face_region", "frame_mask")


class Forward:
  """The transformer as training runs it.

  A batch is a dict of arrays whose leading axis is split over data and fsdp:

    latents         [b, f, H8, W8, 16] clean, normalised
    mask            [b, f, H8, W8, 4] float32, 1 known, of the example's task
    masked_latents  [b, f, H8, W8, 16] latents of the masked video
    text            [b, text_tokens, text_dim], zeros after each caption's end
    image           [b, image_tokens, image_dim], zeros without a picture
    audio           [b, 2 F, audio_dim] (preview), [b, F, 5, audio_layers, audio_dim] (flash)
    face_mask       [b, h * w] where the audio acts
    face_region     [b, h * w] the face, for the loss; may be absent: `face_mask`
    mouth_mask      [b, f, H8, W8], for the loss
    task            [b] int32, numbers of tasks, for metrics
    example         [b] uint32 number of the record in its dataset
    frame_mask      [b, f], may be absent: 0 where the loss is not to look

  Args:
    config: the run's.
    mesh: what to run on.
    platform: cpu, gpu or tpu, if that is not where this process runs.

  Raises:
    InputError: heads or parameters do not divide over the mesh, or an unknown attention backend.
  """

  def __init__(self, config: Config, mesh: Mesh, platform: str | None = None):
    net, precision = config.model.transformer, config.precision.transformer
    sharding.check_heads(mesh, net.num_heads, config.mesh.attention)
    local = backends.select(config.train.attention, platform)
    self.network = transformer.network(net, precision)
    self.config, self.mesh = config, mesh
    self._constrain = sharding.constrain(mesh, precision)
    self._options = dict(
        attend=sharding.self_attention(mesh, config.mesh.attention, local),
        cross_attend=sharding.cross_attention(mesh, local), constrain=self._constrain,
        remat=config.train.remat, length_shards=mesh.shape["context"])

  def rope(self, latents_shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The table of RoPE angles for latents [b, f, H8, W8, 16], each [s, k/2].

    Raises:
      InputError: token positions do not divide over context.
    """
    _, f, height8, width8, _ = latents_shape
    grid = height8 // 2, width8 // 2
    sharding.check_positions(self.mesh, grid)
    return rope_table((f, *grid), self.config.model.transformer.head_dim)

  def velocity(self, params: Params, batch: Batch, draws: Draws, rope: RopeTable) -> jax.Array:
    """The prediction for x_sigma, [b, f, H8, W8, 16] float32."""
    model, net = self.network.bind(params), self.config.model.transformer
    x = flow.interpolate(batch["latents"], draws.noise, draws.sigma)
    context = model.embed_context(batch["text"], batch["image"], batch["audio"],
                                  constrain=self._constrain)
    return model(
        x, condition(batch["mask"], batch["masked_latents"]),
        time_sinusoid_on_device(flow.tau(draws.sigma), net.freq_dim), context, rope=rope,
        face_mask=batch["face_mask"] if variants.of(net.variant).face_mask else None,
        modality_weights=draws.weights, **self._options)

  def errors(self, params: Params, batch: Batch, draws: Draws, rope: RopeTable,
             weights: jax.Array | None = None) -> jax.Array:
    """Mean squared error of the velocity of each example, [b] float32; see `losses`."""
    velocity = self.velocity(params, batch, draws, rope)
    with jax.named_scope("loss"):
      target = flow.velocity_target(batch["latents"], draws.noise)
      return losses.mean_squared_error(velocity, target, weights)

  def pinned(self, batch: Batch) -> Batch:
    """The batch with its leading axis split over data and fsdp."""
    return {name: self._constrain(jnp.asarray(array), "batch", *(None,) * (array.ndim - 1))
            for name, array in batch.items()}
