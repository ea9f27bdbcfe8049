"""The video diffusion transformer (DiT): Wan2.1-Fun-1.3B-InP with EchoMimicV3's audio expert.

Noisy latents, masks and masked-video latents become tokens in space-major order (h w f), the frame
fastest: a position's frames stay together when the tokens are split over devices, and the audio
expert needs no communication. The layers are stacked, and run in one scan (`transformer_block`).
Residual stream and matrix products are in the compute dtype; time embedding, modulation, norms,
RoPE and softmax are float32.
"""

import dataclasses
import functools

from flax import nnx
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jaxtyping import Float, Float32

from emv3_jax.arrays import AnyArray
from emv3_jax.models import int8
from emv3_jax.models.cross_attention import Context, ContextTokens
from emv3_jax.models.embeddings import PATCH, ImageEmbedding, PatchEmbedding
from emv3_jax.models.execution import ATTENTION, ONE_DEVICE, REMAT_POLICIES, ExecutionConfig
from emv3_jax.models.network import Network
from emv3_jax.models.precision import FLOAT32, Precision
from emv3_jax.models.rope import PaddedTable, RopeTable
from emv3_jax.models.token_layers import MLP, XAVIER, by_token_blocks, gelu_tanh, linear
from emv3_jax.models.transformer_block import Block, Head, TransformerConfig


class Transformer(nnx.Module):
  """The whole network; `network` gives it with its parameters outside.

  Initialisation is Wan's: Xavier for linear maps, normal(0.02) for the text and time embeddings,
  zeros for the head and for the preview audio expert.
  """

  def __init__(self, config: TransformerConfig, precision: Precision = FLOAT32, *, rngs: nnx.Rngs):
    dim, quantised, precision = config.dim, precision.is_int8, precision.floats
    small = nnx.initializers.normal(0.02)
    island = dataclasses.replace(precision, compute="float32")
    self.patch_embedding = PatchEmbedding(config.in_channels, dim, precision, rngs=rngs)
    self.text_embedding = MLP((config.text_dim, dim, dim), gelu_tanh, precision, rngs=rngs,
                              kernel_init=small)
    self.time_embedding = MLP((config.freq_dim, dim, dim), nnx.silu, island, rngs=rngs,
                              kernel_init=small)
    self.time_projection = linear(dim, 6 * dim, island, rngs, kernel_init=XAVIER)
    self.image_embedding = ImageEmbedding(config.image_dim, dim, precision, rngs=rngs)
    self.audio_projection = config.audio_path.projection(config, precision, rngs)
    make_block = lambda r: Block(config, precision, rngs=r)
    self.blocks = nnx.vmap(make_block)(rngs.split(config.num_layers))
    if quantised:
      int8.quantise_layers(self.blocks)
    self.head = Head(config, precision, rngs=rngs)
    self.config = config

  def embed_context(self, text: AnyArray, image: AnyArray, audio: AnyArray,
                    execution: ExecutionConfig = ONE_DEVICE, frames: AnyArray | None = None) -> ContextTokens:
    """Embeds the conditions.

    Args:
      text: [b, m, text_dim], m <= text_tokens, zeros after each prompt's end; padded here with
        zeros to text_tokens, which the embedding turns into tokens like any other.
      image: [b, image_tokens, image_dim] CLIP tokens.
      audio: preview [b, a, audio_dim] wav2vec2 tokens; flash [b, F, 5, audio_layers, audio_dim].
      execution: how the network is run.
      frames: int32, number of latent frames of a clip that is padded after them; None stands for all.

    Raises:
      ValueError: lengths or widths that do not fit the config.
    """
    config = self.config
    padding = config.text_tokens - text.shape[1]
    audio_shape = config.audio_path.feature_shape(config)
    if padding < 0 or text.shape[2:] != (config.text_dim,):
      raise ValueError(f"text is {text.shape}; expected at most [b, {config.text_tokens}, "
                       f"{config.text_dim}].")
    if image.shape[1:] != (config.image_tokens, config.image_dim):
      raise ValueError(f"image is {image.shape}; expected [b, {config.image_tokens}, "
                       f"{config.image_dim}].")
    if audio.shape[2:] != audio_shape:
      raise ValueError(f"audio is {audio.shape}; expected [b, length, "
                       f"{', '.join(map(str, audio_shape))}] for variant {config.variant}.")

    def embed(name, x, *frames):
      x = execution.constrain(x, "batch", *(None,) * (x.ndim - 1))
      return execution.gather(getattr(self, name), name)(x, *frames)

    tokens = embed("text_embedding", jnp.pad(text, ((0, 0), (0, padding), (0, 0))))
    # Layer norms return the dtype they were given: enter in the compute dtype.
    return ContextTokens(tokens, embed("image_embedding", jnp.asarray(image, tokens.dtype)),
                         embed("audio_projection", jnp.asarray(audio, tokens.dtype), *() if frames is None else (frames,)))

  def project(self, text: AnyArray, image: AnyArray, audio: AnyArray,
              execution: ExecutionConfig = ONE_DEVICE, frames: AnyArray | None = None) -> Context:
    """Cross-attention keys and values of every layer, computed once a clip.

    Args as `embed_context`. Returns a Context with a leading [layers] axis, in the compute dtype.
    """
    tokens = self.embed_context(text, image, audio, execution, frames)

    def layer(_, block):
      cross_attn = execution.gather(block.cross_attn, "blocks.cross_attn")
      return None, cross_attn.context(tokens, execution)

    return jax.lax.scan(layer, None, self.blocks)[1]

  def time_modulation(self, sinusoid: Float[AnyArray, "b freq_dim"],
                      execution: ExecutionConfig = ONE_DEVICE
                      ) -> tuple[Float32[jax.Array, "b d"], Float32[jax.Array, "b 6 d"]]:
    """Of the timestep's sinusoid: e for the head, e0 for the blocks."""
    # Few numbers, whole everywhere: products with split float32 weights, which stay where they are.
    whole = lambda x: execution.constrain(x, None, None)
    e = whole(self.time_embedding(whole(sinusoid.astype(jnp.float32))))
    e0 = whole(self.time_projection(nnx.silu(e)))
    return e, e0.reshape(-1, 6, self.config.dim)

  def embed(self, latents: Float[AnyArray, "b f H8 W8 c"], condition: Float[AnyArray, "b f H8 W8 c2"],
            execution: ExecutionConfig = ONE_DEVICE) -> Float[jax.Array, "b s d"]:
    """Tokens of the input video.

    Args:
      latents: 16 channels of noisy latents.
      condition: 4 mask channels (1 = known) and 16 of the masked video's latents.
      execution: how the network is run.

    Returns:
      In the compute dtype, tokens space-major (h w f).

    Raises:
      ValueError: channels do not add up, or H8 or W8 is odd.
    """
    *_, height, width, channels = latents.shape
    if channels + condition.shape[-1] != self.config.in_channels or height % 2 or width % 2:
      raise ValueError(
          f"latents are {latents.shape}, condition {condition.shape}; expected even height and "
          f"width and {self.config.in_channels} channels together.")
    patch_embedding = execution.gather(self.patch_embedding, "patch_embedding")
    return patch_embedding(jnp.concatenate([latents, condition], axis=-1), execution)

  def run_blocks(
      self, x: Float[jax.Array, "b s d"], e0: Float32[AnyArray, "b 6 d"],
      context: Context | ContextTokens, *, rope: RopeTable | PaddedTable,
      face_mask: Float[AnyArray, "b positions *f"] | None = None,
      audio_gain: float | jax.Array = 1.0,
      modality_weights: Float32[AnyArray, "b 3"] | None = None,
      execution: ExecutionConfig = ONE_DEVICE) -> Float[jax.Array, "b s d"]:
    """The stack of blocks; its output minus its input is what TeaCache keeps.

    Args:
      x: tokens, space-major.
      e0: of `time_modulation`.
      context: of `project` (keys and values ready), or of `embed_context` (keys and values computed
        in each block and step: less memory in training).
      rope: (cos, sin) of `rope_table`, each [s, k/2], and of a padded clip the number of its latent frames, which
        alone are attended to.
      face_mask: a factor on the audio expert's output: [b, h * w], the same in every frame, or
        [b, h * w, f], in each latent frame.
      audio_gain: another factor on it (the released `audio_scale`).
      modality_weights: PhDA's W(c, tau) of text, image, audio; None is 1.
      execution: how the network is run.

    Raises:
      ValueError: token counts that do not fit each other.
    """
    cached = isinstance(context, Context)
    length, positions = x.shape[1], x.shape[1] // context.frames
    if length != positions * context.frames or length != rope[0].shape[0]:
      raise ValueError(f"{length} tokens, audio of {context.frames} latent frames, rope of "
                       f"{rope[0].shape[0]} tokens: they are not of one clip.")
    if face_mask is not None and face_mask.shape[1:] not in ((positions,), (positions, context.frames)):
      raise ValueError(f"face_mask is {face_mask.shape}; expected [b, {positions}] or "
                       f"[b, {positions}, {context.frames}].")
    blocks, shards = execution.token_blocks, execution.length_shards
    if positions % (blocks * shards):
      raise ValueError(f"{positions} token positions do not divide into token_blocks {blocks}"
                       f" x length_shards {shards}.")
    by_blocks = functools.partial(by_token_blocks, blocks=blocks, shards=shards)
    cos, sin = (jnp.asarray(table)[None] for table in rope[:2])
    keys = (jnp.arange(length) % context.frames < rope[2],) if len(rope) > 2 else ()

    def body(x, layer):
      block, layer_context = layer
      block = execution.gather(block, "blocks")
      if not cached:
        layer_context = block.cross_attn.context(context, execution)
      e = jnp.split(block.modulation[...].astype(jnp.float32) + e0, 6, axis=1)  # 6 x [b, 1, d]

      def pre_attention(tokens):
        x, cos, sin = tokens
        return block.pre_attention(x, e, (cos[0], sin[0]), execution)

      def post_attention(tokens):
        x, y, face_mask = tokens
        return block.post_attention(
            x, y, e, layer_context, face_mask=face_mask, audio_gain=audio_gain,
            modality_weights=modality_weights, execution=execution)

      with jax.named_scope("self_attention"):
        q, k, v = by_blocks(pre_attention, (x, cos, sin))
        y = execution.constrain(execution.attend(q, k, v, *keys), "batch", "length", "heads", None)
        y = checkpoint_name(y, ATTENTION)
      return by_blocks(post_attention, (x, y, face_mask)), None

    if execution.remat != "none":
      body = jax.checkpoint(body, policy=REMAT_POLICIES[execution.remat], prevent_cse=False)
    x = execution.constrain(x, "batch", "length", None)
    with jax.named_scope("blocks"):
      return jax.lax.scan(body, x, (self.blocks, context if cached else None))[0]

  def run_head(self, x: Float[jax.Array, "b s d"], e: Float32[jax.Array, "b d"],
               grid: tuple[int, int, int], execution: ExecutionConfig = ONE_DEVICE
               ) -> Float32[jax.Array, "b f H8 W8 c"]:
    """The velocity of tokens of grid (f, h, w)."""
    f, h, w = grid
    with jax.named_scope("head"):
      # Few numbers a token from here on; positions of one shard need not be a rectangle.
      y = execution.constrain(execution.gather(self.head, "head")(x, e), "batch", None, None)
      y = y.reshape(-1, h, w, f, PATCH[1], PATCH[2], self.config.out_channels)
      return jnp.einsum("bhwfpqc->bfhpwqc", y).reshape(
          -1, f, PATCH[1] * h, PATCH[2] * w, self.config.out_channels)

  def __call__(self, latents: Float[AnyArray, "b f H8 W8 c"],
               condition: Float[AnyArray, "b f H8 W8 c2"], sinusoid: Float[AnyArray, "b freq_dim"],
               context: Context | ContextTokens, *, rope: RopeTable | PaddedTable,
               face_mask: Float[AnyArray, "b positions *f"] | None = None,
               audio_gain: float | jax.Array = 1.0,
               modality_weights: Float32[AnyArray, "b 3"] | None = None,
               execution: ExecutionConfig = ONE_DEVICE) -> Float32[jax.Array, "b f H8 W8 c"]:
    """Predicts the velocity, noise - clean.

    Args:
      latents: 16 channels of noisy latents; H8, W8 = pixels / 8, even.
      condition: 4 mask channels (1 = known) and 16 of the masked video's latents.
      sinusoid: of the timestep tau in [0, 1000], from `time_sinusoid`.
      context: the conditions, from `project` or `embed_context`.
      rope, face_mask, audio_gain, modality_weights, execution: of `run_blocks`.

    Raises:
      ValueError: shapes that do not fit each other or the config.
    """
    e, e0, x = self._entered(latents, condition, sinusoid, context.frames, execution)
    x = self.run_blocks(x, e0, context, rope=rope, face_mask=face_mask, audio_gain=audio_gain,
                        modality_weights=modality_weights, execution=execution)
    return self.run_head(x, e, _grid(latents), execution)

  def with_residual(self, latents: Float[AnyArray, "b f H8 W8 c"], condition: Float[AnyArray, "b f H8 W8 c2"],
                    sinusoid: Float[AnyArray, "b freq_dim"], context: Context | ContextTokens, *,
                    execution: ExecutionConfig = ONE_DEVICE, **options
                    ) -> tuple[Float32[jax.Array, "b f H8 W8 c"], Float[jax.Array, "b s d"]]:
    """Predicts the velocity, and returns with it what the blocks added to the tokens, for `from_residual`.

    Args: of `__call__`.
    """
    e, e0, x = self._entered(latents, condition, sinusoid, context.frames, execution)
    y = self.run_blocks(x, e0, context, execution=execution, **options)
    residual = execution.constrain(y - x, "batch", "length", None)
    return self.run_head(y, e, _grid(latents), execution), residual

  def from_residual(self, latents: Float[AnyArray, "b f H8 W8 c"], condition: Float[AnyArray, "b f H8 W8 c2"],
                    sinusoid: Float[AnyArray, "b freq_dim"], residual: Float[AnyArray, "b s d"],
                    execution: ExecutionConfig = ONE_DEVICE) -> Float32[jax.Array, "b f H8 W8 c"]:
    """Predicts the velocity without running the blocks: another step's residual stands for them.

    Args:
      latents, condition, sinusoid, execution: of `__call__`.
      residual: of `with_residual`, for the same shape of latents.
    """
    e, _, x = self._entered(latents, condition, sinusoid, latents.shape[1], execution)
    x = execution.constrain(x, "batch", "length", None)
    return self.run_head(x + residual, e, _grid(latents), execution)

  def _entered(self, latents, condition, sinusoid, frames: int, execution: ExecutionConfig):
    """Computes e and e0 of `time_modulation`, and the tokens of `embed`."""
    if frames != latents.shape[1]:
      raise ValueError(f"latents have {latents.shape[1]} frames, the audio is of {frames}.")
    e, e0 = self.time_modulation(jnp.asarray(sinusoid), execution)
    return e, e0, self.embed(jnp.asarray(latents), jnp.asarray(condition), execution)


def _grid(latents) -> tuple[int, int, int]:
  """Returns the tokens (f, h, w) of latents [b, f, H8, W8, c]."""
  _, f, height, width, _ = latents.shape
  return f, height // PATCH[1], width // PATCH[2]


def network(config: TransformerConfig, precision: Precision = FLOAT32) -> Network[Transformer]:
  """The transformer as abstract parameters, initialisation and binding."""
  return Network(lambda rngs: Transformer(config, precision, rngs=rngs))
