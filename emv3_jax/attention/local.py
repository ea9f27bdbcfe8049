"""Local attention: softmax(q k^T / sqrt(head dim)) v.

Every backend has the same interface, `attend(q, k, v) -> out`, with q [b, s, n, k], k and v
[b, m, n, k] and the output like q. Softmax and accumulation are float32. A backend knows no mesh.
Some take `keys` too, bool [m]: which keys are attended to; without it all are.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from emv3_jax.arrays import AnyArray

Attend = Callable[..., jax.Array]


def _softmax_average(q: Float[AnyArray, "b s k"], k: Float[AnyArray, "b m k"], v: Float[AnyArray, "b m k"],
                     keys: Bool[AnyArray, "m"] | None = None) -> Float[jax.Array, "b s k"]:
  """Attention of one head; all logits at once."""
  # bfloat16 products are exact in float32; float32 ones need HIGHEST on accelerators.
  einsum = functools.partial(
      jnp.einsum, preferred_element_type=jnp.float32,
      precision=jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None)
  logits = einsum("bsk,bmk->bsm", q, k) * q.shape[-1] ** -0.5
  if keys is not None:
    logits = jnp.where(keys, logits, -jnp.inf)
  weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
  # Dividing after the average touches [s, k] numbers instead of [s, m].
  out = einsum("bsm,bmk->bsk", weights.astype(v.dtype), v)
  return (out / weights.sum(-1, keepdims=True)).astype(q.dtype)


def attend_xla(q: Float[AnyArray, "b s n k"], k: Float[AnyArray, "b m n k"],
               v: Float[AnyArray, "b m n k"], keys: Bool[AnyArray, "m"] | None = None
               ) -> Float[jax.Array, "b s n k"]:
  """All logits of all heads at once: s * m * n numbers, for small inputs and as the reference."""
  return jax.vmap(functools.partial(_softmax_average, keys=keys), in_axes=2, out_axes=2)(q, k, v)


def attend_blocked(q: Float[AnyArray, "b s n k"], k: Float[AnyArray, "b m n k"],
                   v: Float[AnyArray, "b m n k"], keys: Bool[AnyArray, "m"] | None = None, *, block: int = 256
                   ) -> Float[jax.Array, "b s n k"]:
  """One head and one block of queries at a time, so that the logits stay in cache.

  Memory beyond inputs and output is b * block * m numbers, in the backward pass too: it recomputes
  each block's logits. Any lengths: queries are padded to whole blocks inside.
  """
  b, s, n, d = q.shape
  block = min(block, s)
  blocks = -(-s // block)
  q = jnp.pad(q, ((0, 0), (0, blocks * block - s), (0, 0), (0, 0)))
  q = q.reshape(b, blocks, block, n, d).transpose(3, 1, 0, 2, 4)
  k, v = (t.transpose(2, 0, 1, 3) for t in (k, v))

  def head(args):
    q, k, v = args  # [blocks, b, block, d], [b, m, d], [b, m, d]
    average = jax.checkpoint(functools.partial(_softmax_average, k=k, v=v, keys=keys), prevent_cse=False)
    return jax.lax.map(average, q)

  out = jax.lax.map(head, (q, k, v))
  return out.transpose(2, 1, 3, 0, 4).reshape(b, blocks * block, n, d)[:, :s]


def attend_by_frame(q: Float[AnyArray, "b s n k"], k: Float[AnyArray, "b f m n k"],
                    v: Float[AnyArray, "b f m n k"]) -> Float[jax.Array, "b s n k"]:
  """Each token attends to the few keys of its own latent frame.

  With tokens space-major the frame axis is never split over devices, so this needs no collective.

  Args:
    q: [b, s, n, k], tokens space-major: s = (positions, f).
    k, v: [b, f, m, n, k]; no key at all, m = 0, gives zeros.

  Returns:
    [b, s, n, k] in the dtype of `q`.
  """
  b, s, n, d = q.shape
  if k.shape[2] == 0:
    return jnp.zeros_like(q)
  per_head = jax.vmap(_softmax_average, in_axes=2, out_axes=2)
  per_frame = jax.vmap(per_head, in_axes=(2, 1, 1), out_axes=2)
  return per_frame(q.reshape(b, -1, k.shape[1], n, d), k, v).reshape(q.shape)
