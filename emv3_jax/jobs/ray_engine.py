"""The engine that makes jobs on a Ray cluster: replicas, each with its own devices, that are replaced when they are lost.

What is done is decided by outputs, as everywhere: Ray is asked for machines and for what goes on, never for results.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
import contextlib
import dataclasses
import pathlib
import time
from typing import Any

from absl import logging

from emv3_jax.errors import InputError
from emv3_jax.jobs import local, ray_cluster
from emv3_jax.jobs.claims import Claims
from emv3_jax.jobs.making import Making
from emv3_jax.jobs.order import Queue
from emv3_jax.jobs.ray_cluster import ClusterConfig, Share
from emv3_jax.jobs.report import REPORT, Entry, Report, now
from emv3_jax.jobs.work import Maker, Options

TELL_EVERY = 10.0  # seconds between lines of progress
LOOK_EVERY = 5.0  # seconds between looks at the nodes
UNSEEN_SECONDS = 90.0  # in which the output of a node has to be seen by the run
STOP_SECONDS = 60.0  # in which a running step has to end when the run is stopped


def run(setup: Any, maker: Maker, jobs: Sequence[Any], folder: str | pathlib.Path, *, cluster: ClusterConfig,
        options: Options | None = None, after: Mapping[int, Collection[int]] | None = None,
        groups: Callable[[Sequence[Any]], Mapping[int, Hashable]] = lambda jobs: {}, report: str | None = REPORT) -> Report:
  """Makes the outputs of jobs on a cluster; see `local.run`.

  A job whose worker is lost, alone or with its node, is made again elsewhere, up to `options.max_lost` times. A run
  that was killed is started again and goes on.

  Args:
    setup: a `ray_replica.Setup`, which is pickled.
    maker: looks at outputs in this process; nothing is made with it.
    jobs, options, after, groups: see `local.run`; jobs are pickled.
    report: name of the report in `folder`; None writes none.
    folder: output folder, which exists, on a file system that all nodes share.
    cluster: the cluster, and what a replica takes of it.

  Returns:
    The report, with the entries of all jobs.

  Raises:
    InputError: there is no such cluster, it has no room for a replica, or a node cannot be used: its versions differ,
      or it does not have the model or the output folder.
  """
  ray_cluster.require()
  options, folder = options or Options(), pathlib.Path(folder).absolute()
  written = Report(None if report is None else folder / report)
  making = Making(maker, Claims(folder, options.claim_seconds))
  queue = Queue(jobs, after)
  try:
    queue = local.look(making, jobs, written, after, groups)
    if len(queue):
      with ray_cluster.connected(cluster) as ray:
        engine = _Engine(ray, setup, making, folder, options, cluster, queue, written, len(jobs))
        try:
          engine.run()
        except BaseException:
          engine.stop()
          raise
        finally:
          engine.close()
  finally:
    for job in (job for job in queue.jobs if job.line not in written.entries):
      written.add(Entry(job.line, job.name, "stopped", "not begun", finished=now()))
    written.finish()
  return written


class _Engine:
  """One run on a connected cluster."""

  def __init__(self, ray: Any, setup: Any, making: Making, folder: pathlib.Path, options: Options,
               cluster: ClusterConfig, queue: Queue, report: Report, total: int):
    from emv3_jax.jobs import ray_replica, ray_workers  # they import Ray
    self._ray, self._making, self._folder, self._options = ray, making, folder, options
    self._cluster, self._queue, self._report, self._total = cluster, queue, report, total
    self._lib, self._here = ray_workers, ray_replica.versions()
    self._arguments = (ray.put(setup), str(folder), options)
    self._workers: list[Any] = []
    self._lost: dict[int, int] = {}
    self._failed: dict[int, int] = {}
    self._unseen: dict[int, float] = {}
    self._lost_starts = 0
    self._share: Share = ray_cluster.share(ray.nodes(), cluster)
    self._looked = self._told = time.monotonic()
    logging.info("Ray: %s; %d replicas for %d jobs.", ray_cluster.describe(ray.nodes()), self._wanted(), len(queue))

  def run(self) -> None:
    """Makes all jobs of the queue."""
    while len(self._queue):
      self._look_at_nodes()
      while len(self._workers) < min(self._wanted(), len(self._queue)):
        self._workers.append(self._start())
      self._give_out()
      asked = {ref: worker for worker in self._workers for ref in worker.refs}
      if asked:
        ended, _ = self._ray.wait(list(asked), num_returns=1, timeout=0.5)
        for ref in ended:
          self._end(asked[ref], ref)
      else:
        time.sleep(local.pause(self._options) / 4)
      self._tell()

  def _wanted(self) -> int:
    return self._cluster.replicas or max(1, self._share.fit)

  def _look_at_nodes(self) -> None:
    """Nodes come and go; the number of replicas follows."""
    if time.monotonic() - self._looked > LOOK_EVERY:
      self._looked = time.monotonic()
      with contextlib.suppress(InputError):  # nodes that are gone may come back
        self._share = ray_cluster.share(self._ray.nodes(), self._cluster)

  def _start(self) -> Any:
    return self._lib.Worker(self._ray, self._arguments, self._share, self._cluster.processes, self._here)

  def _give_out(self) -> None:
    for worker in self._workers:
      if worker.places and worker.job is None:
        job = self._queue.take(worker.group)
        if job is None:
          return
        worker.make(job, self._queue.group(job))

  def _end(self, worker: Any, ref: Any) -> None:
    """Takes what a replica returned, or notices that it was lost."""
    try:
      found = worker.end(ref)
    except self._lib.Lost as error:
      self._end_of_lost(worker, error)
      return
    except self._lib.Failed as error:
      self._end_of_failed(worker, error)
      return
    if found is None:
      return
    if found[0] == "ready":
      self._lost_starts = 0
      logging.vlog(1, "A replica is ready on %s.", worker.where)
      return
    job, worker.job, entry = worker.job, None, found[1]
    if entry is None:
      self._queue.put_back(job, local.pause(self._options))
    elif entry.status in ("done", "skipped") and not self._is_seen(job):
      self._missed(job, worker)
    else:
      self._finish(job, entry)

  def _is_seen(self, job: Any) -> bool:
    entry = self._making.look(job)
    return entry is not None and entry.status == "skipped"

  def _missed(self, job: Any, worker: Any) -> None:
    """Looks for the output of a job later; network file systems may show a new file after some seconds."""
    first = self._unseen.setdefault(job.line, time.monotonic())
    if time.monotonic() - first > UNSEEN_SECONDS:
      raise InputError(f"Node {worker.places[0].node} ({worker.places[0].host}) says that {job.name} is made, and it is not in "
                       f"{self._folder} as it is seen here.\nChoose an --out on a file system that all nodes share.")
    self._queue.put_back(job, local.pause(self._options))

  def _finish(self, job: Any, entry: Entry) -> None:
    entry = dataclasses.replace(entry, lost=self._lost.get(job.line, 0))
    local.tell(entry)
    self._report.add(entry)
    self._queue.finish(job)

  def _end_of_lost(self, worker: Any, error: Exception) -> None:
    self._drop(worker)
    job = worker.job
    if job is None:
      self._lost_starts += 1
      if self._lost_starts >= self._options.max_lost:
        raise RuntimeError(f"{self._lost_starts} replicas were lost one after the other before they were ready: "
                           f"{error}") from error
      return
    lost = self._lost[job.line] = self._lost.get(job.line, 0) + 1
    logging.warning("Line %d (%s): its worker on %s was lost (%d of %d): %s", job.line, job.name, worker.where, lost,
                    self._options.max_lost, error)
    entry = self._making.look(job)
    if entry is not None and entry.status == "skipped":  # it was lost after it had finished
      self._finish(job, dataclasses.replace(entry, status="done", host=worker.where, attempts=1))
    elif lost >= self._options.max_lost:
      reason = f"its workers were lost {lost} times, the last: {error}"
      self._finish(job, Entry(job.line, job.name, "lost", reason, host=worker.where, finished=now()))
    else:
      self._queue.put_back(job)

  def _end_of_failed(self, worker: Any, error: Exception) -> None:
    """A job that fails in one of several processes leaves the others waiting; the replica starts again."""
    self._drop(worker)
    job = worker.job
    attempts = self._failed[job.line] = self._failed.get(job.line, 0) + 1
    if attempts <= self._options.retries:
      logging.warning("Line %d (%s) failed and is tried again: %s", job.line, job.name, self._lib.first_line(error))
      self._queue.put_back(job)
    else:
      self._finish(job, Entry(job.line, job.name, "failed", self._lib.first_line(error), attempts=attempts,
                              host=worker.where, finished=now(), traceback=str(error.__cause__ or "")))

  def _drop(self, worker: Any) -> None:
    self._workers.remove(worker)
    worker.kill()

  def _tell(self) -> None:
    """Logs how far the run is, with the steps of running jobs."""
    if time.monotonic() - self._told < TELL_EVERY:
      return
    refs = {worker.actors[0].at.remote(): worker for worker in self._workers if worker.job is not None}
    ready, _ = self._ray.wait(list(refs), num_returns=len(refs), timeout=1.0) if refs else ([], [])
    told = []
    for ref in ready:
      with contextlib.suppress(self._ray.exceptions.RayError):
        at = self._ray.get(ref)
        told += [f"{at[0]} step {at[1]} of {at[2]} ({refs[ref].where})"] if at else []
    outcome = self._report.outcome()
    logging.info("%d of %d jobs ended, %d of them failed; %d running%s.", self._total - len(self._queue), self._total,
                 outcome.failed + outcome.lost, len(refs), f": {', '.join(told[:8])}" if told else "")
    self._told = time.monotonic()

  def stop(self) -> None:
    """Ends running jobs before their next step; after `STOP_SECONDS` their processes are killed."""
    running = {ref: worker for worker in self._workers if worker.job is not None for ref in worker.refs}
    for worker in set(running.values()):
      worker.stop()
    ended, _ = self._ray.wait(list(running), num_returns=len(running), timeout=STOP_SECONDS) if running else ([], [])
    for ref in ended:
      worker = running[ref]
      with contextlib.suppress(self._lib.Lost, self._lib.Failed, InputError, RuntimeError):
        found = worker.end(ref)
        if found is not None and found[1] is not None:
          self._finish(worker.job, found[1])
          worker.job = None

  def close(self) -> None:
    """Ends the replicas, and removes what those that were killed left half-written on this machine."""
    workers = list(self._workers)
    for worker in workers:
      self._drop(worker)
    for worker in workers:
      if worker.job is not None:
        self._making.claims.clear(worker.job.name)

