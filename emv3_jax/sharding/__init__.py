"""The model split over many devices: mesh, rules for parameters, activations and attention."""

from emv3_jax.sharding.attention import cross_attention, self_attention
from emv3_jax.sharding.constraints import constrain
from emv3_jax.sharding.mesh import (
    AXES,
    Attention,
    MeshConfig,
    check_batch,
    check_heads,
    check_positions,
    make_mesh,
)
from emv3_jax.sharding.pictures import constrain_pictures, picture_sharding
from emv3_jax.sharding.rules import abstract_on, fetch, param_shardings, place, put, replicate
from emv3_jax.sharding.transformer import ShardedTransformer

__all__ = [
    "AXES", "Attention", "MeshConfig", "ShardedTransformer", "abstract_on", "check_batch",
    "check_heads", "check_positions", "constrain", "constrain_pictures", "cross_attention", "fetch",
    "make_mesh", "param_shardings", "picture_sharding", "place", "put", "replicate",
    "self_attention"]
