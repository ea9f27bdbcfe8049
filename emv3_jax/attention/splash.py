"""Splash attention, JAX's Pallas kernel for TPU, for inputs of any lengths."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from emv3_jax.arrays import AnyArray

LANES = 128
BLOCK = 512  # tokens; 1024 does not fit the vector memory of every TPU in the backward pass


def attend_splash(q: Float[AnyArray, "b s n k"], k: Float[AnyArray, "b m n k"],
                  v: Float[AnyArray, "b m n k"], *, block: int = BLOCK,
                  interpret: bool = False) -> Float[jax.Array, "b s n k"]:
  """Unmasked attention, softmax and accumulation in float32, memory linear in the tokens.

  Lengths are padded here to whole blocks, of which segment ids keep the padding out, and heads to
  whole lanes. The scale 1 / sqrt(k) goes into q, which is rounded once more by it.

  Args:
    q: [b, s, n, k].
    k, v: [b, m, n, k].
    block: most queries or keys of a block, a multiple of 128.
    interpret: run the kernel in Pallas' interpreter, on any platform.

  Returns:
    [b, s, n, k] in the dtype of `q`.
  """
  # Here and below: a tenth of a start-up, for TPUs alone.
  from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

  _, s, _, width = q.shape
  m = k.shape[1]
  block_q, block_kv = (min(block, _up(length, LANES)) for length in (s, m))
  q = (q.astype(jnp.float32) * width ** -0.5).astype(q.dtype)
  q, k, v = (_heads_first(t, size) for t, size in ((q, block_q), (k, block_kv), (v, block_kv)))
  segments = None
  if q.shape[2] != s or k.shape[2] != m:
    segments = SegmentIds(q=_segment_ids(s, q.shape[2]), kv=_segment_ids(m, k.shape[2]))
  attend = functools.partial(_kernel(block_q, block_kv, interpret), segment_ids=segments)
  # Without residuals the kernel returns the output alone.
  out: jax.Array = jax.vmap(attend)(q, k, v)  # pyright: ignore[reportAssignmentType]
  return jnp.moveaxis(out[:, :, :s, :width], 1, 2)


def _kernel(block_q: int, block_kv: int, interpret: bool):
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info

  unmasked = splash_attention_mask_info.MaskInfo(None, None, None, None, None)
  # Without tables of a mask the kernel visits every block; a full mask's would fill scalar memory.
  sizes = splash.BlockSizes(
      block_q=block_q, block_kv=block_kv, block_q_dkv=block_q, block_kv_dkv=block_kv,
      block_q_dq=block_q, block_kv_dq=block_kv)
  return splash.SplashAttentionKernel(
      unmasked, unmasked, unmasked, block_sizes=sizes, is_mqa=False, save_residuals=False,
      mask_value=splash.DEFAULT_MASK_VALUE, attn_logits_soft_cap=None,
      residual_checkpoint_name=None, mask_function=None, interpret=interpret)


def _heads_first(x: Float[AnyArray, "b s n k"], block: int) -> Float[jax.Array, "b n s2 k2"]:
  """[b, s, n, k] -> [b, n, s', k'], s' whole blocks and k' whole lanes, zeros added."""
  _, length, _, width = x.shape
  padding = ((0, 0), (0, 0), (0, _up(length, block) - length), (0, _up(width, LANES) - width))
  return jnp.pad(jnp.moveaxis(x, 2, 1), padding)


def _segment_ids(length: int, padded: int) -> Int[jax.Array, "padded"]:
  """0 for tokens, 1 for padding, which then attends to itself: no row is without keys."""
  return (jnp.arange(padded) >= length).astype(jnp.int32)


def _up(size: int, multiple: int) -> int:
  return -(-size // multiple) * multiple
