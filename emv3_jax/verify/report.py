"""Results of a comparison as a table for an issue report, and as JSON."""

from collections.abc import Mapping, Sequence
import math

from emv3_jax.sampling.profile import versions
from emv3_jax.verify.comparison import Comparison, Row
from emv3_jax.verify.originals import Original


def content(comparison: Comparison, originals: Mapping[str, Original], about: Mapping,
            against: Mapping[str, str]) -> dict:
  """Collects the results and what they depend on; can be written as JSON.

  Args:
    comparison: finished comparison.
    originals: the released files, by component.
    about: variant of the folder and sizes of the comparison.
    against: names and versions of the other side.
  """
  return {
      "holds": all(row.holds for row in comparison.rows),
      "rows": [_entry(row) for row in comparison.rows],
      **about,
      "against": against["against"],
      "versions": {**versions(), **{k: v for k, v in against.items() if k != "against"}},
      "files": [file for original in originals.values() for file in original.files],
      **comparison.profile.as_dict(),
  }


def _entry(row: Row) -> dict:
  error = row.error if math.isfinite(row.error) else None  # JSON has no infinity
  return {"module": row.module, "error": error, "tolerance": row.tolerance, "holds": row.holds,
          "remark": row.remark}


def table(found: Mapping) -> str:
  """Formats `content` as Markdown."""
  lines = ["| module | worst error | tolerance | verdict |", "|---|---|---|---|"]
  for row in found["rows"]:
    error = "-" if row["error"] is None else f"{row['error']:.1e}"
    verdict = "holds" if row["holds"] else f"FAILS {row['remark']}".strip()
    lines.append(f"| {row['module']} | {error} | {row['tolerance']:.0e} | {verdict} |")
  num_holding = sum(row["holds"] for row in found["rows"])
  peak = max(found["peak_memory_gib"].values(), default=math.nan)
  lines += [
      "",
      f"{num_holding} of {len(found['rows'])} hold. Variant {found['variant']}, {found['frames']} frames "
      f"of {found['height']}x{found['width']}, {found['steps']} steps, against "
      f"{found['against']}.",
      ", ".join(f"{name} {version}" for name, version in found["versions"].items()) + ".",
      f"{sum(found['seconds'].values()):.0f} s, peak {peak:.1f} GiB.",
      "", *_files(found["files"])]
  return "\n".join(lines)


def _files(files: Sequence[Mapping]) -> list[str]:
  return ["| component | file | bytes | sha256 |", "|---|---|---|---|", *(
      f"| {file['component']} | {file['file']} | {file['bytes']:,} | {file['sha256']} |"
      for file in files)]
