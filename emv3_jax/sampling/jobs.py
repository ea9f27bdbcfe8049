"""Many clips from a manifest: done jobs are skipped, failures stay alone and are told together."""

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
from emv3_jax.sampling.clip import sample
from emv3_jax.sampling.fingerprint import fingerprint
from emv3_jax.sampling.manifest import Job, check_jobs, check_output, video_path
from emv3_jax.sampling.model import Model

FAILED = "failed.jsonl"


@dataclasses.dataclass(frozen=True)
class Outcome:
  done: int
  skipped: int
  failed: int


@dataclasses.dataclass(frozen=True)
class Failure:
  """A job that was not done, and why; a line of failed.jsonl.

  Attributes:
    line: of the manifest, from 1.
    name: of the output.
    reason: one or two lines.
    traceback: where it came from; empty for wrong input.
  """

  line: int
  name: str
  reason: str
  traceback: str = ""


def verify_weights(model: Model) -> None:
  """Compares the weights of the model's folder with their digests; untrained ones have none.

  Raises:
    InputError: they are not those that were written, or are not there to the end.
  """
  folder = model.folder
  if folder is not None:
    processes.together(lambda: digests.verify_digests(folder))


def run_jobs(model: Model, jobs: Sequence[Job], folder: str | pathlib.Path, *,
             save_latents: bool = False, verify: bool = False,
             progress: Callable | None = None) -> Outcome:
  """Makes every job's clip in `folder`, in order; skips those that are done already.

  A job is done when its video and its JSON are there, the video has the size that the JSON says, and the
  JSON's fingerprint is the job's; with `save_latents` its latents likewise. Before the first job
  the files of all are looked at. A job that fails, whatever the error is, is told and the next one
  runs; `failed.jsonl` in the folder has a line for each, and is not there where none failed.

  Args:
    model: from `load`.
    jobs: from `read_manifest`.
    folder: made where absent.
    save_latents: write the latents too, as .latents.npy.
    verify: before the work compare the weights with their digests, and count a job as done only
      when its files are to the last byte what was written.
    progress: wraps the iterator of solver steps, e.g. a `tqdm`.

  Raises:
    InputError: the folder cannot be written to, or the weights are not those that were written.
    Exception: of several processes one fails in another way; the others would wait for it for ever.
  """
  folder = pathlib.Path(folder)
  jobs = processes.together(lambda: check_jobs(jobs, folder, model.config))
  if verify:
    verify_weights(model)
  done, skipped, failures = 0, 0, []
  try:
    for job in jobs:
      try:
        processes.together(lambda job=job: _check(job, folder))
        video = video_path(job, folder)
        if _is_done(model, job, video, save_latents, verify):
          logging.info("Line %d (%s) is done already.", job.line, job.name)
          skipped += 1
          continue
        clip = sample(model, job.to_make, progress=progress)
        processes.together(lambda clip=clip, video=video: output.write(clip, video, save_latents=save_latents))
      except Exception as error:  # a job is one of many: nothing in it may end the others
        failures.append(_failure(job, error))
        logging.error("Line %d (%s) failed: %s", job.line, job.name, failures[-1].reason)
        if not job.fault:
          logging.vlog(1, "%s", "".join(traceback.format_exception(error)))
        if not isinstance(error, InputError) and processes.several():
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
  check_output(job, folder)  # again: what is there may have changed since


def _failure(job: Job, error: Exception) -> Failure:
  if isinstance(error, InputError):
    return Failure(job.line, job.name, str(error))
  said = next(iter(str(error).splitlines()), "")
  if isinstance(error, MemoryError):
    said = said or "the memory of this machine is not enough"
  if "RESOURCE_EXHAUSTED" in said:  # of a device, from JAX
    said = f"the device's memory is not enough, --plan tells what would take less ({said})"
  return Failure(job.line, job.name, f"{type(error).__name__}: {said[:300]}".removesuffix(": "),
                 "".join(traceback.format_exception(error)))


def _write_failures(path: pathlib.Path, failures: Sequence[Failure]) -> None:
  """Tells of those of this run only; the jobs before count more than this file."""
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
  """Process 0 looks, all know; tells why a clip that is there has to be made again."""
  def look() -> str | None:
    return output.reason_to_make(
        video, lambda: fingerprint(model, job.to_make), save_latents=save_latents,
        verify=verify) if processes.is_first() else None

  reason = processes.together(look)
  if reason is not None and video.exists():
    logging.info("Line %d (%s) is made again: %s.", job.line, job.name, reason)
  return not processes.anywhere(reason is not None)
