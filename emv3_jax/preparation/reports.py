"""Reports of generated clips: the JSON files that sampling writes beside videos."""

from collections.abc import Mapping
import dataclasses
import json
import pathlib

from emv3_jax import tasks
from emv3_jax.errors import InputError
from emv3_jax.geometry import TOKEN
from emv3_jax.io import paths
from emv3_jax.runtime import config as config_lib
from emv3_jax.runtime.command_names import as_called
from emv3_jax.sampling.settings import Request
from emv3_jax.tasks import TaskSpec, face_masks

_ADVICE = f"give the JSON that {as_called('emv3-sample')} wrote beside the video"


@dataclasses.dataclass(frozen=True)
class ClipReport:
  """The report of a generated clip.

  Attributes:
    path: path of the report.
    request: the request; relative paths are relative to the current folder, as in sampling.
    seed: seed of the noise.
    frames: number of frames of the video.
    size: sampled size (H, W) in pixels; the written pictures may be larger.
    face_detector: face detector of the config.
    face_mask: `sampling.face_mask` of the config; `released` for reports that do not name it.
    transformer: config of the transformer.
    video: sha256 of the video as written.
    latents: sha256 of the latents beside it; empty if they were not saved.
    files: sha256 of the request's files by field.
    networks: digests of the networks' weights by component; empty if the report has none, for example for
      previews during training.
    tokenizer: sha256 of the tokenizer; empty likewise.
  """

  path: pathlib.Path
  request: Request
  seed: int
  frames: int
  size: tuple[int, int]
  face_detector: str
  face_mask: str
  transformer: dict
  video: str
  latents: str
  files: dict
  networks: dict
  tokenizer: str

  @property
  def task(self) -> TaskSpec:
    return tasks.of(self.request.task)


def read_report(path: pathlib.Path) -> ClipReport:
  """Reads and checks a report, but not the files that it names.

  Raises:
    InputError: the report is missing, damaged, not of this release, or names no task.
  """
  label = f"Report {path}"
  paths.check_input(path, "Report")
  try:
    values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    json.dumps(values, ensure_ascii=False).encode()  # fails on half of a surrogate pair
  except OSError as error:
    raise InputError(f"{label} cannot be read: {error.strerror}.") from None
  except (ValueError, RecursionError) as error:
    raise InputError(f"{label} is no JSON or damaged ({error}); {_ADVICE}.") from None
  get = lambda name, kind, *default: _get(label, values, name, kind, *default)
  request = get("request", dict)
  if not request.get("task"):
    raise InputError(f"{label} names no task; {_ADVICE}.")
  try:
    tasks.of(request["task"])
    report = ClipReport(
        path, config_lib.build(Request, request, "request"), get("seed", int), get("frames", int),
        (get("size.height", int), get("size.width", int)), get("config.face_detector", str),
        get("config.sampling.face_mask", str, face_masks.RELEASED),
        get("config.model.transformer", dict), get("video.sha256", str),
        get("latents.sha256", str, ""), get("files", dict), get("networks", dict, {}),
        get("tokenizer", str, ""))
  except InputError as error:
    raise InputError(str(error) if str(error).startswith(label) else f"{label}: {error}") from None
  face_masks.check_name(f"{label}: config.sampling.face_mask", report.face_mask)
  height, width = report.size
  if min(report.frames, height, width) < 1 or height % TOKEN or width % TOKEN:
    raise InputError(f"{label} is damaged: {report.frames} frames of {width}x{height} pixels; {_ADVICE}.")
  return report


def _refuse(constant: str):
  raise ValueError(f"{constant} is no number")


def _get(label: str, values, name: str, kind: type, *default):
  """Returns the value of a dotted name.

  Raises:
    InputError: it is missing without a default, or has another type.
  """
  for part in name.split("."):
    if not isinstance(values, Mapping) or part not in values:
      if default:
        return default[0]
      raise InputError(f"{label} is of another release, or no report: it has no {name}; {_ADVICE}.")
    values = values[part]
  if type(values) is not kind:
    raise InputError(f"{label} is damaged: {name} is {ascii(values)[:60]}, expected "
                     f"{kind.__name__}; {_ADVICE}.")
  return values
