"""Folders as people have them: links, parts, caches, unfinished downloads, stray files."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from convert.__main__ import main
from convert.importing import convert, identify_all
from convert.sources import find
from emv3_jax.errors import InputError
from tests.convert.test_conversion import official


@pytest.fixture
def umt5(rng):
  """(tensors, given) of a small text encoder."""
  return official("umt5", rng)


def found(source, given):
  plans, _ = identify_all(find(str(source)), given=given)
  for plan in plans:
    plan.check()
  return [plan.component.name for plan in plans]


def in_parts(folder, tensors, count=3):
  folder.mkdir(parents=True, exist_ok=True)
  names = sorted(tensors)
  files = [folder / f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
  for i, file in enumerate(files):
    save_file({name: tensors[name] for name in names[i::count]}, file)
  return files


def test_linked_folders_are_looked_into(tmp_path, umt5):
  real = tmp_path / "disk" / "text" / "encoder"
  real.mkdir(parents=True)
  save_file(umt5[0], real / "model.safetensors")
  (tmp_path / "models").mkdir()
  (tmp_path / "models" / "base").symlink_to(tmp_path / "disk")
  (tmp_path / "disk" / "again").symlink_to(tmp_path / "disk")  # a circle
  assert found(tmp_path / "models", umt5[1]) == ["text_encoder"]
  assert found(tmp_path / "disk", umt5[1]) == ["text_encoder"]
  (tmp_path / "link").symlink_to(tmp_path / "models")
  assert found(tmp_path / "link", umt5[1]) == ["text_encoder"]
  (tmp_path / "file").symlink_to(real / "model.safetensors")
  with pytest.raises(InputError, match="unknown kind of file ''"):
    found(tmp_path / "file", umt5[1])


def test_links_to_nothing_are_named(tmp_path, umt5):
  (tmp_path / "m").mkdir()
  save_file(umt5[0], tmp_path / "m" / "model.safetensors")
  (tmp_path / "m" / "vae.pth").symlink_to("../../blobs/0123")
  with pytest.raises(InputError, match="vae.pth is a link to ../../blobs/0123, which is not there"):
    found(tmp_path / "m", umt5[1])
  assert convert(find(str(tmp_path / "m")), tmp_path / "out", "text_encoder", given=umt5[1])
  with pytest.raises(InputError, match="is a link to ../../blobs/0123"):
    found(tmp_path / "m" / "vae.pth", umt5[1])


def test_what_a_mac_and_a_training_run_leave_is_no_checkpoint(tmp_path, umt5):
  save_file(umt5[0], tmp_path / "model.safetensors")
  for name in ("._model.safetensors", "optimizer.bin", "scheduler.pt", "training_args.bin",
               "rng_state_0.pth", "random_states_0.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
    (tmp_path / name).write_bytes(b"\0\5\x16\7 never opened")
  source = find(str(tmp_path))
  assert found(tmp_path, umt5[1]) == ["text_encoder"]
  assert len(source.notes) == 6 and all("state of a training run" in note for note in source.notes)


def test_the_same_weights_as_a_pickle_are_left_out_with_a_line(tmp_path, umt5):
  for stem in ("model", "pytorch_model"):
    save_file(umt5[0], tmp_path / "model.safetensors")
    (tmp_path / f"{stem}.bin").write_bytes(b"never opened")
    assert found(tmp_path, umt5[1]) == ["text_encoder"]
    assert find(str(tmp_path)).notes == (f"left out: {stem}.bin: the folder has safetensors",)
    (tmp_path / f"{stem}.bin").unlink()


def test_parts_without_their_index_are_one_checkpoint(tmp_path, umt5):
  files = in_parts(tmp_path / "m", umt5[0])
  assert found(tmp_path / "m", umt5[1]) == ["text_encoder"]
  assert found(files[1], umt5[1]) == ["text_encoder"]
  files[2].unlink()
  for source in (tmp_path / "m", files[0]):
    with pytest.raises(InputError, match="00003.safetensors does not exist; 1 of 3 parts are missing"):
      found(source, umt5[1])


def test_parts_that_an_index_names_are_told_together(tmp_path):
  names = {f"a{i}": f"model-{i}.safetensors" for i in range(5)}
  save_file({"a0": np.ones(3, np.float32)}, tmp_path / "model-0.safetensors")
  (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
  with pytest.raises(InputError, match="4 of 5 parts are missing: model-1.safetensors, .*, ...\\.\n"):
    found(tmp_path, {})
  (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
  with pytest.raises(InputError, match="names no parts"):
    found(tmp_path / "model.safetensors.index.json", {})


def test_the_hub_s_cache_is_read_by_its_folders(tmp_path, umt5):
  repo = tmp_path / "hub" / "models--google--umt5"
  (repo / "blobs").mkdir(parents=True)
  save_file(umt5[0], repo / "blobs" / "0123")
  for commit in ("aaaa", "bbbb"):
    (repo / "snapshots" / commit / "text_encoder").mkdir(parents=True)
    (repo / "snapshots" / commit / "text_encoder" / "model.safetensors").symlink_to(
        "../../../blobs/0123")
  with pytest.raises(InputError, match="has 2 snapshots and no revision main"):
    find(str(repo))
  (repo / "refs").mkdir()
  (repo / "refs" / "main").write_text("bbbb")
  assert found(repo, umt5[1]) == ["text_encoder"]
  with pytest.raises(InputError, match="cache of 1 repositories: models--google--umt5"):
    find(str(tmp_path / "hub"))
  (repo / "blobs" / "4567.incomplete").write_bytes(b"x")
  assert "downloads that were not finished: 4567.incomplete" in find(str(repo)).notes[0]


@pytest.mark.parametrize("name", ["model.safetensors.part", "model.safetensors.crdownload",
                                  ".cache/huggingface/download/abc.incomplete"])
def test_downloads_that_were_not_finished_are_told(tmp_path, umt5, name):
  (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
  (tmp_path / name).write_bytes(b"x")
  with pytest.raises(InputError, match="has no weights: its downloads were not finished: .*\nDown"):
    find(str(tmp_path))
  save_file(umt5[0], tmp_path / "other.safetensors")
  assert find(str(tmp_path)).notes[0].startswith("warning: ")


@pytest.mark.parametrize("source, message", [
    ("", "'' is not a path"), ("a\0b", "is not a path"), ("x" * 5000 + "/", "cannot be read .File name too"),
    ("~nobody-of-this-name/m", "cannot be read .Could not determine home"),
    ("/dev/null", "null is not a regular file")])
def test_what_is_no_path_is_named(source, message):
  with pytest.raises(InputError, match=message):
    identify_all(find(source))


def test_inspection_of_a_folder_goes_on_past_what_cannot_be_read(tmp_path, umt5, capsys):
  folder = tmp_path / "in"
  for name in ("a", "b", "c", "d"):
    (folder / name).mkdir(parents=True)
  (folder / "a" / "vae.pth").write_text("version https://git-lfs.github.com/spec/v1\nsize 7\n")
  (folder / "b" / "model.safetensors.index.json").write_text("{")
  save_file(umt5[0], folder / "c" / "model.safetensors")
  (folder / "c" / "config.json").write_text("{}")
  save_file({"x": np.ones(3, np.float32)}, folder / "d" / "model.safetensors")
  (folder / "d" / "config.json").write_text("[")
  assert main(["--inspect", str(folder)]) == 1
  captured = capsys.readouterr()
  assert "text_encoder" in captured.out.splitlines()[1]
  assert [line.split(": ")[0] for line in captured.err.splitlines()] == ["cannot be read"] * 3
  for what in ("a/vae.pth is a Git LFS pointer", "is not an index", "d/config.json is not JSON"):
    assert what in captured.err
  assert main([str(folder), str(tmp_path / "m")]) == 2  # conversion wants all of it
  captured = capsys.readouterr()
  assert "Git LFS pointer" in captured.err and len(captured.err.splitlines()) == 2
  (folder / "c" / "model.safetensors").unlink()
  assert main(["--inspect", str(folder)]) == 2


def test_inspection_shows_several_checkpoints_of_one_component(tmp_path, umt5, capsys):
  for name in ("one", "two"):
    save_file(umt5[0], tmp_path / f"{name}.safetensors")
  assert main(["--inspect", str(tmp_path)]) == 0
  out = capsys.readouterr().out
  assert "text_encoder: several checkpoints, of which only one can be converted: one.safe" in out


def test_inspection_of_a_model_goes_on_past_what_is_not_whole(tmp_path, umt5, rng, capsys):
  other, given = official("wav2vec2", rng)
  for name, tensors in (("a", umt5[0]), ("b", other)):
    save_file(tensors, tmp_path / f"{name}.safetensors")
    convert(find(str(tmp_path / f"{name}.safetensors")), tmp_path / "m", given=given)
  next((tmp_path / "m" / "audio_encoder" / "state").rglob("d/*")).unlink()
  assert main(["--inspect", str(tmp_path / "m")]) == 1
  captured = capsys.readouterr()
  assert "text_encoder" in captured.out and "audio_encoder" not in captured.out
  assert "audio_encoder is not whole" in captured.err
  card = json.loads((tmp_path / "m" / "model.json").read_text())
  card["components"]["text_encoder"]["sources"] = [3]
  (tmp_path / "m" / "model.json").write_text(json.dumps(card))
  assert main(["--inspect", str(tmp_path / "m")]) == 2
  assert "Traceback" not in capsys.readouterr().err


def test_warnings_go_to_stderr(tmp_path, umt5, capsys):
  umt5[0]["norm.weight"][0] = np.nan
  save_file(umt5[0], tmp_path / "in.safetensors")
  with (tmp_path / "in.safetensors").open("ab") as out:
    out.write(b"xyz")
  assert main(["--inspect", str(tmp_path / "in.safetensors")]) == 0
  assert "3 bytes that belong to no tensor" in capsys.readouterr().err
  assert main([str(tmp_path / "in.safetensors"), str(tmp_path / "m")]) == 0
  captured = capsys.readouterr()
  assert "warning" not in captured.out
  assert "3 bytes that belong to no tensor" in captured.err and "norm.weight (1 NaN)" in captured.err
