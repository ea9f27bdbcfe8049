"""Jitted functions whose compiled executables are kept on disk, so that a second start does not trace them."""

from collections.abc import Callable, Iterator
import contextlib
import inspect
import time
from typing import Any

from absl import logging
import jax
from jax.core import Tracer
from jax.experimental.compilation_cache import compilation_cache

from emv3_jax.runtime import executables, start_up

_HIT = "/jax/compilation_cache/cache_hits"

folder: executables.Folder | None = None  # set by `program_cache.use`
on_build: Callable[[], None] = lambda: None  # is called before a program is compiled


class KeptProgram:
  """A function as `jax.jit` makes it, taken from the program cache if that has it.

  Without a program cache, with several processes, where the backend cannot serialise, and under other
  transformations it is the jitted function. Executables are the same either way: shardings and donation stay.

  Args:
    function: pure function of arrays.
    identity: everything except the arguments that decides what is computed, e.g. configs, as text that is the same
      in every process.
    **options: of `jax.jit`.
  """

  def __init__(self, function: Callable, identity: str, **options):
    self._jitted: Any = jax.jit(function, **options)
    self._identity = [function.__module__, function.__qualname__, identity,
                      *(f"{name}={described(value)}" for name, value in sorted(options.items()))]
    self._found: dict = {}

  def __call__(self, *args):
    if folder is None or jax.process_count() > 1:
      return self._jitted(*args)
    leaves, tree = jax.tree.flatten(args)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
      return self._jitted(*args)
    signature = (tree, *map(_argument, leaves))
    if signature not in self._found:
      self._found[signature] = self._find(folder, args, leaves, tree)
    return self._found[signature](*args)

  def trace(self, *args) -> jax.stages.Traced:
    """Traces the function for such arguments, as `jax.jit` does; nothing is kept."""
    return self._jitted.trace(*args)

  def lower(self, *args) -> jax.stages.Lowered:
    """Lowers the function for such arguments, as `jax.jit` does; nothing is kept."""
    return self._jitted.lower(*args)

  def __getattr__(self, name: str):
    """Other attributes are those of the jitted function."""
    return getattr(self._jitted, name)

  def _find(self, kept: executables.Folder, args: tuple, leaves: list, tree) -> Callable:
    """Returns what to call for such arguments: an executable, or the jitted function."""
    if not getattr(jax.local_devices()[0].client, "supports_executable_serialization", True):
      _not_kept(self._identity, "this backend cannot serialise programs")
      return self._jitted
    made_for = {"environment": executables.environment(), "identity": self._identity,
                "arguments": [str(tree), *map(_in_words, leaves)]}
    call = executables.key_of(**made_for, code=executables.code())
    start = time.monotonic()
    name = kept.load(call)
    if name == b"":
      _not_kept(self._identity, "it could not be serialised before")
      return self._jitted
    program = None if name is None else _load(kept, name.decode(), start)
    if program is not None:
      return program
    lowered = self._jitted.trace(*args).lower()
    same = executables.key_of(**made_for, out=str(lowered.out_tree), text=executables.digest(lowered.as_text()))
    start = time.monotonic()
    program = _load(kept, same, start) or _compile(kept, same, lowered, self._identity)
    if kept.writable:
      kept.keep(call, same.encode() if program is not None else b"")
    return program or self._jitted


def jit(function: Callable, identity: str, **options) -> Any:
  """Makes a `KeptProgram`; a plain `jax.jit` where `identity` is empty, because the program is of nothing known."""
  return KeptProgram(function, identity, **options) if identity else jax.jit(function, **options)


def _load(kept: executables.Folder, key: str, start: float) -> Callable | None:
  content = kept.load(key)
  if content is None:
    return None
  try:
    program = executables.deserialise(content)
  except Exception as error:  # of any kind: JAX, XLA and pickle do not say which
    logging.vlog(1, "Program cache: an executable cannot be loaded and is compiled anew: %s", error)
    kept.remove(key)
    return None
  start_up.watch().add_executable(time.monotonic() - start)
  return program


def _compile(kept: executables.Folder, key: str, lowered: jax.stages.Lowered, identity: list[str]) -> Callable | None:
  """Compiles a program and keeps it; returns None where it cannot be kept."""
  if not kept.writable:
    return None
  with _without_cache() as hits:
    on_build()
    program = lowered.compile()
  try:
    if hits:  # such an executable has no code of its own: it would load and then fail
      raise ValueError("it came from another cache")
    kept.keep(key, executables.serialise(program))
  except Exception as error:  # of any kind, by backend and release
    _not_kept(identity, str(error))
    return None
  return program


@contextlib.contextmanager
def _without_cache() -> Iterator[list[str]]:
  """Turns JAX's cache of compiled programs off in the block; yields the hits that it has all the same."""
  hits: list[str] = []
  # JAX adds its options to the class when it is imported.
  before = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
  _listening.append(hits)
  jax.config.update("jax_enable_compilation_cache", False)
  compilation_cache.reset_cache()  # it asks for the option once
  try:
    yield hits
  finally:
    jax.config.update("jax_enable_compilation_cache", before)
    compilation_cache.reset_cache()
    _listening.remove(hits)


_listening: list[list[str]] = []


def _on_event(event: str, **_) -> None:
  if event == _HIT:
    for hits in _listening:
      hits.append(event)


jax.monitoring.register_event_listener(_on_event)


def _not_kept(identity: list[str], reason: str) -> None:
  logging.vlog(1, "Program %s is traced at every start: %s.", identity[1], reason)


def _argument(leaf) -> tuple:
  """What `jax.jit` distinguishes arguments by."""
  placed = leaf.sharding if isinstance(leaf, jax.Array) and leaf.committed else None
  return jax.typeof(leaf), placed


def _in_words(leaf) -> str:
  kind, placed = _argument(leaf)
  return f"{kind.dtype.name}{list(kind.shape)} {getattr(kind, 'weak_type', False)} {described(placed)}"


def described(value) -> str:
  """Text of an option of `jax.jit` or of a sharding, with the devices in their order."""
  mesh = getattr(value, "mesh", None)
  if isinstance(mesh, jax.sharding.Mesh):
    return f"{value!r} {[device.id for device in mesh.devices.flat]}"
  if isinstance(value, jax.sharding.Sharding):
    return f"{value!r} {sorted(device.id for device in value.device_set)}"
  if callable(value):
    raise TypeError(f"{inspect.unwrap(value)} has no text that is the same in every process.")
  return repr(value)
