"""Samples talking videos: one clip, or many clips from a manifest.

  emv3-sample --config=tiny --image=P --audio=A --prompt=TEXT --out=V.mp4
  emv3-sample --config=tiny --manifest=jobs.jsonl --out=DIR
  emv3-sample --config=echomimic_v3_preview --plan=v5e:2x4,h100:1x1x8

Config fields are overridden as --config.sampling.steps=8. Exit code 0 only when all that was
asked for was done; 1 when jobs of a manifest failed; 2 for wrong input; 75 when it was stopped by
SIGTERM or Ctrl-C: the same command goes on.
"""

from collections.abc import Collection, Sequence
import dataclasses
import json
import pathlib
import sys

from absl import logging

from emv3_jax import tasks
from emv3_jax.errors import InputError
from emv3_jax.io.manifests import is_text
from emv3_jax.io.model_card import ModelCard, read_model_card
from emv3_jax.jobs import flags as job_flags
from emv3_jax.jobs import local, manifest, ray_sampler, sampler
from emv3_jax.plan import command as plan
from emv3_jax.runtime import command_line, processes, program_cache, start_up
from emv3_jax.runtime import config as config_lib
from emv3_jax.runtime.command_names import as_called
from emv3_jax.sampling import guidance_settings, output, resolution, timed_prompts
from emv3_jax.sampling.cache_settings import CacheConfig
from emv3_jax.sampling.clip import stream
from emv3_jax.sampling.clip_calibration import calibrate
from emv3_jax.sampling.inputs import named_files
from emv3_jax.sampling.model import UNTRAINED, Model, folder_of, load
from emv3_jax.sampling.settings import Config, Request

_OF_REQUEST = [field.name for field in dataclasses.fields(Request)]


def make_parser() -> command_line.Parser:
  parser = command_line.Parser(prog=as_called("emv3-sample"), description=as_called(__doc__ or ""))
  parser.add_argument("--config", help="config file, or name of a shipped config, e.g. tiny")
  parser.add_argument("--checkpoint", help="model folder; default: the config's")
  parser.add_argument("--out", help="video to write, or folder with --manifest")
  parser.add_argument("--manifest", help="jobs, one JSON object a line")
  job_flags.add_flags(parser)
  parser.add_argument("--audio", help="voice; any container, a video's sound is used")
  parser.add_argument("--image", help="portrait, the first frame (i2v, flf2v)")
  parser.add_argument("--last_image", help="last frame (flf2v)")
  parser.add_argument("--video", help="video whose mouth is redrawn (lipsync)")
  parser.add_argument("--prompt", help="what the video shows")
  parser.add_argument("--prompts", help=f"prompts by time in place of --prompt, e.g. '{timed_prompts.FORM}'")
  parser.add_argument("--negative_prompt", help="default: the settings'")
  parser.add_argument("--negative_prompts", help="one for each phase of sampling.png_phases, e.g. "
                      f"'{guidance_settings.FORM}'; default: the settings'")
  parser.add_argument("--task", help=f"{', '.join(tasks.names())}; default: i2v")
  parser.add_argument("--face_box",
                      help="y1,y2,x1,x2 in the picture's pixels, a .npy, auto or none; of a video also a .npy or "
                      ".json of boxes by frame; default: auto where a face is looked for")
  parser.add_argument("--seconds", type=float, help="use only so much of the audio")
  parser.add_argument("--seed", type=int, help="default: the config's")
  parser.add_argument("--no_paste", action="store_true",
                      help="lipsync: keep the model's pixels outside the mouth region too")
  parser.add_argument("--stream", action="store_true",
                      help="write V.partial.mp4, which plays while it grows, and rename it at the end")
  parser.add_argument("--report", action="store_true",
                      help="write V.curves.json and its plot V.curves.png: drift of colour and sharpness, seams, luminance")
  parser.add_argument("--save_latents", action="store_true", help="write V.latents.npy as well")
  parser.add_argument("--calibrate", metavar="FILE", nargs="?", const="",
                      help="measure what step caches need to know of the model at these settings on this clip, write "
                      "it beside the model or to FILE, and stop")
  parser.add_argument("--verify", action="store_true", help="before the work compare the weights, "
                      "and with --manifest the clips that are there, with their digests")
  plan.add_flags(parser)
  parser.add_argument("--verbose", action="store_true", help="tell more: the seconds of every part, and the "
                      "traceback of a job that failed")
  parser.add_argument("--json", action="store_true",
                      help="write results to stdout, one JSON object a line: of --plan in place "
                      "of tables, else files made, and seconds by part and kind")
  processes.add_flags(parser)
  parser.add_argument("--print_config", action="store_true", help="print the config and where each value comes from, and stop")
  return parser


def progress_bar(steps, what: str = "sampling"):
  return command_line.progress(steps, what, "step")


def main(arguments: Sequence[str]) -> int:
  flags, overrides = make_parser().parse(arguments)
  job_flags.check(flags)
  if flags.merge_reports:
    return job_flags.merge_reports(flags)
  if not flags.config:
    raise InputError("--config is missing; name a config file or a shipped config, e.g. --config=tiny.")
  config = config_lib.build(Config, command_line.read_config(flags.config, overrides, Config))
  overridden = command_line.overridden_fields(overrides)
  if flags.verbose:
    logging.set_verbosity(1)
  if flags.print_config or flags.plan:
    config, found = resolution.resolve_config(config, find_card(flags.checkpoint, config), overridden)
    if flags.plan and not flags.print_config:
      return plan.run(config, flags)
    origins = {f"sampling.{name}": origin for name, origin in found.origins.items()}
    command_line.print_config(dataclasses.asdict(config), dataclasses.asdict(Config("")), overrides,
                              origins)
    return 0
  if flags.mesh:
    axes = " ".join(f"--config.mesh.{part}" for part in flags.mesh[0].split(","))
    raise InputError(f"--mesh goes with --plan; to sample on such a mesh write {axes}.")
  if flags.engine == "ray" and (flags.distributed or flags.coordinator):
    raise InputError("--engine=ray starts its processes by itself; leave --distributed and --coordinator out.")
  processes.join(flags)
  if flags.calibrate is not None:
    return run_calibration(config, flags, overridden)
  if not flags.out:
    raise InputError("--out is missing; name the video to write, or the folder with --manifest.")
  if flags.manifest:
    return run_manifest(config, flags, overridden)
  return run_one(config, flags, overridden)


def find_card(checkpoint: str | None, config: Config) -> ModelCard | None:
  """Reads the card of the model folder; returns None if no folder is named."""
  folder = checkpoint or config.checkpoint
  return None if folder in ("", UNTRAINED) else read_model_card(folder_of(folder))


def given_of_request(flags) -> dict:
  """Returns the flags of a single clip that are set, by field of the request."""
  found = {name: getattr(flags, name, None) for name in _OF_REQUEST}
  return {name: value for name, value in found.items() if value is not None}


def read_request(flags) -> Request:
  """Returns the request of a single clip."""
  if not flags.audio:
    raise InputError("--audio is missing; name the file with the voice.")
  given = given_of_request(flags)
  if "prompts" in given:
    given["prompts"] = timed_prompts.parse(given["prompts"])
  if "negative_prompts" in given:
    given["negative_prompts"] = guidance_settings.parse_prompts(given["negative_prompts"])
  texts = {"prompt": [given.get("prompt", "")], "negative_prompt": [given.get("negative_prompt", "")],
           "prompts": [text for _, text in given.get("prompts", ())], "negative_prompts": given.get("negative_prompts", ())}
  for name, of_name in texts.items():
    if not all(map(is_text, of_name)):
      raise InputError(f"--{name} is no UTF-8 text; the terminal or the script has another encoding.")
  return Request(**given, paste=False if flags.no_paste else None)


def run_calibration(config: Config, flags, overridden: Collection[str]) -> int:
  for name in ("out", "manifest"):
    if getattr(flags, name):
      raise InputError(f"--{name} does not go with --calibrate, which makes no video.")
  config = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, cache=CacheConfig("none")))
  path = calibrate(open_model(config, flags, overridden), read_request(flags), flags.calibrate, progress=progress_bar)
  summarise(flags, {"calibration": str(path)})
  return 0


def run_one(config: Config, flags, overridden: Collection[str]) -> int:
  request = read_request(flags)
  video = processes.run_on_all(
      lambda: output.check_video_path(flags.out, named_files(request).values(), growing=flags.stream))
  model = open_model(config, flags, overridden)
  if flags.verify:
    sampler.verify_weights(model)
  clip = stream(model, request, progress=progress_bar)
  processes.run_on_all(lambda: output.write(
      clip, video, save_latents=flags.save_latents, growing=flags.stream, metrics=flags.report))
  seconds = ", ".join(f"{name} {value:.1f}" for name, value in clip.report["seconds"].items())
  height, width = (side * clip.report["config"]["sampling"]["enlarge"] for side in clip.size)
  logging.info("Wrote %s: %d frames, %dx%d. Seconds: %s.", video, clip.num_frames, width, height, seconds)
  summarise(flags, {"video": str(video), "frames": clip.num_frames, "parts": clip.report["seconds"]})
  return 0


def open_model(config: Config, flags, overridden: Collection[str]) -> Model:
  """Opens the model without loading its networks. A program cache chosen by the user must be usable; the
  default cache need not be."""
  def open_here() -> Model:
    program_cache.use(config.program_cache, limit_mib=config.program_cache_mib,
                      required=config.program_cache != Config.program_cache)
    return load(flags.checkpoint, config, overridden=overridden)

  return processes.run_on_all(open_here)


def summarise(flags, made: dict) -> None:
  """Prints the seconds of the process on stderr, and with --json on stdout."""
  logging.info("Seconds since the start: %s", start_up.describe())
  if flags.json:
    sys.stdout.write(json.dumps({**made, **start_up.spent()}) + "\n")


def run_manifest(config: Config, flags, overridden: Collection[str]) -> int:
  if flags.stream:
    raise InputError("--stream does not go with --manifest; it is for a single clip.")
  single = [*given_of_request(flags), *(["no_paste"] if flags.no_paste else [])]
  if single:
    raise InputError(f"--{single[0]} does not go with --manifest; write it into the manifest"
                     f"{', or --config.seed for all of its lines' if single[0] == 'seed' else ''}.")
  report = processes.run_on_all(lambda: job_flags.report_of(flags))
  folder = pathlib.Path(flags.out)
  todo = processes.run_on_all(lambda: manifest.read_manifest(flags.manifest))
  processes.run_on_all(lambda: local.check_report(report, flags.manifest))
  kept = {"save_latents": flags.save_latents, "verify": flags.verify, "metrics": flags.report}
  options = {"options": job_flags.options(flags), "report": report.name}
  if flags.engine == "ray":
    of_model = config, flags.checkpoint, frozenset(overridden)
    model = ray_sampler.open_here(*of_model)
    todo = check_lines(todo, folder, model, flags)
    outcome = ray_sampler.run(model, *of_model, todo, folder, cluster=job_flags.cluster(flags), **kept, **options)
  else:
    model = open_model(config, flags, overridden)
    todo = processes.run_on_all(lambda: check_lines(todo, folder, model, flags))
    outcome = sampler.run_checked(model, todo, folder, progress=progress_bar, **kept, **options)
  logging.info("%s. %s has a line for each job.", outcome, report)
  summarise(flags, dataclasses.asdict(outcome))
  return 0 if outcome.complete else 1


def check_lines(todo: Sequence[manifest.Job], folder: pathlib.Path, model: Model, flags) -> list[manifest.Job]:
  """Checks jobs, and returns those of the shard; logs their faults; with --strict raises `InputError` if there is one."""
  todo = manifest.check_jobs(todo, folder, model.config)
  faulty = [job for job in todo if job.fault]
  if faulty and flags.strict:
    tell_faults(faulty)
    raise InputError(f"{len(faulty)} of {len(todo)} lines of {flags.manifest} cannot be made, the first is "
                     f"line {faulty[0].line}; with --strict none is.")
  todo = job_flags.of_shard(flags, todo, folder)
  tell_faults([job for job in todo if job.fault])
  return todo


def tell_faults(faulty: Sequence[manifest.Job]) -> None:
  for job in faulty:
    logging.error("Line %d (%s) cannot be made: %s", job.line, job.name, job.fault)


def run() -> None:
  command_line.run(main)
