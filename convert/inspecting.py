"""`--inspect`: tables of what a source or a model folder holds."""

from collections.abc import Mapping
import pathlib
from typing import Any

from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import read_model_card
from emv3_jax.io.model_card import CARD

from .importing import left_out, several, survey
from .plan import LISTED
from .sources import Source
from .tensors import shown as printable

HEAD = ("component", "variant", "names", "tensors", "parameters", "dtype", "unused", "missing",
        "unexpected", "misshapen", "file")


def inspect_source(source: Source, component: str, given: Mapping[str, Any],
                   ) -> tuple[list[str], list[InputError]]:
  """Makes a table with a line for each recognised checkpoint, followed by the names that it counts.

  Returns:
    The lines to print, and errors of checkpoints that cannot be read.

  Raises:
    InputError: nothing is recognised.
  """
  plans, unrecognised, problems = survey(source, given)
  shown = [plan for plan in plans if component in ("auto", plan.component.name)]
  tokenizers = source.tokenizers if component in ("auto", "tokenizer") else ()
  if not shown and not tokenizers:
    raise next(iter((*problems, *unrecognised)), None) or InputError(
        f"{source.name} has no {component}; found: "
        f"{', '.join(sorted({plan.component.name for plan in plans})) or 'a tokenizer'}.")
  rows: list[tuple[str, ...]] = [HEAD]
  for plan in shown:
    rows.append((plan.component.name, plan.layout.variant or "", plan.layout.name,
                 str(len(plan.tensors)), f"{plan.num_params:,}", plan.dtype, str(sum(plan.unused.values())),
                 str(len(plan.missing)), str(len(plan.unexpected)), str(len(plan.misshapen)),
                 plan.checkpoint.name))
  lines = _table(rows) if shown else []
  for plan in shown:
    lines += [f"{plan.component.name} unused: {pattern} ({count})"
              for pattern, count in plan.unused.items()]
    for problem, names in plan.problems.items():
      lines += [f"{plan.component.name} {problem}: {printable(name)}" for name in names[:LISTED]]
      if len(names) > LISTED:
        lines.append(f"{plan.component.name} {problem}: ... and {len(names) - LISTED} more")
    lines += [f"warning: {plan.component.name}: {note}." for note in plan.notes]
  lines += dict.fromkeys(f"{plan.component.name}: several checkpoints, of which only one can be "
                         f"converted: {several(plan, shown)}" for plan in shown if several(plan, shown))
  lines += [*source.notes, *map(left_out, unrecognised)]
  return lines + [f"tokenizer: {path}" for path in tokenizers], problems


def inspect_folder(folder: pathlib.Path) -> tuple[list[str], list[InputError]]:
  """Makes a table of the components of a converted model.

  Returns:
    The lines to print, and errors of components that cannot be read.

  Raises:
    InputError: the folder is not a model folder, or has no complete component.
  """
  card = read_model_card(folder)
  rows, problems = [("component", "variant", "dtype", "bytes", "files", "from")], []
  for name in card.components:
    try:
      component = card.require(name)
      rows.append((name, card.variant or "" if name == "transformer" else "", component.dtype,
                   f"{component.bytes:,}", str(component.files),
                   ", ".join(source["file"] for source in component.sources)))
    except InputError as error:
      problems.append(error)
    except (KeyError, TypeError, ValueError) as error:
      problems.append(InputError(f"{folder / CARD}: the entry of {name} cannot be read "
                               f"({type(error).__name__}: {error}).\nConvert the model again."))
  if (folder / "tokenizer" / "tokenizer.json").exists():
    rows.append(("tokenizer", "", "", "", "1", "tokenizer.json"))
  if problems and len(rows) == 1:
    raise problems[0]
  return _table(rows), problems


def _table(rows: list[tuple[str, ...]]) -> list[str]:
  rows = [tuple(map(str, row)) for row in rows]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
          for row in rows]
