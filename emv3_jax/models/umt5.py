"""umT5 text encoder: token ids become the text tokens of the transformer.

A T5 encoder (Raffel et al. 2020) with umT5's one deviation: every layer has its own table of
relative position biases. No linear layer has a bias, logits are not scaled, norms are RMS norms.

At full size 5.7 billion parameters are 22.7 GB in float32. Stored in bfloat16, one layer at a time
is computed in float32 (`Precision(params="bfloat16")`); `encode_streaming` also keeps only one
layer in memory. The residual stream is float32 in every precision.
"""

from collections.abc import Callable
import dataclasses
import functools

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int32
import numpy as np

from emv3_jax.arrays import AnyArray
from emv3_jax.errors import InputError
from emv3_jax.limits import ABOVE_0, CHANNELS, WIDEST, check_ranges
from emv3_jax.models import int8
from emv3_jax.models.network import Network, Params
from emv3_jax.models.norms import RMSNorm
from emv3_jax.models.precision import FLOAT32, Precision
from emv3_jax.models.token_layers import linear


@dataclasses.dataclass(frozen=True)
class UMT5Config:
  """Sizes of the encoder; the defaults are umT5-XXL.

  Attributes:
    attention_dim: width of all heads together, which may differ from `dim`.
    num_buckets: relative positions that have their own bias, half of them for each direction.
    max_distance: distance in tokens from which on all positions share the last bucket.
  """

  vocab_size: int = 256384
  dim: int = 4096
  attention_dim: int = 4096
  ffn_dim: int = 10240
  num_heads: int = 64
  num_layers: int = 24
  num_buckets: int = 32
  max_distance: int = 128
  eps: float = 1e-6

  def __post_init__(self):
    check_ranges("text_encoder", self, {
        **{field.name: CHANNELS for field in dataclasses.fields(self)}, "num_layers": (1, 1000),
        "num_buckets": (4, WIDEST), "eps": (ABOVE_0, 1)})
    if self.attention_dim % self.num_heads:
      raise InputError(f"text_encoder.attention_dim is {self.attention_dim}; it must be a multiple "
                       f"of num_heads, {self.num_heads}.")
    if self.max_distance <= self.num_buckets // 4:
      raise InputError(f"text_encoder.max_distance is {self.max_distance}; it must be above a "
                       f"quarter of num_buckets, {self.num_buckets // 4}.")


def position_buckets(length: int, num_buckets: int = 32, max_distance: int = 128
                     ) -> Int32[np.ndarray, "m m"]:
  """Bucket of every pair of positions (query, key), computed on the host.

  Keys after the query use the upper half of the buckets. In each half, distances below
  num_buckets / 4 have a bucket each, longer ones share buckets on a logarithmic scale up to
  `max_distance`. The logarithm is float32 as in the reference: where it falls on a whole number,
  its rounding decides the bucket.
  """
  key_minus_query = np.arange(length)[None, :] - np.arange(length)[:, None]
  half, distance = num_buckets // 2, np.abs(key_minus_query)
  exact = half // 2
  octaves = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
  octaves = octaves / np.float32(np.log(max_distance / exact))
  coarse = exact + (octaves * np.float32(half - exact)).astype(np.int32)
  bucket = np.where(distance < exact, distance, np.minimum(coarse, half - 1))
  return (bucket + half * (key_minus_query > 0)).astype(np.int32)


class Attention(nnx.Module):
  """Self-attention with a learned bias for each relative position and head."""

  def __init__(self, config: UMT5Config, precision: Precision, *, rngs: nnx.Rngs):
    c = config
    project = functools.partial(linear, precision=precision, rngs=rngs, use_bias=False)
    # Logits are not divided by sqrt(head dim): the initial queries are smaller instead.
    queries = nnx.initializers.normal((c.dim * c.attention_dim // c.num_heads) ** -0.5)
    self.q = project(c.dim, c.attention_dim, kernel_init=queries)
    self.k = project(c.dim, c.attention_dim)
    self.v = project(c.dim, c.attention_dim)
    self.o = project(c.attention_dim, c.dim)
    self.position_bias = nnx.Embed(c.num_buckets, c.num_heads, param_dtype=precision.param_dtype,
                                   rngs=rngs)
    self.config = config
    self.precision = precision

  def __call__(self, x: Float[jax.Array, "b m d"], buckets: Int32[AnyArray, "m m"],
               mask: Bool[AnyArray, "b m"]) -> Float[jax.Array, "b m d"]:
    """Attention to the tokens whose mask is True."""
    split = lambda t: t.reshape(*t.shape[:2], self.config.num_heads, -1)
    q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
    einsum = functools.partial(jnp.einsum, precision=self.precision.matmul,
                               preferred_element_type=jnp.float32)
    logits = einsum("bqnk,bmnk->bnqm", q, k)
    bias = self.position_bias.embedding[...].astype(logits.dtype)[buckets]
    logits += jnp.einsum("qmn->nqm", bias)
    logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits).astype(v.dtype)
    out = einsum("bnqm,bmnk->bqnk", weights, v)
    return self.o(out.reshape(*x.shape[:2], -1))


class GatedFFN(nnx.Module):
  """down(up(x) * gelu(gate(x))) with the tanh approximation of GELU."""

  def __init__(self, config: UMT5Config, precision: Precision, *, rngs: nnx.Rngs):
    project = functools.partial(linear, precision=precision, rngs=rngs, use_bias=False)
    self.gate = project(config.dim, config.ffn_dim)
    self.up = project(config.dim, config.ffn_dim)
    self.down = project(config.ffn_dim, config.dim)

  def __call__(self, x: Float[jax.Array, "b m d"]) -> Float[jax.Array, "b m d"]:
    return self.down(self.up(x) * jax.nn.gelu(self.gate(x), approximate=True))


class Block(nnx.Module):
  """One layer, pre-norm: x + attention, then x + feed-forward."""

  def __init__(self, config: UMT5Config, precision: Precision, *, rngs: nnx.Rngs):
    self.norm1 = RMSNorm(config.dim, eps=config.eps, precision=precision)
    self.attn = Attention(config, precision, rngs=rngs)
    self.norm2 = RMSNorm(config.dim, eps=config.eps, precision=precision)
    self.ffn = GatedFFN(config, precision, rngs=rngs)

  def __call__(self, x: Float32[jax.Array, "b m d"], buckets: Int32[AnyArray, "m m"],
               mask: Bool[AnyArray, "b m"]) -> Float32[jax.Array, "b m d"]:
    with jax.named_scope("attention"):
      x = x + self.attn(self.norm1(x), buckets, mask)
    with jax.named_scope("ffn"):
      return x + self.ffn(self.norm2(x))


class UMT5(nnx.Module):
  """The whole encoder, layers stacked on a leading axis."""

  def __init__(self, config: UMT5Config, precision: Precision = FLOAT32, *, rngs: nnx.Rngs):
    quantised, precision = precision.is_int8, precision.floats
    self.token_embedding = nnx.Embed(config.vocab_size, config.dim,
                                     param_dtype=precision.param_dtype, rngs=rngs)
    make_block = lambda r: Block(config, precision, rngs=r)
    self.blocks = nnx.vmap(make_block)(rngs.split(config.num_layers))
    if quantised:
      table = int8.Int8(self.token_embedding.embedding[...], -1)
      self.token_embedding.embedding = table  # pyright: ignore[reportAttributeAccessIssue]
      int8.quantise_layers(self.blocks)
    self.norm = RMSNorm(config.dim, eps=config.eps, precision=precision)
    self.config = config
    self.precision = precision

  def __call__(self, ids: AnyArray, mask: AnyArray | None = None) -> Float32[jax.Array, "b m d"]:
    """Encodes padded prompts.

    Args:
      ids: token ids [b, m] int32, `</s>` included, padded with any valid id.
      mask: [b, m], non-zero where a token is real; None means everywhere. Masked tokens are
        never attended to; their own outputs are meaningless and are to be cut or zeroed.

    Returns:
      Text tokens.

    Raises:
      ValueError: `ids` or `mask` is not [b, m].
    """
    mask = _check(ids, mask, jnp)
    # Not nnx.Embed's call: with a compute dtype it converts the whole table before the look-up.
    table = self.token_embedding.embedding
    x = table.rows(ids) if isinstance(table, int8.Int8) else jnp.take(table[...], ids, axis=0)
    buckets = _buckets(self.config, ids)

    def body(x, index):
      # XLA for CPU slices bfloat16 by way of float32. Were the stack seen to be the same in every
      # turn, all 20 GB of that conversion would be hoisted out of the loop.
      blocks, index = jax.lax.optimization_barrier((self.blocks, index))
      block = jax.tree.map(lambda w: w[index], blocks)
      return block(x, buckets, mask), None

    layers = jnp.arange(self.config.num_layers)
    x, _ = jax.lax.scan(body, x.astype(jnp.float32), layers)
    return self.norm(x)


def _check(ids: AnyArray, mask: AnyArray | None, xp) -> Bool[AnyArray, "b m"]:
  if ids.ndim != 2 or (mask is not None and mask.shape != ids.shape):
    raise ValueError(f"umT5: ids {ids.shape} and mask {getattr(mask, 'shape', None)} must both "
                     "be [batch, tokens].")
  return xp.ones(ids.shape, bool) if mask is None else xp.asarray(mask) != 0


def _buckets(config: UMT5Config, ids: AnyArray) -> Int32[np.ndarray, "m m"]:
  return position_buckets(ids.shape[1], config.num_buckets, config.max_distance)


def network(config: UMT5Config, precision: Precision = FLOAT32) -> Network[UMT5]:
  return Network(lambda rngs: UMT5(config, precision, rngs=rngs))


class StreamPrograms:
  """The programs of `encode_streaming`, which serve all prompts of a length.

  Args:
    config, precision: of the network.
    jit: compiles a function, which is known by its name.
  """

  def __init__(self, config: UMT5Config, precision: Precision, jit: Callable[..., Callable] = jax.jit):
    self._config, self._precision = config, precision
    self.block, self.norm = jit(self._run_block), jit(self._run_norm)

  def _run_block(self, params, x, buckets, mask):
    def make(rngs):
      block = Block(self._config, self._precision.floats, rngs=rngs)
      if self._precision.is_int8:
        int8.quantise_layers(block)
      return block

    return Network(make).bind(params)(x, buckets, mask)

  def _run_norm(self, params, x):
    make = lambda _: RMSNorm(self._config.dim, eps=self._config.eps, precision=self._precision.floats)
    return Network(make).bind(params)(x)


def encode_streaming(config: UMT5Config, precision: Precision,
                     load_embedding: Callable[[], Params],
                     load_layer: Callable[[int], Params],
                     load_final_norm: Callable[[], Params],
                     ids: AnyArray, mask: AnyArray | None = None, *,
                     programs: StreamPrograms | None = None) -> Float32[jax.Array, "b m d"]:
  """The same numbers as `UMT5.__call__` with one layer in memory at a time.

  Each callable returns the nested dict of one part as numpy or jax arrays, freed before the next
  part is asked for. The embedding may be a memory map: only the rows of `ids` are read. With int8 weights
  it is float all the same, and layers are quantised.

  Args:
    load_embedding: () -> params["token_embedding"], `embedding` [vocab, dim].
    load_layer: index -> params["blocks"] without the layers axis, e.g. `attn.q.kernel` [dim, attn].
    load_final_norm: () -> params["norm"].
    ids: token ids [b, m] int32, concrete; mask: as in `UMT5.__call__`.
    programs: of the same config and precision; by default they are compiled for this call.

  Raises:
    ValueError: names or shapes of a part differ, `ids` or `mask` is not [b, m], or an id is
      outside the vocabulary.
  """
  ids = np.asarray(ids)
  mask = _check(ids, mask, np)
  if ids.min() < 0 or ids.max() >= config.vocab_size:
    raise ValueError(f"umT5: ids span {ids.min()}..{ids.max()}, the vocabulary has "
                     f"{config.vocab_size} entries.")
  programs = programs or StreamPrograms(config, precision)

  # On the host, where nothing is compiled.
  x = np.asarray(load_embedding()["embedding"][ids]).astype(np.float32)
  x = int8.rounded(x, -1) if precision.is_int8 else x
  buckets = _buckets(config, ids)
  for index in range(config.num_layers):
    # The result is waited for and the parameters are never named: they die within the line.
    x = jax.block_until_ready(programs.block(load_layer(index), x, buckets, mask))
  return programs.norm(load_final_norm(), x)
