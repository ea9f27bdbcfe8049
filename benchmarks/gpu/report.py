"""The table of the parts, and which goals they reach."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses

Results = Mapping[str, dict]
NEAR_PLAN = 0.1  # the largest difference of the allocator's peak from the plan that is a goal
COLUMNS = {"seconds": "median_seconds", "compile s": "compile_seconds", "TFLOP": "tflop", "TFLOP/s": "tflop_per_second",
           "of peak": "share_of_peak", "with recomputation": "share_with_recomputation",
           "planned GiB": "planned_gib", "peak GiB": "peak_gib"}


@dataclasses.dataclass(frozen=True)
class Goal:
  """A figure and its limit.

  Attributes:
    name: what it is.
    limit: the least or the most that is aimed at.
    at_least: which of both.
    value: from the results to the figure; a KeyError or TypeError says that it was not measured.
  """

  name: str
  limit: float
  at_least: bool
  value: Callable[[Results], float]

  def outcome(self, results: Results) -> str:
    """One line: the figure, and whether it is reached, missed or not measured."""
    bound = f"{'at least' if self.at_least else 'at most'} {self.limit:g}"
    try:
      value = self.value(results)
    except (KeyError, TypeError):
      return f"{self.name}: not measured ({bound})"
    reached = value >= self.limit if self.at_least else value <= self.limit
    return f"{self.name}: {value:.3g}, {'reached' if reached else 'missed'} ({bound})"


def _figure(part: str, name: str) -> Callable[[Results], float]:
  return lambda results: results[part][name] + 0.0  # None is no figure


def _ratio(part: str, other: str) -> Callable[[Results], float]:
  return lambda results: results[part]["median_seconds"] / results[other]["median_seconds"]


GOALS = (
    Goal("sampling step, share of peak", 0.6, True, _figure("sample_step", "share_of_peak")),
    Goal("sampling step, seconds over eager PyTorch's", 0.95, False, _ratio("sample_step", "torch_sample_step")),
    Goal("sampling step, seconds over compiled PyTorch's", 1.05, False,
         _ratio("sample_step", "torch_sample_step_compiled")),
    Goal("VAE decode, seconds", 4.0, False, _figure("vae_decode", "median_seconds")),
    Goal("VAE decode, seconds over PyTorch's", 1.0, False, _ratio("vae_decode", "torch_vae_decode")),
    Goal("training step, share of peak without recomputation", 0.4, True, _figure("train_step", "share_of_peak")),
)


def goals(results: Results) -> Iterator[str]:
  """Yields a line for each goal, and for the memory of each part that has a plan."""
  for goal in GOALS:
    yield goal.outcome(results)
  for part, result in results.items():
    if "planned_gib" in result:
      off = lambda results, part=part: abs(results[part]["peak_gib"] / results[part]["planned_gib"] - 1)
      yield Goal(f"{part}, peak memory off the plan", NEAR_PLAN, False, off).outcome(results)


def table(results: Results, contents: Mapping[str, str]) -> str:
  """Markdown; a part that has no seconds says why."""
  rows = [["part", "content", *COLUMNS], ["---"] * (2 + len(COLUMNS))]
  for part, result in results.items():
    cells = [_cell(result.get(key)) for key in COLUMNS.values()]
    rows.append([part, f"{contents[part]}{_note(result)}", *cells])
  return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _note(result: dict) -> str:
  notes = [f"{word}: {result[word]}" for word in ("skipped", "stopped", "failed", "relative_error") if word in result]
  if result.get("finite") is False:
    notes.append("results are not finite")
  return "".join(f"; {note}" for note in notes)


def _cell(value: float | None) -> str:
  return "" if value is None else f"{value:,.4g}"
