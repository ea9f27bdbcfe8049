"""Stages, presets, and the draw of tasks."""

import numpy as np
import pytest

from emv3_jax.errors import InputError
from emv3_jax.tasks import names, number
from emv3_jax.training import curriculum
from emv3_jax.training.curriculum import Mixture, Stage


def test_positions_and_kinds_of_steps():
  stages = (Stage("sft", 3), Stage("cycle", 4, kind="ndpo", every=2),
            Stage("unlearn", 2, kind="ndpo"))
  positions = [curriculum.stage_position(stages, step) for step in range(11)]
  assert [position.index for position in positions] == [0] * 3 + [1] * 4 + [2] * 4
  assert positions[6].first_step == 3 and positions[10].first_step == 7
  kinds = [curriculum.kind_at(stages, step) for step in range(11)]
  assert kinds == ["sft"] * 3 + ["sft", "ndpo", "sft", "ndpo"] + ["ndpo"] * 4


@pytest.mark.parametrize("name", curriculum.PRESETS)
@pytest.mark.parametrize("steps", [2, 7, 1000])
def test_presets_take_the_steps_that_they_are_given(name, steps):
  stages = curriculum.preset(name, steps, learning_rate=3e-4)
  assert sum(stage.steps for stage in stages) == steps
  assert {stage.learning_rate for stage in stages} == {3e-4}


def test_a_short_stage_takes_its_step_from_the_first(monkeypatch):
  parts = ("long", 0.98, curriculum.BASE_TASKS), ("short", 0.02, curriculum.ALL_TASKS)
  monkeypatch.setitem(curriculum._PRESETS, "uneven", parts)
  assert [stage.steps for stage in curriculum.preset("uneven", 5)] == [4, 1]
  assert [stage.steps for stage in curriculum.preset("uneven", 100)] == [98, 2]


def test_the_paper_goes_from_hard_to_easy_and_schedule_a_the_other_way():
  (hard, then), (easy, later) = (curriculum.preset(name, 100) for name in ("paper", "schedule_a"))
  assert hard.mixture.lipsync == 0 < then.mixture.lipsync
  assert hard.mixture.i2v + hard.mixture.flf2v > 5 * hard.mixture.t2v > 0
  assert easy.mixture == Mixture(lipsync=1.0) and later.mixture == then.mixture
  (uniform,) = curriculum.preset("schedule_b", 100)
  np.testing.assert_allclose(uniform.mixture.probabilities, 0.25)


def test_shares_of_drawn_tasks_are_those_of_the_mixture():
  mixture = Mixture(t2v=1, flf2v=2, lipsync=1)
  tasks = curriculum.draw_tasks(0, 7, np.arange(20000), mixture)
  shares = np.bincount(tasks, minlength=4) / 20000
  assert names() == ("t2v", "i2v", "flf2v", "lipsync")
  np.testing.assert_allclose(shares, [0.25, 0, 0.5, 0.25], atol=0.01)
  assert shares[number("i2v")] == 0


def test_the_draw_depends_on_seed_step_and_example_alone():
  mixture = Mixture(1, 1, 1, 1)
  draw = lambda seed, step, *examples: curriculum.draw_tasks(
      seed, step, np.array(examples), mixture).tolist()
  whole = draw(0, 5, *range(64))
  assert draw(0, 5, *range(63, -1, -1)) == whole[::-1]
  assert [draw(0, 5, example)[0] for example in (0, 31, 63)] == [whole[0], whole[31], whole[63]]
  assert draw(0, 6, *range(64)) != whole != draw(1, 5, *range(64))


@pytest.mark.parametrize("fields, message", [
    (dict(kind="rlhf"), "kind is 'rlhf'; known: sft, ndpo, dpo"),
    (dict(steps=0), "steps is 0; it must be 1 or more"),
    (dict(warmup=11), "warm-up of 11 steps is longer"),
    (dict(every=2), "every is 2 in an sft stage"),
])
def test_stages_that_cannot_be_are_refused(fields, message):
  with pytest.raises(InputError, match=message):
    Stage(**{"name": "a", "steps": 10, **fields})


def test_mixtures_and_presets_that_cannot_be_are_refused():
  with pytest.raises(InputError, match="one of them above 0"):
    Mixture()
  with pytest.raises(InputError, match="Unknown schedule 'papre'; known: paper"):
    curriculum.preset("papre", 10)
  with pytest.raises(InputError, match="1 steps are too few"):
    curriculum.preset("paper", 1)
