"""wav2vec 2.0 over a sound of any length, in pieces of one size.

The numbers are those of `Wav2Vec2.__call__`: pieces overlap by the receptive field of the
convolutions, the group norm has the statistics of the whole sound, and attention runs over all
pieces of keys with a running softmax. Memory is linear in the length, and the same few programs
serve every length. Where there are more than `EXACT_PIECES` pieces, attention, whose time is
quadratic, reaches only the nearest ones.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32
import numpy as np

from emv3_jax.models.network import Network, Params
from emv3_jax.models.precision import Precision
from emv3_jax.models.wav2vec2 import Block, Wav2Vec2, Wav2Vec2Config, num_tokens, resample

PIECE = 512  # tokens: 10.24 s at 50 tokens a second
EXACT_PIECES = 60  # each attends to all others: 10 minutes at 50 tokens a second
CONTEXT_PIECES = 15  # on either side in longer sounds: 2.5 minutes

Jit = Callable[..., Callable]
# Running softmax of a piece of queries: largest logit, sum of weights, weighted sum of values.
_Softmax = tuple[jax.Array, jax.Array, jax.Array]


class Wav2Vec2Pieces:
  """The network as programs over one piece, and the loop over the pieces.

  Args:
    net: from `wav2vec2.network(config, precision)`.
    config, precision: of the network.
    jit: compiles a function, which is known by its name; takes `donate_argnums` too.
    piece: tokens of a piece, at least one.
    exact_pieces: up to this number of pieces, each attends to all others.
    context_pieces: in longer sounds each attends to so many on either side.
  """

  def __init__(self, net: Network[Wav2Vec2], config: Wav2Vec2Config, precision: Precision,
               jit: Jit = jax.jit, *, piece: int = PIECE, exact_pieces: int = EXACT_PIECES,
               context_pieces: int = CONTEXT_PIECES):
    self.config, self.piece = config, piece
    self.exact_pieces, self.context_pieces = exact_pieces, context_pieces
    self._net = net
    self._block = Network(lambda rngs: Block(config, precision, rngs=rngs))
    self._hop = int(np.prod(config.conv_strides))  # samples from one token to the next
    self._moments = jit(self._moments_of_piece)
    self._features = jit(self._features_of_piece)
    self._embed = jit(self._embed_piece)
    self._layer = jit(one_layer)
    self._queries = jit(self._queries_of_piece)
    self._keys_and_values = jit(self._keys_and_values_of_piece)
    self._attend = jit(attend_piece, donate_argnums=4)
    self._finish = jit(self._finish_piece)

  def is_exact(self, samples: int, frames: int | None = None) -> bool:
    """Whether the numbers of a sound of `samples` are those of the network at once."""
    tokens = num_tokens(samples, self.config) if frames is None else frames
    return -(-tokens // self.piece) <= self.exact_pieces

  def __call__(self, params: Params, waveform: Float32[np.ndarray, "b samples"], *,
               frames: int | None = None, layers: str = "last"
               ) -> Float32[np.ndarray, "b a *layers d"]:
    """Encodes sounds of one length; see `Wav2Vec2.__call__`, which checks its arguments alike."""
    features = self._waveform_features(params, waveform)
    if frames is not None:
      features = resample(features, frames)
    pieces, keys = self._embedded(params, features)
    b, tokens = features.shape[:2]
    del features
    depth = self.config.num_layers
    shape = (b, tokens, depth, self.config.dim) if layers == "all" else (b, tokens, self.config.dim)
    states = np.empty(shape, np.float32)
    for index in range(depth):
      self._run_layer(self._layer(params["blocks"], index), pieces, keys)
      if layers == "all" or index == depth - 1:
        for i, piece in enumerate(pieces):
          part = slice(i * self.piece, i * self.piece + keys[i])
          # Cut on the host: JAX would compile a slice for each number of keys.
          (states[:, :, index] if layers == "all" else states)[:, part] = np.asarray(piece)[:, :keys[i]]
    return states

  def _waveform_features(self, params, waveform) -> Float32[np.ndarray, "b a c"]:
    """Output of the convolutions for the whole sound, piece by piece."""
    config, piece = self.config, self.piece
    first = (waveform.shape[1] - config.conv_kernels[0]) // config.conv_strides[0] + 1
    size = piece * self._hop // config.conv_strides[0]  # outputs of the first convolution
    count, mean, squares = 0, 0.0, 0.0
    for begin in range(0, first, size):
      length = (size - 1) * config.conv_strides[0] + config.conv_kernels[0]
      samples = _cut(waveform, begin * config.conv_strides[0], length)
      added = min(size, first - begin)
      new = [np.asarray(x, np.float64) for x in self._moments(params, samples, np.int32(added))]
      # Mean and squared deviations of two sets together, after Chan, Golub and LeVeque.
      shift, count = new[0] - mean, count + added
      mean = mean + shift * added / count
      squares = squares + new[1] + np.square(shift) * (count - added) * added / count
    statistics = np.float32(mean), np.float32(squares / count)
    tokens = num_tokens(waveform.shape[1], config)
    features = np.empty((len(waveform), tokens, config.conv_dim), np.float32)
    length = (piece - 1) * self._hop + _receptive_field(config)
    for begin in range(0, tokens, piece):
      samples = _cut(waveform, begin * self._hop, length)
      part = np.asarray(self._features(params, samples, *statistics))
      features[:, begin:begin + piece] = part[:, :tokens - begin]
    return features

  def _moments_of_piece(self, params, samples, count):
    """Mean, and sum of squared deviations from it, of the first `count` outputs of convolution 0."""
    x = self._net.bind(params).convs.convolve(0, samples[..., None]).astype(jnp.float32)
    inside = (jnp.arange(x.shape[1]) < count)[:, None]
    mean = jnp.sum(jnp.where(inside, x, 0), 1) / count
    return mean, jnp.sum(jnp.square(jnp.where(inside, x - mean[:, None], 0)), 1)

  def _features_of_piece(self, params, samples, mean, variance):
    return self._net.bind(params).convs(samples, (mean, variance)).astype(jnp.float32)

  def _embedded(self, params, features) -> tuple[list[jax.Array], list[int]]:
    """Inputs of the first layer, a piece each, and the number of tokens in each piece."""
    tokens, kernel = features.shape[1], self.config.position_kernel
    pieces, keys = [], []
    for begin in range(0, tokens, self.piece):
      around = _cut(features, begin - kernel // 2, self.piece + kernel - 1)
      pieces.append(self._embed(params, around, np.int32(begin), np.int32(tokens)))
      keys.append(min(self.piece, tokens - begin))
    return pieces, keys

  def _embed_piece(self, params, features, begin, tokens):
    model, half = self._net.bind(params), self.config.position_kernel // 2
    x = model.project(features)
    token = begin - half + jnp.arange(x.shape[1])
    x = jnp.where(((token >= 0) & (token < tokens))[:, None], x, 0)
    return model.norm(x[:, half:half + self.piece] + model.position_conv(x, padded=True))

  def _run_layer(self, layer: Params, pieces: list[jax.Array], keys: list[int]) -> None:
    """Replaces the pieces by the layer's output; the tokens of each piece are `keys`."""
    heads = [self._keys_and_values(layer, x) for x in pieces]
    reach = len(pieces) if len(pieces) <= self.exact_pieces else self.context_pieces
    for i, x in enumerate(pieces):
      queries = self._queries(layer, x)
      softmax = empty_softmax(queries.shape)
      for j in range(max(0, i - reach), min(len(pieces), i + reach + 1)):
        softmax = self._attend(queries, *heads[j], np.int32(keys[j]), softmax)
      pieces[i] = self._finish(layer, x, softmax)

  def _queries_of_piece(self, layer, x):
    return self._block.bind(layer).attn.queries(x)

  def _keys_and_values_of_piece(self, layer, x):
    return self._block.bind(layer).attn.keys_and_values(x)

  def _finish_piece(self, layer, x, softmax: _Softmax):
    _, total, values = softmax
    block = self._block.bind(layer)
    return block.after_attention(x, (values / total[..., None]).astype(block.attn.dtype))


def one_layer(blocks: Params, index: jax.Array) -> Params:
  """Parameters of one layer, of those of all layers."""
  return jax.tree.map(lambda leaf: leaf[index], blocks)


def not_exact(tokens_per_second: float) -> str:
  """A line that says what a sound loses that is too long for attention to all of it.

  The difference was measured with the audio encoder of the small default.
  """
  minutes = lambda pieces: f"{pieces * PIECE / tokens_per_second / 60:.3g} minutes"
  return (f"The sound is longer than {minutes(EXACT_PIECES)}: each part of it attends to "
          f"{minutes(CONTEXT_PIECES)} on either side, not to the whole sound. On 12 minutes of speech the "
          "audio features differ from exact ones by 0.3 % (relative L2).")


def empty_softmax(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """A running softmax that has seen no key, for queries of `shape` [b, s, n, k]."""
  zeros = functools.partial(np.zeros, dtype=np.float32)
  return np.full(shape[:-1], -np.inf, np.float32), zeros(shape[:-1]), zeros(shape)


def attend_piece(q: Float[jax.Array, "b s n k"], k: Float[jax.Array, "b m n k"],
                 v: Float[jax.Array, "b m n k"], count: jax.Array, softmax: _Softmax) -> _Softmax:
  """Adds the first `count` >= 1 keys to a running softmax, one head at a time.

  Args:
    q, k, v: heads of a piece of queries and of a piece of keys.
    count: int32, keys that are not padding.
    softmax: from `empty_softmax` or the call before.

  Returns:
    Largest logit and sum of weights, float32 [b, s, n], and the weighted sum [b, s, n, k].
  """
  einsum = functools.partial(
      jnp.einsum, preferred_element_type=jnp.float32,
      precision=jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None)
  is_key = jnp.arange(k.shape[1]) < count

  def head(args):
    q, k, v, (largest, total, values) = args
    logits = jnp.where(is_key, einsum("bsk,bmk->bsm", q, k) * q.shape[-1] ** -0.5, -jnp.inf)
    new = jnp.maximum(largest, logits.max(-1))
    weights, kept = jnp.exp(logits - new[..., None]), jnp.exp(largest - new)
    added = einsum("bsm,bmk->bsk", weights.astype(v.dtype), v)
    return new, total * kept + weights.sum(-1), values * kept[..., None] + added

  by_head = functools.partial(jax.tree.map, lambda x: jnp.moveaxis(x, 2, 0))
  done = jax.lax.map(head, by_head((q, k, v, softmax)))
  return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 2), done)


def _receptive_field(config: Wav2Vec2Config) -> int:
  """Samples that one token depends on; base: 400."""
  samples = 1
  for kernel, stride in zip(config.conv_kernels[::-1], config.conv_strides[::-1], strict=True):
    samples = (samples - 1) * stride + kernel
  return samples


def _cut(array: Float[np.ndarray, "b n *c"], begin: int, length: int
         ) -> Float[np.ndarray, "b {length} *c"]:
  """Rows [begin, begin + length) along axis 1, zeros before the first and after the last."""
  part = array[:, max(begin, 0):begin + length]
  before = max(-begin, 0)
  padding = [(0, 0)] * array.ndim
  padding[1] = (before, length - before - part.shape[1])
  return np.pad(part, padding)
