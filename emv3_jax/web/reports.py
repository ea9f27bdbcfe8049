"""What the page shows of the report beside a clip."""

import datetime
import json
import pathlib
from typing import Any

_MEGABYTE = 1 << 20


def summary(path: pathlib.Path) -> dict[str, Any]:
  """Returns the page's part of a clip's report; empty for a file that is none."""
  try:
    if path.stat().st_size > _MEGABYTE * 16:
      return {}
    report = json.loads(path.read_text(encoding="utf-8"))
    finished = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    sampling, request = report["config"]["sampling"], report["request"]
    enlarge = sampling["enlarge"]
    given = {name.removeprefix("sampling."): value for name, value in sampling.items()
             if report["origins"].get(name) == "command line" and not isinstance(value, (dict, list))}
    return {
        "seed": report["seed"], "frames": report["frames"], "model": report["config"]["name"],
        "width": report["size"]["width"] * enlarge, "height": report["size"]["height"] * enlarge,
        "request": {name: value for name, value in request.items() if value not in (None, "", [], ())},
        "settings": {name: _text(value) for name, value in given.items()}, "checkpoint": "",
        "steps": sampling["steps"], "seconds": report.get("seconds", {}), "video": True,
        "finished": finished.isoformat(timespec="seconds").replace("+00:00", "Z")}
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
    return {}


def _text(value: Any) -> str:
  return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
