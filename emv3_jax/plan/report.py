"""Plans as tables and as JSON lines."""

from collections.abc import Sequence
import json

from emv3_jax.plan import meshes
from emv3_jax.sharding import MeshConfig

_COLUMNS = ("program", "mesh", "peak GiB", "params", "inputs", "activations", "s at 100 %",
            "s at 40 %", "collectives (MiB)")


def table(lines: Sequence[dict]) -> str:
  """Formats the lines of `planner.plan` for one target; sizes are in GiB per device."""
  first = lines[0]
  chips = "1 chip" if first["chips"] == 1 else f"{first['chips']} chips"
  title = (f"{first['target']}: {chips}, {first['capacity_gib']:.2f} GiB each; "
           f"{first['frames']} frames of {first['height']}x{first['width']}")
  rows = [_COLUMNS, *map(_row, lines)]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
          for row in rows]
  return "\n".join([title, *text, *_remarks(lines)])


def json_lines(lines: Sequence[dict]) -> str:
  """Formats the lines as JSON, one object per line."""
  return "\n".join(map(json.dumps, lines))


def _row(line: dict) -> tuple[str, ...]:
  moved = ", ".join(f"{total['count']} {kind} ({total['mib']:.0f})"
                    for kind, total in sorted(line["collectives"].items()))
  peak = f"{line['peak_gib']:.2f}" + ("" if line["fits"] else " does not fit")
  return (line["program"], _label(line), peak,
          *(f"{line[f'{part}_gib']:.2f}" for part in ("parameters", "inputs", "activations")),
          f"{line['seconds_at_peak']:.3g}", f"{line['seconds_at_40_percent']:.3g}", moved or "none")


def _remarks(lines: Sequence[dict]) -> list[str]:
  remarks = []
  for line in lines:
    where = f"{line['program']} on {_label(line)}"
    if "advice" in line:
      remarks.append(f"{where} does not fit: {line['advice']}.")
    remarks += [f"warning, {where}: {warning}" for warning in line["warnings"]]
  return remarks


def _label(line: dict) -> str:
  return meshes.label(MeshConfig(**line["mesh"]))
