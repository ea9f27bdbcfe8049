"""What a run does where a stage ends and the next one begins, without a step of either."""

import logging as std_logging
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from emv3_jax.data.index import INDEX
from emv3_jax.training import loop
from emv3_jax.training.curriculum import Stage
from emv3_jax.training.input.sources import RequiredDataset, Sources
from emv3_jax.training.monitor.reporting import Reporter
from emv3_jax.training.run import stage_start
from emv3_jax.training.settings import NDPOConfig
from emv3_jax.training.update.state import has_reference
from tests.training import tiny

STAGES = (Stage("learn", 4), Stage("tasks", 4), Stage("hands", 4, kind="ndpo", negatives="hands"))


def run_of(**fields) -> SimpleNamespace:
  """A run of STAGES as far as a method of `loop.Run` looks at it."""
  config, throughput = tiny.config_of(*STAGES), loop.Throughput()
  reporter = Reporter(config.train, 12, STAGES, throughput, None, None)
  return SimpleNamespace(**{"stages": STAGES, "reporter": reporter, "throughput": throughput,
                            "config": config, **fields})


@pytest.mark.parametrize("step, share, warned", [
    (4, 0.5, False), (8, 0.5, False), (12, 0.5, True), (12, 0.89, True), (12, 0.91, False),
    (12, None, False)])
def test_the_share_is_that_of_the_stage_that_ended(step, share, warned, caplog):
  """It is told in a line of its own. Too small a one is warned of where all has to be held."""
  asked = []
  run = run_of(stage_start=SimpleNamespace(share=lambda first, _: asked.append(first) or share))
  with caplog.at_level(std_logging.WARNING):
    loop.Run.after_step(run, step, {})
  assert (asked, run.reporter.ema_share, run.reporter.due) == ([step - 4], share, step)
  assert ("The average holds" in caplog.text) == warned == ("stages.2 ('hands')" in caplog.text)


def test_within_a_stage_lines_are_due_in_turn():
  run, due = run_of(), []
  for step in (5, 19, 20):
    loop.Run.after_step(run, step, {})
    due.append(run.reporter.due)
  assert run.config.train.log_every == 10 and due == [None, None, 20]


@pytest.mark.parametrize("latest, forgotten", [(None, []), (3, [0]), (4, [4]), (7, [4]), (9, [8])])
def test_beginnings_are_kept_that_the_newest_whole_checkpoint_goes_back_to(latest, forgotten):
  """Not those that the checkpoint needs which is only about to be written."""
  found, saved = [], []
  run = run_of(stage_start=SimpleNamespace(remove_before=found.append))
  checkpoints = SimpleNamespace(newest=latest, latest=latest, wait=lambda: None,
                                save=lambda step, *_: saved.append(step))
  loop.Run.save(run, checkpoints, 10, {})
  assert (found, saved) == (forgotten, [10])


def test_a_run_that_waits_has_stopped(caplog):
  need = RequiredDataset("hands", 2, "hands", negative=True)
  with caplog.at_level(std_logging.WARNING):
    assert loop._stopped_without(need, 12, 8) == loop.Outcome(8, True, need)
  assert "Stopped at step 8 of 12: stages.2 ('hands') takes its negatives from hands" in caplog.text


@pytest.mark.parametrize("last_step, missing, end", [
    (12, {2}, 8), (12, {1, 2}, 4), (12, set(), 12), (6, {2}, 6), (8, {2}, 8)])
def test_a_run_is_ready_up_to_what_is_missing(last_step, missing, end):
  """What lies beyond the last step need not be there."""
  run = run_of(config=SimpleNamespace(last_step=last_step), _missing=missing.__contains__)
  assert loop.Run.ready_until(run, 0) == end


def config_of(folder, *stages: Stage, **options):
  return tiny.config_of(*stages, data=str(folder / "data"), ndpo=NDPOConfig(**options))


def test_what_is_missing_is_told_in_order(tmp_path):
  """First the data, then negatives; pairs are compared once both are there."""
  unlearn, pairs = (Stage("hands", 4, kind=kind, negatives=str(tmp_path / "hands"))
                    for kind in ("ndpo", "dpo"))
  sources = Sources(config_of(tmp_path, Stage("learn", 4), unlearn, pairs, sft_weight=0.5))
  data, negatives = str(tmp_path / "data"), str(tmp_path / "hands")
  for index, name in enumerate(("learn", "hands", "hands")):
    assert sources.missing(index) == RequiredDataset(data, index, name, negative=False)
  assert sources.required(2)[1:] == [RequiredDataset(negatives, 2, "hands", negative=True)]
  alone = Sources(config_of(tmp_path, unlearn))
  assert alone.missing(0) == RequiredDataset(negatives, 0, "hands", negative=True)
  assert sources.made_by(0) == alone.made_by(0) == "" and "data" not in sources.digests()
  assert [str(need) for need in sources.required(1)] == [
      f"stages.1 ('hands') learns from {data}",
      f"stages.1 ('hands') takes its negatives from {negatives}"]


def test_a_folder_without_an_index_is_no_dataset(tmp_path):
  need = RequiredDataset(str(tmp_path), 0, "learn", negative=False)
  assert not need.is_there()
  (tmp_path / INDEX).touch()
  assert need.is_there()


@pytest.mark.parametrize("kind, reading, wanted", [
    ("sft", "reference", False), ("sft", "absolute", False), ("ndpo", "reference", True),
    ("ndpo", "absolute", False), ("dpo", "reference", True), ("dpo", "absolute", True)])
def test_which_stages_measure_against_a_frozen_model(kind, reading, wanted):
  stage = Stage("a", 4, kind=kind, negatives="" if kind == "sft" else "n")
  assert has_reference(stage, reading) == wanted


def test_leaves_come_back_a_few_at_a_time(monkeypatch):
  """Each once; one that is too large comes alone."""
  monkeypatch.setattr(stage_start, "BATCH_BYTES", 40)
  params = {name: jnp.zeros(size) for name, size in zip("abcde", (4, 6, 1, 99, 2), strict=True)}
  assert list(stage_start._batches(params)) == [["a", "b"], ["c"], ["d"], ["e"]]


def test_a_share_is_measured_from_the_weights_in_their_own_dtype():
  """Weights of bfloat16 began as what bfloat16 holds of the average, and did not change here."""
  old = {"a": jnp.float32([1 / 3, 2.0])}
  now = {"params": {"a": old["a"].astype(jnp.bfloat16)}, "ema": {"a": old["a"] + 1}}
  along, length = stage_start._sums({"params": old, "ema": old}, now)
  assert (along, length) == (0, 0)


def test_weights_that_stay_have_no_share(tmp_path, monkeypatch):
  """Nor have those whose beginning was not kept; what was kept twice is what was kept last. Leaves
  that never change, here the last ones, take nothing from it."""
  monkeypatch.setattr(stage_start, "BATCH_BYTES", 1)
  programs = tiny.programs_of(tiny.config_of())
  leaf, still = jnp.arange(3, dtype=jnp.float32), jnp.ones(2)
  state = lambda params, ema: {"params": {"a": params, "b": still}, "ema": {"a": ema, "b": still}}
  start = stage_start.StageStart(tmp_path, programs)
  start.save(0, state(leaf, leaf + 5), STAGES[0])
  start.save(0, state(leaf, leaf), STAGES[0])
  assert start.share(0, state(leaf, leaf)) is None and start.share(4, state(leaf, leaf)) is None
  assert start.share(0, state(leaf + 4, leaf + 1)) == 0.25
  start.save(4, state(leaf + 4, leaf + 1), Stage("on", 4, start="online"))
  assert start.share(4, state(leaf + 6, leaf + 2)) == 0.5
  for first, there in ((4, ["4"]), (5, [])):
    start.remove_before(first)
    assert sorted(path.name for path in (tmp_path / stage_start.FOLDER).iterdir()) == there
  start.remove()
  assert not (tmp_path / stage_start.FOLDER).exists()
  start.remove_before(9)  # there is nothing to forget
