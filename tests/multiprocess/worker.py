"""One of several processes, four CPU devices each, that sample or differentiate together.

  python -m tests.multiprocess.worker latents|gradients ADDRESS PROCESSES PROCESS OUT.npz
"""

import dataclasses
import functools
import sys

import jax
import numpy as np

from emv3_jax import sharding
from emv3_jax.models.network import named_leaves
from emv3_jax.sampling.denoise import Denoiser
from emv3_jax.sampling.settings import SamplingConfig
from emv3_jax.sharding.mesh import MeshConfig
from tests.compiler import QUICK
from tests.sharding import tiny


def latents() -> dict[str, np.ndarray]:
  """Of a sampling run with fsdp over all processes."""
  mesh = sharding.make_mesh(MeshConfig(fsdp=2, context=2, tensor=2))
  denoiser = Denoiser(tiny.on_mesh(tiny.CONFIG, mesh), SamplingConfig(steps=2, neg_steps=0))
  return {"latents": denoiser.run(sharding.shard_params(tiny.params_of(), mesh),
                                  sharding.replicate(tiny.noise_of(1), mesh),
                                  tiny.conditions_of(1))}


def gradients() -> dict[str, np.ndarray]:
  """With context over all processes."""
  config = MeshConfig(context=8, attention="allgather")
  mesh = sharding.make_mesh(config)
  loss = functools.partial(tiny.loss_and_velocity, mesh=mesh, attention=config.attention)
  inputs = tiny.noise_of(1), dataclasses.asdict(tiny.conditions_of(1))
  whole = jax.sharding.NamedSharding(mesh, jax.P())
  found, _ = jax.jit(jax.grad(loss, has_aux=True), out_shardings=whole)(
      sharding.shard_params(tiny.params_of(), mesh), *sharding.replicate(inputs, mesh))
  return {name: np.asarray(leaf) for name, leaf in named_leaves(found).items()}


WORK = {"latents": latents, "gradients": gradients}


def main(work: str, address: str, processes: str, process: str, out: str) -> None:
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", 4)
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(address, int(processes), int(process))
  jax.jit = functools.partial(jax.jit, compiler_options=QUICK)
  results = WORK[work]()
  if jax.process_index() == 0:
    np.savez(out, **results)
  jax.distributed.shutdown()


if __name__ == "__main__":
  main(*sys.argv[1:])
