"""What the JSON that sampling writes beside a video says: the request, its task, and who made it."""

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
from emv3_jax.tasks import TaskSpec

_WANTED = f"give the JSON that {as_called('emv3-sample')} wrote beside the video"


@dataclasses.dataclass(frozen=True)
class MadeBy:
  """A report.

  Attributes:
    path: of the report.
    request: what was asked for; relative paths are relative to the current folder, as they were then.
    seed: of the noise.
    frames: frames of the video.
    size: (H, W) that it was sampled at, in pixels; the video's pictures may be written larger.
    face_detector: that looked for the face.
    transformer: config of the transformer, as far as it is told.
    video: sha256 of the video as written.
    latents: sha256 of the latents beside it; empty where they were not saved.
    files: sha256 of the request's files by field.
    networks: digests of the networks' weights by component; none where the report does not tell, as
      when the transformer was in training.
    tokenizer: sha256 of the tokenizer; empty likewise.
  """

  path: pathlib.Path
  request: Request
  seed: int
  frames: int
  size: tuple[int, int]
  face_detector: str
  transformer: dict
  video: str
  latents: str
  files: dict
  networks: dict
  tokenizer: str

  @property
  def task(self) -> TaskSpec:
    return tasks.of(self.request.task)


def read_report(path: pathlib.Path) -> MadeBy:
  """Reads and checks a report, not the files that it names.

  Raises:
    InputError: missing, damaged, none of this release, or it names no task.
  """
  where = f"Report {path}"
  paths.check_input(path, "Report")
  try:
    values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    json.dumps(values, ensure_ascii=False).encode()  # fails on half of a surrogate pair
  except OSError as error:
    raise InputError(f"{where} cannot be read: {error.strerror}.") from None
  except (ValueError, RecursionError) as error:
    raise InputError(f"{where} is no JSON or damaged ({error}); {_WANTED}.") from None
  get = lambda name, kind, *default: _get(where, values, name, kind, *default)
  request = get("request", dict)
  if not request.get("task"):
    raise InputError(f"{where} names no task; {_WANTED}.")
  try:
    tasks.of(request["task"])
    made = MadeBy(
        path, config_lib.build(Request, request, "request"), get("seed", int), get("frames", int),
        (get("size.height", int), get("size.width", int)), get("config.face_detector", str),
        get("config.model.transformer", dict), get("video.sha256", str),
        get("latents.sha256", str, ""), get("files", dict), get("networks", dict, {}),
        get("tokenizer", str, ""))
  except InputError as error:
    raise InputError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
  height, width = made.size
  if min(made.frames, height, width) < 1 or height % TOKEN or width % TOKEN:
    raise InputError(f"{where} is damaged: {made.frames} frames of {width}x{height} pixels; {_WANTED}.")
  return made


def _refuse(constant: str):
  raise ValueError(f"{constant} is no number")


def _get(where: str, values, name: str, kind: type, *default):
  """The value of a dotted name.

  Raises:
    InputError: it is not there, and there is no default; or of another type.
  """
  for part in name.split("."):
    if not isinstance(values, Mapping) or part not in values:
      if default:
        return default[0]
      raise InputError(f"{where} is of another release, or no report: it has no {name}; {_WANTED}.")
    values = values[part]
  if type(values) is not kind:
    raise InputError(f"{where} is damaged: {name} is {ascii(values)[:60]}, expected "
                     f"{kind.__name__}; {_WANTED}.")
  return values
