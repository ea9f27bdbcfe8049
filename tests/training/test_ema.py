"""How much of a stage the average holds: the rule of decays, and what a run measures."""

import dataclasses
import logging as std_logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.io.digests import params_digest
from emv3_jax.models.network import named_leaves
from emv3_jax.training import loop
from emv3_jax.training.curriculum import Stage
from emv3_jax.training.run.stage_start import StageStart
from emv3_jax.training.settings import NDPOConfig, OptimizerConfig
from emv3_jax.training.update import ema
from tests.data import windows
from tests.training import runs, tiny


def held(stages, index, path, decay=0.9999):
  """What the average holds of a stage whose weights go from 0 along path(0 to 1), 1 at the end."""
  first = sum(stage.steps for stage in stages[:index])
  steps = np.arange(stages[index].steps)
  decays = np.asarray(jax.vmap(lambda step: ema.stage_decay(stages, step, decay))(first + steps))
  average = 0.0
  for d, weights in zip(decays, path((steps + 1) / len(steps)), strict=True):
    average = d * average + (1 - d) * weights
  return average


@pytest.mark.parametrize("steps", [20, 100, 1000])
@pytest.mark.parametrize("kind", ["ndpo", "dpo", "after"])
def test_short_stages_are_followed_and_long_ones_mixed(kind, steps):
  unlearn = Stage("b", steps, kind="ndpo" if kind == "after" else kind)
  stages = Stage("a", 40_000), unlearn, Stage("c", steps), Stage("d", steps)
  index = 2 if kind == "after" else 1
  assert 0.95 <= held(stages, index, lambda x: x) <= 1
  assert 0.93 <= held(stages, index, np.square) <= 1
  assert held(stages, 3, lambda x: x) < 0.11, "a short stage of tasks keeps the slow decay"
  assert [ema.must_follow(stages, index) for index in range(4)] == [False, True, True, False]


def test_decays_of_all_stages():
  """Those that a stage gives, and the run's; t counted from the stage's start or the run's."""
  stages = (Stage("a", 100), Stage("b", 100, kind="ndpo"), Stage("c", 100, ema_decay=0.2),
            Stage("d", 100, ema_decay=0.999, ema_warmup="restart"),
            Stage("e", 100, kind="ndpo", ema_warmup="continue"))
  at = lambda step, decay=0.9: float(ema.stage_decay(stages, jnp.int32(step), decay))
  np.testing.assert_allclose([at(0), at(5), at(99)], [0.1, 6 / 15, 0.9], rtol=1e-6)
  np.testing.assert_allclose([at(100), at(105), at(199)], [0.1, 6 / 15, 0.6], rtol=1e-6)
  assert at(150, 0.5) == 0.5, "it is never slower than the run's"
  np.testing.assert_allclose([at(200), at(201), at(300), at(399)], [0.1, 2 / 11, 0.1, 100 / 109],
                             rtol=1e-6)
  np.testing.assert_allclose([at(400), at(10 ** 6)], [0.6, 0.6], rtol=1e-6)


def test_the_share_by_hand_on_eight_devices(tmp_path):
  config = tiny.on_mesh(tiny.config_of(Stage("a", 5)), fsdp=2, context=2, tensor=2)
  programs = tiny.programs_of(config)
  state = {"params": tiny.params_on(programs), "ema": tiny.params_on(programs)}
  start, begun = StageStart(tmp_path, programs), tiny.params_of(programs.network)
  start.save(0, state, programs.stages[0])
  state["params"], state["ema"] = tiny.params_on(programs, 2), tiny.params_on(programs, 3)
  change = {kind: np.concatenate([
      np.ravel(leaf - named_leaves(begun)[name])
      for name, leaf in named_leaves(jax.device_get(state[kind])).items()]).astype(np.float64)
      for kind in ("params", "ema")}
  want = change["ema"] @ change["params"] / (change["params"] @ change["params"])
  assert start.share(0, state) == pytest.approx(want, rel=1e-5) and abs(want - 0.5) < 0.1
  assert start.share(3, state) is None, "nothing was kept there"
  assert start.digest(0) == params_digest(begun)

  online = Stage("b", 5, start="online")
  state["ema"] = tiny.params_on(programs, 4)
  start.save(5, state, online)
  state["params"], state["ema"] = jax.tree.map(lambda a: a + 1, (state["params"], state["ema"]))
  assert start.share(5, state) == pytest.approx(1.0, rel=1e-5)
  there = lambda: sorted(path.name for path in (tmp_path / "stage_start").iterdir())
  assert there() == ["0", "5"], "a run that is killed may go back to the stage before"
  start.remove_before(5)
  assert there() == ["5"]


@pytest.fixture(scope="module")
def cycle(tmp_path_factory):
  """A run whose first two stages are averaged by the rule, the last too slowly; its lines and log."""
  folder = tmp_path_factory.mktemp("average")
  negatives = windows.write_dataset(folder / "negatives", shards=((3, 0),))
  rates = dict(learning_rate=3e-3)
  stages = (Stage("unlearn", 45, kind="ndpo", negatives=str(negatives), **rates),
            Stage("recover", 45, **rates), Stage("tasks", 10, **rates),
            Stage("slow", 10, kind="ndpo", negatives=str(negatives), ema_decay=0.97,
                  ema_warmup="continue", **rates))
  config = dataclasses.replace(
      runs.config_of(folder, stages, steps=0, checkpoint_every=0, log_every=20, batch=2),
      ndpo=NDPOConfig(beta=1.0, sft_weight=0.5), ema_decay=0.97,
      optimizer=OptimizerConfig(b2=0.99))
  return config, tiny.programs_of(config), folder / "w"


def test_a_run_says_what_its_average_holds(cycle, caplog):
  config, programs, workdir = cycle
  with caplog.at_level(std_logging.WARNING):
    assert loop.train(config, workdir, programs).step == 110
  shares = {line["stage"]: line["ema_share"] for line in runs.records(workdir) if "ema_share" in line}
  ends = [line["step"] for line in runs.records(workdir) if "ema_share" in line]
  assert ends == [45, 90, 100, 110] and list(shares) == [stage.name for stage in config.stages]
  assert shares["unlearn"] >= 0.95 and shares["recover"] >= 0.95
  assert shares["tasks"] < 0.5 and shares["slow"] < 0.5
  warnings = [record.message for record in caplog.records if "average holds" in record.message]
  assert len(warnings) == 1 and "stages.3 ('slow')" in warnings[0]
  assert not (workdir / "stage_start").exists()


class Dies(loop.Throughput):
  """Ends a run in its 48th step, as a fault would."""

  def count(self, step, shape, stalled):
    if step == 47:
      raise RuntimeError("dies")
    super().count(step, shape, stalled)


def test_resumed_within_a_stage_it_says_the_same(cycle, tmp_path):
  """Also where it had come to the next stage, and the newest checkpoint is from before."""
  config, programs, workdir = cycle
  upto = lambda steps: dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))
  loop.train(upto(30), tmp_path, programs)
  with pytest.raises(RuntimeError, match="dies"):
    loop.train(upto(50), tmp_path, programs, throughput=Dies())
  kept = lambda: sorted(path.name for path in (tmp_path / "stage_start").iterdir())
  assert kept() == ["0", "45"]
  loop.train(upto(50), tmp_path, programs)
  loop.train(config, workdir, programs)  # where that is not done yet
  share = lambda folder: [line["ema_share"] for line in runs.records(folder) if line["step"] == 45]
  assert share(tmp_path) == share(workdir)
  loop.train(upto(52), tmp_path, programs)
  assert kept() == ["45"], "a checkpoint was whole beyond 45"
