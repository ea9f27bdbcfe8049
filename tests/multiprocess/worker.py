"""One of several processes, four CPU devices each, that sample and differentiate together.

  python -m tests.multiprocess.worker ADDRESS PROCESSES PROCESS OUT.npz
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


def work() -> dict[str, np.ndarray]:
  """A sampling run with fsdp over all processes, and a gradient with context over all of them."""
  whole = lambda tree, mesh: jax.jit(
      lambda tree: tree, out_shardings=jax.sharding.NamedSharding(mesh, jax.P()))(tree)

  mesh = sharding.make_mesh(MeshConfig(fsdp=2, context=2, tensor=2))
  denoiser = Denoiser(sharding.ShardedTransformer(tiny.CONFIG, mesh), tiny.CONFIG,
                      SamplingConfig(steps=2, neg_steps=0), attend=tiny.ATTEND)
  latents = denoiser.run(sharding.place(tiny.params_of(), mesh),
                         sharding.replicate(tiny.noise_of(1), mesh), tiny.conditions_of(1))

  config = MeshConfig(context=8, attention="allgather")
  mesh = sharding.make_mesh(config)
  loss = functools.partial(tiny.loss_and_velocity, mesh=mesh, attention=config.attention,
                           remat="none")
  inputs = tiny.noise_of(1), dataclasses.asdict(tiny.conditions_of(1))
  gradients, _ = jax.jit(jax.grad(loss, has_aux=True))(
      sharding.place(tiny.params_of(), mesh), *sharding.replicate(inputs, mesh))
  results = {"latents": latents, **named_leaves(whole(gradients, mesh))}
  return {name: np.asarray(result) for name, result in results.items()}


def main(address: str, processes: str, process: str, out: str) -> None:
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", 4)
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(address, int(processes), int(process))
  jax.jit = functools.partial(jax.jit, compiler_options=QUICK)
  results = work()
  if jax.process_index() == 0:
    np.savez(out, **results)
  jax.distributed.shutdown()


if __name__ == "__main__":
  main(*sys.argv[1:])
