"""Windows of long clips: where they lie, their weights, and Long Video CFG."""

import dataclasses
import itertools

import numpy as np
import pytest

from emv3_jax.diffusion import guidance as guidance_lib
from emv3_jax.diffusion import windows

SHAPES = [(9, 5, 2), (9, 5, 1), (6, 5, 2), (40, 17, 4), (21, 8, 7), (23, 5, 3), (18, 17, 16)]
LATENT_MODES = [mode for mode in windows.MODES if mode != "chunked"]


def over_clip(placed, parts, total):
  out = np.zeros((total, *parts[0].shape[1:]))
  for window, part in zip(placed, parts, strict=True):
    out[window.start:window.stop] += part
  return out


@pytest.mark.parametrize("total, length, overlap", SHAPES)
@pytest.mark.parametrize("mode", windows.MODES)
def test_windows_cover_the_clip_and_share_enough(total, length, overlap, mode):
  placed = windows.place(total, length, overlap, mode)
  assert placed[0].start == 0 and placed[-1].stop == total
  assert all(after.start <= before.stop - overlap and after.start > before.start
             for before, after in itertools.pairwise(placed))
  if mode in ("released", "chunked"):
    assert [w.start for w in placed] == [(length - overlap) * k for k in range(len(placed))]
    assert all(w.length == length for w in placed[:-1]) and placed[-1].length > overlap
  else:
    assert all(w.length == length for w in placed)
  assert len(placed) == len(windows.place(total, length, overlap, "released"))


def test_released_windows_are_those_of_the_recorded_run():
  assert windows.place(9, 5, 2, "released") == ((0, 5), (3, 8), (6, 9))


def test_a_clip_of_one_window_has_one():
  assert windows.place(5, 5, 2) == ((0, 5),) and windows.place(3, 5, 2, "released") == ((0, 3),)


@pytest.mark.parametrize("overlap", [0, 5, 7])
def test_windows_are_longer_than_what_they_share(overlap):
  with pytest.raises(ValueError, match="from 1 to 4 shared"):
    windows.place(9, 5, overlap)


@pytest.mark.parametrize("total, length, overlap", SHAPES)
@pytest.mark.parametrize("mode", LATENT_MODES)
@pytest.mark.parametrize("step", [0, 3])
def test_weights_sum_to_one(total, length, overlap, mode, step):
  placed = windows.place(total, length, overlap, mode)
  found = windows.weights(placed, mode, step)
  for name in ("alpha", "own"):
    summed = over_clip(placed, [getattr(weight, name) for weight in found], total)
    np.testing.assert_allclose(summed, 1, atol=1e-6)
  assert all((weight.alpha >= 0).all() for weight in found)


def test_weights_in_the_overlap_of_two_windows():
  placed = windows.place(14, 8, 4, "blended")
  assert placed == ((0, 8), (3, 11), (6, 14))  # neighbours share five frames, one is of three windows
  first, second = windows.weights((windows.Window(0, 6), windows.Window(2, 8)))
  np.testing.assert_allclose(first.alpha, [1, 1, 1, .75, .5, .25])
  np.testing.assert_allclose(second.alpha, [0, .25, .5, .75, 1, 1])
  assert first.own.tolist() == [1, 1, 1, 1, 1, 0] and second.own.tolist() == [0, 0, 0, 1, 1, 1]
  assert first.shared.tolist() == [0, 0, 1, 1, 1, 1]


def test_released_weights():
  placed = windows.place(9, 5, 2, "released")
  later = windows.weights(placed, "released", 1)
  assert [w.alpha.tolist() for w in later] == [[1, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 1, 1]]
  first = windows.weights(placed, "released", 0)
  assert [w.alpha.tolist() for w in first] == [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1]]


def clip_velocity(branches, mode, placed, velocities, scales=(4.0, 2.9), step=1):
  """Velocity of the clip of the branches' velocities of each window, [branches, L, cell]."""
  parts = []
  for weight, velocity in zip(windows.weights(placed, mode, step), velocities, strict=True):
    row = windows.Weights(*(x[None] for x in weight))
    parts.append(windows.contribution(branches, mode, velocity[:, None], row, *scales)[0])
  return over_clip(placed, parts, placed[-1].stop)


ALL, PAIR = (guidance.schedule(1)[0].branches for guidance in (guidance_lib.PREVIEW, guidance_lib.FLASH))


@pytest.mark.parametrize("branches", [ALL, PAIR, guidance_lib.FULL_ALONE], ids=["preview", "flash", "unguided"])
@pytest.mark.parametrize("mode", ["blended", "paper", "released"])
@pytest.mark.parametrize("total, length, overlap", SHAPES[:4])
def test_windows_that_agree_give_plain_guidance(branches, mode, total, length, overlap):
  said = np.random.default_rng(0).normal(size=(len(branches), total, 3))
  placed = windows.place(total, length, overlap, mode)
  got = clip_velocity(branches, mode, placed, [said[:, a:b] for a, b in placed])
  np.testing.assert_allclose(got, guidance_lib.mix(branches, said, 4.0, 2.9), atol=3e-6)


@pytest.mark.parametrize("scales", [(4.0, 2.9), (1.0, 2.9), (3.0, 3.0), (4.0, 1.0), (4.0, 0.0), (0.4, 2.9), (1.0, 1.0)])
@pytest.mark.parametrize("mode", LATENT_MODES)
@pytest.mark.parametrize("guidance", [guidance_lib.PREVIEW, guidance_lib.FLASH], ids=["preview", "flash"])
def test_branches_that_a_mode_leaves_out_have_no_weight(mode, scales, guidance):
  """As if all of them had run, in windows that do not agree."""
  guidance = dataclasses.replace(guidance, text_scale=scales[0], audio_scale=scales[1], dynamic_text=False,
                                 dynamic_audio=False, released_switch=False)
  step, = guidance.schedule(1, mode)
  every, placed = ALL if guidance.by_text else PAIR, windows.place(8, 6, 4, mode)
  answers = np.random.default_rng(0).normal(size=(2, len(every), 6, 1))
  run = [every.index(branch) for branch in step.branches]
  got = clip_velocity(step.branches, mode, placed, answers[:, run], scales)
  if len(run) > 1 or mode in ("blended", "released"):
    np.testing.assert_allclose(got, clip_velocity(every, mode, placed, answers, scales), atol=1e-6)
  else:  # a step without guidance is blended
    assert scales[1] == 1 and step.branches == guidance_lib.FULL_ALONE
    np.testing.assert_allclose(got, clip_velocity(step.branches, "blended", placed, answers[:, run]), atol=1e-6)


def test_equation_4_and_its_readings():
  rng = np.random.default_rng(0)
  placed = (windows.Window(0, 6), windows.Window(2, 8))
  answers = [rng.normal(size=(3, 6, 1)) for _ in placed]
  g, g_a, frame = 4.0, 2.9, 3  # alpha 3/4 and 1/4: w is the first window
  one, two = answers[0][:, 3, 0], answers[1][:, 1, 0]
  un, text, full = .75 * one + .25 * two
  plain = lambda v: v[0] + g * (v[1] - v[0]) + g_a * (v[2] - v[1])
  want = {
      "blended": .75 * plain(one) + .25 * plain(two),
      "paper": one[2] + (g - 1) * (text - one[0]) + (g_a - 1) * (full - one[1]),
      "paper_literal": one[2] + g * (text - one[0]) + g_a * (full - one[1])}
  for mode, value in want.items():
    got = clip_velocity(ALL, mode, placed, answers, (g, g_a))
    np.testing.assert_allclose(got[frame, 0], value, rtol=1e-6)
    np.testing.assert_allclose(got[0, 0], plain(answers[0][:, 0, 0]), rtol=1e-6)  # of one window
  pair = [answer[1:] for answer in answers]
  got = clip_velocity(PAIR, "paper", placed, pair, (g, g_a))
  np.testing.assert_allclose(got[frame, 0], one[2] + (g_a - 1) * (full - one[1]), rtol=1e-6)


def test_chunks_fade_from_one_to_the_next():
  before, after = np.zeros((5, 2, 2, 3)), np.ones((5, 2, 2, 3))
  np.testing.assert_allclose(windows.blended_pixels(before, after)[:, 0, 0, 0], [0, .25, .5, .75, 1])
