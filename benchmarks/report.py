"""Comparisons as a table and as JSON."""

import dataclasses
import datetime
import importlib.metadata
import pathlib

from benchmarks.turns import Comparison, Side

PACKAGES = ("jax", "jaxlib", "torch", "diffusers", "transformers")


def table(comparisons: list[Comparison]) -> str:
  """Markdown; seconds are the smallest of all rounds."""
  rows = [["case", "against", "CPU ratio", "wall ratio", "ours: CPU s", "wall s", "GFLOP",
           "theirs: CPU s", "wall s", "GFLOP"]]
  rows.append(["---"] * len(rows[0]))
  for c in comparisons:
    rows.append([c.case, c.b.name, f"{c.ratio:.2f}", f"{c.wall_ratio:.2f}",
                 *_figures(c.a), *_figures(c.b)])
  return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _figures(side: Side) -> list[str]:
  return [f"{side.least_cpu:.2f}", f"{side.least_wall:.2f}",
          "" if side.gflop is None else f"{side.gflop:.0f}"]


def evidence(comparisons: list[Comparison], *, size: str, cores: int) -> dict[str, dict]:
  """Everything that was measured, with the day and the versions, under a name for each comparison."""
  versions, processor = {name: _version(name) for name in PACKAGES}, _processor()
  return {
      f"{c.case}, {size}, against {c.b.name}": {
          "date": datetime.date.today().isoformat(), "cores": cores, "processor": processor, "versions": versions,
          "ratio": round(c.ratio, 4), "wall_ratio": round(c.wall_ratio, 4),
          "ours": _rounded(c.a), "theirs": _rounded(c.b)}
      for c in comparisons}


def _rounded(side: Side) -> dict:
  fields = dataclasses.asdict(side)
  for kind in ("cpu", "wall"):
    fields[kind] = [round(seconds, 4) for seconds in fields[kind]]
  return fields


def _processor() -> str:
  """The processor's name and its widest vector instructions, on which the ratios depend."""
  lines = dict(line.split(":", 1) for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
  found = {name.strip(): value.strip() for name, value in lines.items()}
  flags = found.get("flags", "").split()
  widest = next((name for name in ("avx512f", "avx2") if name in flags), "")
  return f"{found.get('model name', 'unknown')} {widest}".strip()


def _version(name: str) -> str | None:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None
