"""Compares the networks of a converted folder with PyTorch's, on the files they came from.

  python -m emv3_jax.verify --checkpoint=models/preview
  python -m emv3_jax.verify --checkpoint=models/preview --sources=downloads --reference=CHECKOUT

The other side is diffusers and transformers, or with --reference a checkout of the released code.
Prints a table for each network and a short sampling run. Exit code 0 if all comparisons hold, 1
if one does not, 2 for wrong input. Needs the extra `parity`; see docs/verify.md.
"""

from collections.abc import Sequence
import dataclasses
import json
import sys

from emv3_jax.errors import InputError
from emv3_jax.io.model_card import ModelCard
from emv3_jax.runtime import command_line
from emv3_jax.runtime.command_names import as_called
from emv3_jax.verify import originals, report
from emv3_jax.verify.comparison import PARTS, RUN, Comparison
from emv3_jax.verify.inputs import Size, make_conditions, make_inputs
from emv3_jax.verify.ours import Ours


def main(arguments: Sequence[str]) -> int:
  parser = command_line.Parser(prog="python -m emv3_jax.verify", description=__doc__)
  parser.add_argument("--checkpoint", required=True, help=f"folder that {as_called('emv3-convert')} wrote")
  parser.add_argument("--sources", help="DIR[,DIR...] of the downloaded files; default: the "
                      "Hugging Face cache")
  parser.add_argument("--reference", help="checkout of the released code to compare with")
  parser.add_argument("--parts", default=",".join((*PARTS, RUN)), help="some of %(default)s")
  for field in dataclasses.fields(Size):
    parser.add_argument(f"--{field.name}", type=int, default=field.default)
  parser.add_argument("--json", action="store_true", help="JSON on stdout instead of the table")
  flags, overrides = parser.parse(arguments)
  if overrides:
    raise InputError("There is no config here; see python -m emv3_jax.verify --help.")
  size = Size(**{field.name: getattr(flags, field.name) for field in dataclasses.fields(Size)})
  parts = flags.parts.split(",")
  for name in parts:
    if name not in (*PARTS, RUN):
      raise InputError(f"--parts={flags.parts}: unknown part {name!r}; known: "
                       f"{', '.join((*PARTS, RUN))}.")
  components = [name for name in PARTS
                if name in parts or RUN in parts and name in ("vae", "transformer")]
  card = originals.read_folder(flags.checkpoint, components)
  found = _verify(card, components, parts, size, flags.reference,
                  flags.sources.split(",") if flags.sources else ())
  sys.stdout.write((json.dumps(found, indent=1) if flags.json else report.table(found)) + "\n")
  return 0 if found["holds"] else 1


def _verify(card: ModelCard, components: list[str], parts: list[str], size: Size,
            checkout: str | None, places: Sequence[str]) -> dict:
  """Runs the comparison; returns `report.content`. Inputs are checked before a network is loaded."""
  variant = card.variant if "transformer" in components else None
  try:
    from emv3_jax.verify.checkout import Checkout
    from emv3_jax.verify.libraries import Libraries
    from emv3_jax.verify.theirs import Theirs
  except ImportError as error:
    raise InputError(f"The other side needs the package {error.name}, which cannot be imported "
                     f"({error}); run pip install 'emv3-jax[parity]'.") from error
  implementation = Checkout(checkout, variant) if checkout else Libraries()
  found = originals.find_originals(card, components, places)
  ours = Ours(card, components, size.steps, audio_gain=float(implementation.has_audio))
  inputs = make_inputs(ours.config, variant, ours.model.tokenizer_path, size)
  comparison = Comparison(
      ours, Theirs(implementation, found, ours.settings, variant), parts, inputs,
      make_conditions(ours.config, inputs, size), implementation.has_audio)
  comparison.run()
  about = {"variant": card.variant, **dataclasses.asdict(size)}
  return report.content(comparison, found, about, implementation.versions())


if __name__ == "__main__":
  command_line.run(main)
