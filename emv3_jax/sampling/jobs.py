"""Batches of clips from a manifest: complete jobs are skipped, failed jobs do not stop the others."""

from collections.abc import Callable, Sequence
import dataclasses
import json
import pathlib
import traceback

from absl import logging

from emv3_jax.errors import InputError
from emv3_jax.io import atomic, digests
from emv3_jax.runtime import processes
from emv3_jax.sampling import output
from emv3_jax.sampling.clip import stream
from emv3_jax.sampling.fingerprint import fingerprint
from emv3_jax.sampling.manifest import Job, check_jobs, check_output, video_path
from emv3_jax.sampling.model import Model

FAILED = "failed.jsonl"


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Numbers of jobs that were done, skipped, and failed."""

  done: int
  skipped: int
  failed: int


@dataclasses.dataclass(frozen=True)
class Failure:
  """A failed job, a line of failed.jsonl.

  Attributes:
    line: line of the manifest, from 1.
    name: name of the output.
    reason: one or two lines.
    traceback: traceback of the error; empty for wrong input.
  """

  line: int
  name: str
  reason: str
  traceback: str = ""


def verify_weights(model: Model) -> None:
  """Compares the weights in the model's folder with their digests; untrained weights have none.

  Raises:
    InputError: the weights differ from those that were written, or are incomplete.
  """
  folder = model.folder
  if folder is not None:
    processes.run_on_all(lambda: digests.verify_digests(folder))


def run_jobs(model: Model, jobs: Sequence[Job], folder: str | pathlib.Path, *,
             save_latents: bool = False, verify: bool = False,
             progress: Callable | None = None, metrics: bool = False) -> Outcome:
  """Samples the clips of all jobs in order; skips jobs that are already done.

  A job is done if its video and its JSON exist, the video has the size in the JSON, and the fingerprint in
  the JSON is that of the job; with `save_latents` likewise its latents. The files of all jobs are checked
  before the first job. If a job fails with any error, the error is logged and the next job runs;
  `failed.jsonl` in the folder has a line for each failure and does not exist if there is none.

  Args:
    model: from `load`.
    jobs: from `read_manifest`.
    folder: output folder, created if missing.
    save_latents: write the latents too, as .latents.npy.
    verify: compare the weights with their digests first, and count a job as done only if every byte of
      its files is as it was written.
    progress: wraps the iterator of solver steps, e.g. a `tqdm`.
    metrics: write metrics of the clips that are sampled, see `output.write`.

  Raises:
    InputError: the folder cannot be written to, or the weights differ from their digests.
    Exception: with several processes, any other error of a job, because the other processes would wait
      for the failed one forever.
  """
  folder = pathlib.Path(folder)
  jobs = processes.run_on_all(lambda: check_jobs(jobs, folder, model.config))
  if verify:
    verify_weights(model)
  done, skipped, failures = 0, 0, []
  try:
    for job in jobs:
      try:
        processes.run_on_all(lambda job=job: _check(job, folder))
        video = video_path(job, folder)
        if _is_done(model, job, video, save_latents, verify):
          logging.info("Line %d (%s) is done already.", job.line, job.name)
          skipped += 1
          continue
        clip = stream(model, job.to_make, progress=progress)
        processes.run_on_all(lambda clip=clip, video=video: output.write(
            clip, video, save_latents=save_latents, metrics=metrics))
      except Exception as error:  # no error of one job may stop the others
        failures.append(_failure(job, error))
        logging.error("Line %d (%s) failed: %s", job.line, job.name, failures[-1].reason)
        if not job.fault:
          logging.vlog(1, "%s", "".join(traceback.format_exception(error)))
        if not isinstance(error, InputError) and processes.is_distributed():
          raise
        continue
      logging.info("Line %d (%s) done.", job.line, job.name)
      done += 1
  finally:
    if processes.is_first():
      _write_failures(folder / FAILED, failures)
  return Outcome(done, skipped, len(failures))


def _check(job: Job, folder: pathlib.Path) -> None:
  if job.fault:
    raise InputError(job.fault)
  check_output(job, folder)  # checked again, because files may have changed since


def _failure(job: Job, error: Exception) -> Failure:
  if isinstance(error, InputError):
    return Failure(job.line, job.name, str(error))
  message = next(iter(str(error).splitlines()), "")
  if isinstance(error, MemoryError):
    message = message or "the memory of this machine is not enough"
  if "RESOURCE_EXHAUSTED" in message:  # of a device, from JAX
    message = f"the device's memory is not enough, --plan shows settings that need less ({message})"
  return Failure(job.line, job.name, f"{type(error).__name__}: {message[:300]}".removesuffix(": "),
                 "".join(traceback.format_exception(error)))


def _write_failures(path: pathlib.Path, failures: Sequence[Failure]) -> None:
  """Writes the failures of this run; if that fails, a warning is logged and the run goes on."""
  try:
    if not failures:
      path.unlink(missing_ok=True)
      return
    with atomic.atomic_file(path) as temporary:
      temporary.write_text("".join(f"{json.dumps(dataclasses.asdict(failure))}\n"
                                   for failure in failures))
  except (InputError, OSError) as error:
    logging.warning("%s cannot be written: %s", path, error)
    return
  logging.info("%s has the reason of each failure.", path)


def _is_done(model: Model, job: Job, video: pathlib.Path, save_latents: bool,
             verify: bool) -> bool:
  """Returns whether a job is done, decided by process 0; logs why an existing clip is sampled again."""
  def reason_on_first_process() -> str | None:
    return output.reason_to_make(
        video, lambda: fingerprint(model, job.to_make), save_latents=save_latents,
        verify=verify) if processes.is_first() else None

  reason = processes.run_on_all(reason_on_first_process)
  if reason is not None and video.exists():
    logging.info("Line %d (%s) is sampled again: %s.", job.line, job.name, reason)
  return not processes.any_process(reason is not None)
