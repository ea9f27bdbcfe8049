"""The model split over many devices: mesh, rules for parameters, activations and attention."""

from emv3_jax.sharding.attention import cross_attention, self_attention
from emv3_jax.sharding.constraints import activation_constraint, parameter_gather
from emv3_jax.sharding.mesh import (
    AXES,
    Attention,
    MeshConfig,
    check_batch,
    check_heads,
    check_positions,
    make_mesh,
)
from emv3_jax.sharding.pictures import picture_constraint, picture_sharding
from emv3_jax.sharding.rules import (
    abstract_on,
    fetch,
    param_shardings,
    put,
    replicate,
    shard_params,
)
from emv3_jax.sharding.transformer import ShardedTransformer, on_mesh

__all__ = [
    "AXES", "Attention", "MeshConfig", "ShardedTransformer", "abstract_on", "activation_constraint",
    "check_batch", "check_heads", "check_positions", "cross_attention", "fetch", "make_mesh",
    "on_mesh", "param_shardings", "parameter_gather", "picture_constraint", "picture_sharding",
    "put", "replicate", "self_attention", "shard_params"]
