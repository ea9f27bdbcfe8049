"""The maker of clips: samples the jobs of a manifest with one model."""

from collections.abc import Sequence
import functools
import pathlib
from typing import Any

from emv3_jax.io import digests
from emv3_jax.jobs import local, shapes
from emv3_jax.jobs.manifest import Job, check_jobs, check_output, dependencies, video_path
from emv3_jax.jobs.report import Outcome
from emv3_jax.jobs.work import Progress
from emv3_jax.runtime import processes
from emv3_jax.sampling import output
from emv3_jax.sampling.clip import stream
from emv3_jax.sampling.fingerprint import fingerprint
from emv3_jax.sampling.model import Model


class Sampler:
  """Makes clips; a `work.Maker`.

  A clip is done if its video and its report exist, the video has the size in the report, and the fingerprint in
  the report is that of the job; with `save_latents` likewise its latents.

  Args:
    model: from `load`.
    folder: output folder.
    save_latents: write the latents too, as .latents.npy.
    verify: count a clip as done only if every byte of its files is as it was written.
    metrics: write metrics of the clips that are sampled, see `output.write`.
  """

  def __init__(self, model: Model, folder: str | pathlib.Path, *, save_latents: bool = False, verify: bool = False,
               metrics: bool = False):
    self.model, self.folder = model, pathlib.Path(folder)
    self.save_latents, self.verify, self.metrics = save_latents, verify, metrics

  def check(self, job: Job) -> None:
    check_output(job, self.folder)

  def reason_to_make(self, job: Job) -> str | None:
    video = video_path(job, self.folder)
    reason = output.reason_to_make(video, lambda: fingerprint(self.model, job.to_make),
                                   save_latents=self.save_latents, verify=self.verify)
    return reason if reason is None or video.exists() else ""

  def make(self, job: Job, progress: Progress) -> None:
    clip = stream(self.model, job.to_make, progress=progress)
    processes.run_on_all(lambda: output.write(
        clip, video_path(job, self.folder), save_latents=self.save_latents, metrics=self.metrics))

  def describe(self, job: Job) -> dict[str, Any]:
    report = output.read_report(output.report_path(video_path(job, self.folder))) or {}
    content, versions = report.get("content", {}), report.get("versions", {})
    return {"seconds": report.get("seconds", {}), "seed": report.get("seed"), "device": versions.get("device", ""),
            "frames_sha256": content.get("frames", ""), "sound_sha256": content.get("sound", "")}


def verify_weights(model: Model) -> None:
  """Compares the weights in the model's folder with their digests; untrained weights have none.

  Raises:
    InputError: the weights differ from those that were written, or are incomplete.
  """
  folder = model.folder
  if folder is not None:
    processes.run_on_all(lambda: digests.verify_digests(folder))


def run_jobs(model: Model, jobs: Sequence[Job], folder: str | pathlib.Path, *, verify: bool = False,
             **options) -> Outcome:
  """Checks the files of all jobs, and samples their clips in this process.

  Args:
    model: from `load`.
    jobs: from `read_manifest`.
    folder: output folder, created if missing.
    verify: compare the weights with their digests first, and see `Sampler`.
    options: see `run_checked`.

  Raises:
    InputError: the folder cannot be written to, or the weights differ from their digests.
    Exception: with several processes, any other error of a job.
  """
  checked = processes.run_on_all(lambda: check_jobs(jobs, folder, model.config))
  return run_checked(model, checked, folder, verify=verify, **options)


def run_checked(model: Model, jobs: Sequence[Job], folder: str | pathlib.Path, *, save_latents: bool = False,
                verify: bool = False, metrics: bool = False, **options) -> Outcome:
  """Samples the clips of jobs that were checked, in this process.

  Args:
    model, folder, verify: see `run_jobs`.
    jobs: from `check_jobs`.
    save_latents, metrics: see `Sampler`.
    options: `options`, `progress` and `report` of `local.run`.

  Raises:
    Exception: as `run_jobs`.
  """
  if verify:
    verify_weights(model)
  sampler = Sampler(model, folder, save_latents=save_latents, verify=verify, metrics=metrics)
  return local.run(sampler, jobs, folder, after=dependencies(jobs, folder),
                   groups=functools.partial(shapes.of_jobs, config=model.config), **options)
