"""`--inspect`: tables of what a source or a model folder holds."""

import pathlib

from convert.plan import LISTED, Plan
from convert.sources import Source
from emv3_jax.io.checkpoints import read_model_card

HEAD = ("component", "variant", "names", "tensors", "parameters", "dtype", "unused", "missing",
        "unexpected", "misshapen", "file")


def inspect_plans(plans: list[Plan], left_out: list[str], source: Source) -> list[str]:
  """A table with a line for each recognised checkpoint, then the names behind its counts."""
  rows = [HEAD]
  for plan in plans:
    rows.append((plan.component.name, plan.layout.variant or "", plan.layout.name,
                 str(len(plan.tensors)), f"{plan.num_params:,}", plan.dtype, str(sum(plan.unused.values())),
                 str(len(plan.missing)), str(len(plan.unexpected)), str(len(plan.misshapen)),
                 plan.checkpoint.name))
  lines = _table(rows) if plans else []
  for plan in plans:
    lines += [f"{plan.component.name} unused: {pattern} ({count})"
              for pattern, count in plan.unused.items()]
    for fault, names in plan.faults.items():
      lines += [f"{plan.component.name} {fault}: {name}" for name in names[:LISTED]]
      if len(names) > LISTED:
        lines.append(f"{plan.component.name} {fault}: ... and {len(names) - LISTED} more")
  lines += left_out
  if source.tokenizer is not None:
    lines.append(f"tokenizer: {source.tokenizer}")
  return lines


def inspect_folder(folder: pathlib.Path) -> list[str]:
  """A table of the components of a converted model.

  Raises:
    InputError: the folder is not a model folder, or a component in it is not whole.
  """
  card = read_model_card(folder)
  rows = [("component", "variant", "dtype", "bytes", "files", "from")]
  for name in card.components:
    component = card.require(name)
    rows.append((name, card.variant or "" if name == "transformer" else "", component.dtype,
                 f"{component.bytes:,}", str(component.files),
                 ", ".join(source["file"] for source in component.sources)))
  if (folder / "tokenizer" / "tokenizer.json").exists():
    rows.append(("tokenizer", "", "", "", "1", "tokenizer.json"))
  return _table(rows)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
          for row in rows]
