"""The parts in JAX: the programs that `--plan` has, with random numbers, on the first device."""

from collections.abc import Iterator
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu import measure
from benchmarks.gpu.measure import KeepOn, Result
from benchmarks.gpu.sizes import Sizes
from emv3_jax import sharding
from emv3_jax.attention import backends
from emv3_jax.attention.local import attend_blocked
from emv3_jax.components import programs as component_programs
from emv3_jax.plan import programs, subjects
from emv3_jax.sampling.denoise import make_denoiser
from emv3_jax.sampling.presets import preset_of
from emv3_jax.sampling.settings import SamplingConfig

_DRAWN = 1_048_573  # a prime: the rows of a matrix do not repeat each other


def device() -> Iterator[Result]:
  """Yields what the parts run on."""
  found = jax.devices()[0]
  yield {"platform": found.platform, "device": found.device_kind, "jax": jax.__version__}


def program(config: subjects.Config, name: str, window: programs.Window, keep_on: KeepOn) -> Iterator[Result]:
  """Compiles and runs one program of a config.

  Args:
    config: of sampling or of training.
    name: a program of `subjects.of(config)`.
    window: size of the clip.
    keep_on: as of `measure.runs`.

  Yields:
    What is known so far, after compilation and after each run but the first.
  """
  subject = subjects.of(config)
  made = (subject.programs | subject.others)[name](config, window, _deployment())
  start = time.perf_counter()
  compiled = made.traced.lower().compile()
  result = _size(window) | {
      "compile_seconds": round(time.perf_counter() - start, 1),
      "planned_gib": round(compiled.memory_analysis().peak_memory_in_bytes / measure.GIB, 4)}
  yield result
  infos = made.traced.args_info
  arguments = random_like(infos)

  def run():
    nonlocal arguments
    positional, named = arguments
    out = jax.block_until_ready(compiled(*positional, **named))
    arguments = taken_back(infos, arguments, out)
    return out

  for _, seconds, results in measure.runs(run, keep_on):
    yield result | measure.figures(made.flops / 1e12, seconds, *_device(), made.padding) | {
        "finite": is_finite(results)}


def head(sizes: Sizes, keep_on: KeepOn) -> Iterator[Result]:
  """A clip of the preset `head`, from noise to frames on the host, decoded group by group as sampling does.

  Yields:
    As `program`, without a plan; of the seconds also those of the decoder.
  """
  config, window, deployment = sizes.preview, sizes.preview_window, _deployment()
  mesh, net = deployment.mesh, config.model.transformer
  settings = SamplingConfig(**preset_of("head", net.variant))
  denoiser = make_denoiser(net, settings, mesh, precision=config.precision.transformer)
  vae = component_programs.network(config.model, config.precision, "vae")
  decode = component_programs.vae_decode_group(vae, mesh, window.latents[1:])
  params, vae_params = random_like(
      (denoiser.transformer.abstract, sharding.abstract_on(vae.abstract, mesh, "vae")))
  normal = lambda shape: np.random.default_rng(0).standard_normal(shape, np.float32)
  conditions = programs.conditions(net, window, normal)
  conditions = dataclasses.replace(
      conditions, text=dict.fromkeys(("prompt", "negative"), conditions.text["prompt"]))
  noise, decoding = normal((1, *window.latents, net.out_channels)), []

  def run():
    latents = np.asarray(denoiser.run(params, noise, conditions))
    start, cached, frames = time.perf_counter(), None, []
    for number in range(window.latents[0]):
      group, cached = decode(vae_params, latents[:, number:number + 1], cached)
      frames.append(np.asarray(group))
    decoding.append(round(time.perf_counter() - start, 4))
    return np.concatenate(frames, axis=1)

  step, last = (programs.PROGRAMS[name](config, window, deployment).flops for name in ("sample_step", "vae_decode"))
  for first, seconds, results in measure.runs(run, keep_on):
    yield _size(window) | {"steps": settings.steps, "first_seconds": round(first, 1), "shape": list(results[0].shape)} | (
        measure.figures((settings.steps * step + last) / 1e12, seconds, *_device())) | {
        "decode_seconds": decoding[1:]}


def attention(sizes: Sizes) -> Iterator[Result]:
  """Relative L2 errors of the platform's kernel in bfloat16 against plain attention in float32.

  Yields:
    Errors of the output and of the queries' gradient, by lengths of queries and keys.
  """
  backend, errors = backends.select("auto"), {}
  for s, m in sizes.lengths:
    keys = jax.random.split(jax.random.key(s + m), 4)
    q, k, v, slope = (jax.random.normal(key, (1, length, sizes.heads, sizes.head_dim), jnp.bfloat16)
                      for key, length in zip(keys, (s, m, m, s), strict=True))
    both = []
    for attend, dtype in ((backend, jnp.bfloat16), (attend_blocked, jnp.float32)):
      wide = [x.astype(dtype) for x in (q, k, v)]
      run = jax.jit(lambda q, k, v, slope, attend=attend: (
          attend(q, k, v), jax.grad(lambda q: jnp.vdot(
              attend(q, k, v).astype(jnp.float32), slope.astype(jnp.float32)))(q)))
      both.append(run(*wide, slope))
    errors[f"{s}x{m}"] = [round(float(_relative(a, b)), 5) for a, b in zip(*both, strict=True)]
    yield {"backend": backend.name, "device": _device()[0], "relative_error": errors}


def random_like(infos):
  """Arrays of such shapes: normal numbers times 0.02; zeros for integers and for the state of an optimiser.

  An optimiser's second moments are means of squares: they cannot be any numbers.
  """
  block = 0.02 * jax.random.normal(jax.random.key(0), (_DRAWN,))
  # Numbers are repeated instead of drawn: drawing takes memory beside the array, and the program's peak is measured.
  repeat = jax.jit(lambda block, shape, dtype: block[jnp.arange(np.prod(shape, dtype=np.int64)) % _DRAWN].astype(
      dtype).reshape(shape), static_argnums=(1, 2))

  def one(path, info):
    drawn = jnp.issubdtype(info.dtype, jnp.floating) and "opt_state" not in jax.tree_util.keystr(path)
    return repeat(block, info.shape, jnp.dtype(info.dtype)) if drawn else jnp.zeros(info.shape, info.dtype)

  return jax.tree_util.tree_map_with_path(one, infos)


def taken_back(infos, arguments, out):
  """The arguments of the next run: in place of those that were donated, what the run returned first.

  Raises:
    ValueError: it returned something else first.
  """
  given, tree = jax.tree.flatten(arguments)
  donated = [info.donated for info in jax.tree.leaves(infos)]
  gone = [array for array, is_gone in zip(given, donated, strict=True) if is_gone]
  fresh = jax.tree.leaves(out)[:len(gone)]
  if [(x.shape, x.dtype) for x in fresh] != [(x.shape, x.dtype) for x in gone]:
    raise ValueError("The first results of the program are not its donated arguments renewed.")
  renewed = iter(fresh)
  return jax.tree.unflatten(tree, [next(renewed) if is_gone else array
                                   for array, is_gone in zip(given, donated, strict=True)])


def is_finite(out) -> bool:
  """Whether all floating-point results are finite: with NaN a device may run faster."""
  floating = [x for x in jax.tree.leaves(out) if jnp.issubdtype(x.dtype, jnp.floating)]
  return all(bool(jnp.isfinite(x).all()) for x in floating)


def _deployment() -> programs.Deployment:
  first, config = jax.devices()[0], sharding.MeshConfig()
  return programs.Deployment(first.platform, sharding.make_mesh(config, [first]), config)


def _device() -> tuple[str, int | None]:
  """Kind of the device, and the peak of its allocator in bytes."""
  first = jax.devices()[0]
  return first.device_kind, (first.memory_stats() or {}).get("peak_bytes_in_use")


def _size(window: programs.Window) -> Result:
  return {"frames": window.frames, "height": window.height, "width": window.width}


def _relative(found: jax.Array, wanted: jax.Array) -> jax.Array:
  return jnp.linalg.norm((found.astype(jnp.float32) - wanted).ravel()) / jnp.linalg.norm(wanted.ravel())
