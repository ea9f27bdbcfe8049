"""The command line: a stage trains, measures and goes on; mistakes are named."""

import dataclasses
import json
import shutil

import pytest

from emv3_jax.errors import InputError
from emv3_jax.models import wav2vec2
from emv3_jax.puppets.training import footage
from emv3_jax.puppets.training.settings import AudioSettings, Learning, Phase
from emv3_jax.puppets.world import voice
from scripts import train_tiny


@pytest.fixture
def short(monkeypatch):
  """The audio stage with two steps and two sentences a split."""
  settings = AudioSettings(phases=(Phase(9, 1, 2),), variants=1,
                           learning=Learning(rate=1e-3, warmup=1))
  monkeypatch.setitem(train_tiny.STAGES, "audio", (train_tiny.AudioStage, lambda: settings))
  known = train_tiny.sentences
  monkeypatch.setattr(train_tiny, "sentences", lambda split: known(split)[:2])
  monkeypatch.setattr(train_tiny.program_cache, "use", lambda folder: None)
  network = wav2vec2.network(wav2vec2.Wav2Vec2Config(
      dim=16, conv_dim=8, num_layers=1, num_heads=2, ffn_dim=16))
  monkeypatch.setattr(train_tiny.wav2vec2, "network", lambda config: network)


def test_stage_trains_and_is_measured(short, tmp_path, capsys, monkeypatch):
  assert train_tiny.main(["--stage=audio", f"--workdir={tmp_path}"]) == 1  # two steps teach little
  trained = json.loads(capsys.readouterr().out)
  assert trained["stage"] == "audio" and trained["step"] == 2
  monkeypatch.setitem(train_tiny.gates.WANTED, "audio", {"opening_r": -1.0})
  # What is kept of the part is enough to go on: nothing is trained again.
  shutil.rmtree(tmp_path / "audio")
  monkeypatch.setattr(train_tiny, "train", None)
  assert train_tiny.main(["--stage=audio", f"--workdir={tmp_path}"]) == 0
  assert json.loads(capsys.readouterr().out) == trained


def test_a_part_of_other_settings_is_trained_again(short, tmp_path, monkeypatch):
  monkeypatch.setattr(train_tiny, "report", lambda *found: True)
  train_tiny.main(["--stage=audio", f"--workdir={tmp_path}"])
  stage = train_tiny.open_stage("audio", tmp_path)
  assert train_tiny.kept(stage, "audio", tmp_path) is not None
  stage.settings = dataclasses.replace(stage.settings, seed=1)
  assert train_tiny.kept(stage, "audio", tmp_path) is None


def test_check_measures_the_newest_checkpoint(short, tmp_path, capsys, monkeypatch):
  with pytest.raises(InputError, match="audio holds no checkpoint"):
    train_tiny.main(["--stage=audio", f"--workdir={tmp_path}", "--check"])


def test_a_folder_of_other_settings_is_refused(short, tmp_path, monkeypatch):
  train_tiny.open_stage("audio", tmp_path)
  train_tiny.open_stage("audio", tmp_path)
  monkeypatch.setitem(train_tiny.STAGES, "audio", (train_tiny.AudioStage, AudioSettings))
  with pytest.raises(InputError, match="audio is of another run .*\n(.*\n)*  variants: 1 != 6"):
    train_tiny.open_stage("audio", tmp_path)


def test_footage_of_another_world_is_drawn_again(tmp_path, monkeypatch):
  before = footage.rendered(tmp_path, 0, 1, "train", 5)
  monkeypatch.setattr(voice, "_OPEN", 0.05)  # mouths that open wider
  after = footage.rendered(tmp_path, 0, 1, "train", 5)
  assert after.opening.mean() > before.opening.mean()
  assert len(list(tmp_path.glob("puppets_train_0_1x5_*.npz"))) == 2


def test_model_needs_the_parts(tmp_path, monkeypatch):
  monkeypatch.setattr(train_tiny.program_cache, "use", lambda folder: None)
  with pytest.raises(InputError, match="model holds no vae of these settings; run --stage=vae first"):
    train_tiny.main(["--stage=model", f"--workdir={tmp_path}"])


def test_unknown_stage(tmp_path):
  with pytest.raises(InputError, match="invalid choice: 'transformers'"):
    train_tiny.main(["--stage=transformers", f"--workdir={tmp_path}"])
