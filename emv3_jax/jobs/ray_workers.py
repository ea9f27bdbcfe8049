"""Replicas as the engine sees them: one or more actors of Ray that are started, asked and lost together."""

from collections.abc import Callable, Hashable
import contextlib
from typing import Any

from emv3_jax.errors import InputError
from emv3_jax.jobs import ray_replica
from emv3_jax.jobs.ray_cluster import Share
from emv3_jax.jobs.ray_replica import Place, Replica


class Lost(Exception):
  """A process of a replica was lost; the message says what Ray knows of it."""


class Failed(Exception):
  """A job raised an error in one of several processes, which cannot go on together."""


class Worker:
  """A replica: it starts in steps (look at its machines, find each other), and then makes jobs.

  Args:
    ray: the module.
    arguments: of `Replica`.
    share: what each of its processes takes.
    processes: their number.
    here: versions of the run, see `check_place`.

  Attributes:
    places: where its processes run; empty while it starts.
    job, group: what it makes, and the group of its last job.
  """

  def __init__(self, ray: Any, arguments: tuple, share: Share, processes: int, here: dict[str, str]):
    self._ray, self._here = ray, here
    self.places: list[Place] = []
    self.job: Any = None
    self.group: Hashable = None
    self._pending: dict[Any, int] = {}
    self._results: list[Any] = []
    self._then: Callable[[list[Any]], Any] = lambda results: None
    self._bundles, options = None, {**share.options, "scheduling_strategy": "SPREAD"}
    if processes > 1:
      self._bundles = ray.util.placement_group([_bundle(share.options)] * processes, strategy="PACK")
      options["scheduling_strategy"] = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(self._bundles)
    remote = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"watch": 1}, **options)(Replica)
    self.actors = [remote.remote(*arguments) for _ in range(processes)]
    self._ask([actor.look.remote() for actor in self.actors], self._looked)

  @property
  def refs(self) -> list[Any]:
    """What it is asked for right now."""
    return list(self._pending)

  @property
  def where(self) -> str:
    """Names its machines."""
    return ", ".join(dict.fromkeys(place.host for place in self.places)) or "a node"

  def make(self, job: Any, group: Hashable) -> None:
    """Gives it a job, which all of its processes make together."""
    self.job, self.group = job, group
    self._ask([actor.make.remote(job) for actor in self.actors], lambda results: ("made", results[0]))

  def end(self, ref: Any) -> tuple[str, Any] | None:
    """Takes what was asked for: None if more is to come, ("ready", None), or ("made", the entry of the job or None).

    Raises:
      Lost: one of its processes is gone.
      Failed: a job raised an unexpected error in one of several processes.
      InputError: the model or a node cannot be used.
    """
    index = self._pending.pop(ref)
    try:
      self._results[index] = self._ray.get(ref)
    except self._ray.exceptions.RayTaskError as error:
      self._raise(error, index)
    except self._ray.exceptions.RayError as error:
      raise Lost(first_line(error)) from error
    if self._pending:
      return None
    return self._then(self._results)

  def _ask(self, refs: list[Any], then: Callable[[list[Any]], Any]) -> None:
    self._pending, self._results, self._then = {ref: index for index, ref in enumerate(refs)}, [None] * len(refs), then

  def _looked(self, found: list[Place]) -> tuple[str, Any] | None:
    for place in found:
      ray_replica.check_place(place, self._here)
    if len(self.actors) == 1:
      return self._ready(found)
    self._ask([self.actors[0].address.remote()], lambda results: self._found(results[0], found))
    return None

  def _found(self, address: str, places: list[Place]) -> None:
    joins = [actor.join.remote(address, len(self.actors), index) for index, actor in enumerate(self.actors)]
    self._ask(joins, lambda _: self._ready(places))

  def _ready(self, places: list[Place]) -> tuple[str, Any]:
    self.places = places
    return "ready", None

  def _raise(self, error: Any, index: int) -> None:
    """Raises what an error in one process means; of several processes another one may be the cause by being lost."""
    if isinstance(error.cause, InputError):
      where = f"Node {self.places[index].node} ({self.places[index].host}): " if self.places else ""
      raise InputError(f"{where}{error.cause}") from None
    if len(self.actors) == 1 and self.job is not None:
      raise RuntimeError(f"a replica on {self.where} failed: {error}") from error
    refs = list(self._pending)
    ended, _ = self._ray.wait(refs, num_returns=len(refs), timeout=10.0) if refs else ([], [])
    for ref in ended:
      try:
        self._ray.get(ref)
      except self._ray.exceptions.RayTaskError:
        pass
      except self._ray.exceptions.RayError as lost:
        raise Lost(first_line(lost)) from lost
    raise (Failed if self.job is not None else Lost)(f"{type(error.cause).__name__}: {error.cause}") from error

  def stop(self) -> None:
    """Ends the job that is being made before its next step."""
    for actor in self.actors:
      actor.stop.remote()

  def kill(self) -> None:
    """Ends its processes."""
    for actor in self.actors:
      with contextlib.suppress(self._ray.exceptions.RayError):
        self._ray.kill(actor)
    if self._bundles is not None:
      self._ray.util.remove_placement_group(self._bundles)


def _bundle(options: dict[str, Any]) -> dict[str, float]:
  found = {"CPU": options.get("num_cpus", 0), "GPU": options.get("num_gpus", 0), **options.get("resources", {})}
  return {name: value for name, value in found.items() if value}


def first_line(error: Exception) -> str:
  """Returns the first line of an error's message, shortened."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  return (lines[0] if lines else type(error).__name__)[:300]
