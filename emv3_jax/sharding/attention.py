"""One local attention carried over the mesh: by heads (`ulysses`), or with all keys (`allgather`).

Tokens come in and go out split over `context`, heads over `tensor`, the batch over data and fsdp.
Padding to kernel blocks is the local attention's own affair, so no device holds more than it must.
"""

import functools

import jax
from jax.sharding import Mesh, PartitionSpec

from emv3_jax.attention.local import Attend
from emv3_jax.sharding import mesh as mesh_lib

_TOKENS = ("batch", "length", "heads", None)
_CONTEXT = ("batch", None, "heads", None)


def self_attention(mesh: Mesh, attention: mesh_lib.Attention, local: Attend) -> Attend:
  """Attention of every token to every token, q, k, v [b, s, n, k] split over the mesh.

  Args:
    mesh: the mesh.
    attention: `ulysses`: four all-to-alls, three to trade tokens for heads and one back.
      `allgather`: every device collects the keys and values of all tokens for its heads.
    local: attention on one device.

  Returns:
    A callable that raises `InputError` when heads or the batch do not divide over the mesh. It takes `keys`,
    bool [s] of all tokens, as far as `local` does.
  """
  if mesh.size == 1:
    return local

  def allgather(q, k, v, *keys):
    whole = functools.partial(jax.lax.all_gather, axis_name="context", axis=1, tiled=True)
    return local(q, whole(k), whole(v), *keys)

  def ulysses(q, k, v, *keys):
    trade = functools.partial(jax.lax.all_to_all, axis_name="context", tiled=True)
    by_heads = functools.partial(trade, split_axis=2, concat_axis=1)
    return trade(local(by_heads(q), by_heads(k), by_heads(v), *keys), split_axis=1, concat_axis=2)

  on_device = {"allgather": allgather, "ulysses": ulysses}[attention]
  if mesh.shape["context"] == 1:
    on_device = local
  spread = _spread(mesh, on_device, _TOKENS)

  def attend(q, k, v, *keys):
    mesh_lib.check_heads(mesh, q.shape[2], attention)
    mesh_lib.check_batch(mesh, q.shape[0])
    return spread(q, k, v, *keys)

  return attend


def cross_attention(mesh: Mesh, local: Attend) -> Attend:
  """Attention of split tokens q [b, s, n, k] to k, v [b, m, n, k] that every `context` holds.

  Needs no communication; in the backward pass gradients of k and v are summed over `context`.
  """
  return local if mesh.size == 1 else _spread(mesh, local, _CONTEXT)


def _spread(mesh: Mesh, on_device: Attend, keys: tuple[str | None, ...]) -> Attend:
  tokens, context = mesh_lib.spec(*_TOKENS), mesh_lib.spec(*keys)

  def attend(q, k, v, *keys):
    specs = (tokens, context, context, *(PartitionSpec() for _ in keys))
    # check_vma is off because Pallas kernels do not say over which axes their output varies.
    return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=tokens, check_vma=False)(q, k, v, *keys)

  return attend
