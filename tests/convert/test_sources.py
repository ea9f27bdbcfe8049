"""Finding and reading checkpoint files: folders, parts, hub snapshots, pickles, damaged files."""

import json
import pathlib

from huggingface_hub import constants
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
import sentencepiece

from convert.importing import convert, identify_all
from convert.sources import find
from convert.tensors import copy, open_tensors
from emv3_jax.conditioning.text import Tokenizer
from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import read_model_card
from tests.convert.test_conversion import official

NEEDS_TORCH = "pip install -e '.[convert]'"


def _shard(tensors, folder, stem):
  """Two parts and their index, as transformers and diffusers write them."""
  folder.mkdir(parents=True, exist_ok=True)
  names = sorted(tensors)
  files = [f"{stem}-0000{part}-of-00002.safetensors" for part in (1, 2)]
  weight_map = {name: files[i % 2] for i, name in enumerate(names)}
  for file in files:
    save_file({name: tensors[name] for name in names if weight_map[name] == file}, folder / file)
  (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.fixture
def diffusers_folder(tmp_path, rng):
  """A base model in diffusers layout, text encoder in two parts, with both tokenizers' files."""
  folder = tmp_path / "base"
  given = {}
  for name, part, stem, layout in (
      ("base", "transformer", "diffusion_pytorch_model", "diffusers"),
      ("clip", "image_encoder", "model", "transformers")):
    tensors, told = official(name, rng, layout)
    given |= told
    (folder / part).mkdir(parents=True)
    save_file(tensors, folder / part / f"{stem}.safetensors")
  tensors, told = official("umt5", rng, "transformers")
  _shard(tensors, folder / "text_encoder", "model")
  (folder / "tokenizer").mkdir()
  (folder / "tokenizer" / "tokenizer.json").write_text('{"umt5": 1}')
  (folder / "xlm-roberta-large").mkdir()
  (folder / "xlm-roberta-large" / "tokenizer.json").write_text('{"roberta": 1}')
  (folder / "model_index.json").write_text("{}")
  return folder, given | told


def test_a_diffusers_folder_is_converted_whole(tmp_path, diffusers_folder):
  folder, given = diffusers_folder
  lines = convert(find(str(folder)), tmp_path / "m", given=given)
  assert sorted(line.split(":")[0] for line in lines) == [
      "image_encoder", "text_encoder", "tokenizer", "transformer"]
  card = read_model_card(tmp_path / "m")
  assert set(card.components) == {"image_encoder", "text_encoder", "transformer"}
  assert card.variant == "base" and len(card.components["text_encoder"].sources) == 2
  assert (tmp_path / "m" / "tokenizer" / "tokenizer.json").read_text() == '{"umt5": 1}'


def test_a_hub_id_is_read_from_its_snapshot(tmp_path, monkeypatch, diffusers_folder):
  folder, given = diffusers_folder
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  repo, commit = tmp_path / "hub" / "models--someone--wan", "0123456789" * 4
  (repo / "refs").mkdir(parents=True)
  (repo / "refs" / "main").write_text(commit)
  (repo / "snapshots").mkdir()
  folder.rename(repo / "snapshots" / commit)
  assert {plan.component.name for plan in identify_all(find("someone/wan"), given=given)[0]} == {
      "transformer", "text_encoder", "image_encoder"}
  one = find("someone/wan/text_encoder@main")
  assert [checkpoint.name for checkpoint in one.checkpoints] == ["model.safetensors"]
  with pytest.raises(InputError, match="has no folder vae"):
    find("someone/wan/vae")
  with pytest.raises(InputError, match="neither a local path nor could it be downloaded"):
    find("someone/else")


@pytest.mark.parametrize("source", ["nowhere", "./a/b", "a/b.safetensors", "/a/b", "a/b/../c d"])
def test_a_path_that_is_not_there_is_named(source):
  with pytest.raises(InputError, match="does not exist.\nGive a file, a folder, or a Hugging Face"):
    find(source)


def test_the_official_base_folder(tmp_path, rng):
  """One folder with safetensors, three pickles, the tokenizer two folders down, and a config."""
  torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
  folder, given = tmp_path / "Wan2.1-Fun-V1.1-1.3B-InP", {}
  (folder / "google" / "umt5-xxl").mkdir(parents=True)
  (folder / "google" / "umt5-xxl" / "tokenizer.json").write_text('{"umt5": 1}')
  for name, file in (("base", "diffusion_pytorch_model.safetensors"),
                     ("umt5", "models_t5_umt5-xxl-enc-bf16.pth"),
                     ("clip", "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")):
    tensors, told = official(name, rng)
    given |= told
    if name == "clip":
      tensors |= {"log_scale": np.float32(1), "textual.norm.weight": np.ones(3, np.float32)}
    if file.endswith(".pth"):
      torch.save({key: _to_torch(torch, value) for key, value in tensors.items()}, folder / file)
    else:
      save_file(tensors, folder / file)
  given["transformer"]["num_heads"] = 2
  (folder / "config.json").write_text(json.dumps(
      {"dim": 48, "ffn_dim": 64, "num_heads": 2, "num_layers": 2, "text_len": 8}))
  lines = convert(find(str(folder)), tmp_path / "m", given=given)
  assert any("left out, unused: log_scale (1), textual.* (1)" in line for line in lines)
  card = read_model_card(tmp_path / "m")
  assert set(card.components) == {"transformer", "text_encoder", "image_encoder"}
  assert card.components["text_encoder"].dtype == "bfloat16"
  assert (tmp_path / "m" / "tokenizer" / "tokenizer.json").exists()


def test_a_sentencepiece_tokenizer_becomes_a_json(tmp_path):
  (tmp_path / "umt5-xxl").mkdir()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(["a man speaks"] * 20), model_prefix=str(tmp_path / "umt5-xxl" / "spiece"),
      vocab_size=20, hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2)
  lines = convert(find(str(tmp_path)), tmp_path / "m", "tokenizer")
  assert lines == ["tokenizer: converted from spiece.model"]
  got, want = (Tokenizer.load(folder).tokenize(["a man"], 8)[0]
               for folder in (tmp_path / "m" / "tokenizer", tmp_path / "umt5-xxl"))
  np.testing.assert_array_equal(got, want)
  assert [file.name for file in (tmp_path / "m" / "tokenizer").iterdir()] == ["tokenizer.json"]


def _audio_encoder(folder, rng, **settings):
  """wav2vec2 as it is published, with its feature extractor's settings where there are any."""
  tensors, given = official("wav2vec2", rng)
  save_file({f"wav2vec2.{name}": value for name, value in tensors.items()},
            folder / "model.safetensors")
  if settings:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
  return given


@pytest.mark.parametrize("published, kept", [
    ({}, {}),
    ({"do_normalize": True, "sampling_rate": 16000, "feature_size": 1, "padding_value": 0.0,
      "return_attention_mask": False}, {"do_normalize": True, "sampling_rate": 16000}),
    ({"do_normalize": False}, {"do_normalize": False, "sampling_rate": 16000})])
def test_settings_of_the_feature_extractor_come_along(tmp_path, rng, published, kept):
  given = _audio_encoder(tmp_path, rng, **published)
  convert(find(str(tmp_path)), tmp_path / "m", given=given)
  card = read_model_card(tmp_path / "m")
  assert card.components["audio_encoder"].features == kept
  assert ("features" in json.loads((tmp_path / "m" / "model.json").read_text())
          ["components"]["audio_encoder"]) is bool(kept)
  assert card.normalises_waveform is kept.get("do_normalize", True)


def test_changed_settings_of_the_feature_extractor_are_taken_over(tmp_path, rng):
  given = _audio_encoder(tmp_path, rng)
  convert(find(str(tmp_path)), tmp_path / "m", given=given)
  (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
  with pytest.raises(InputError, match="already has a audio_encoder"):
    convert(find(str(tmp_path)), tmp_path / "m", given=given)
  convert(find(str(tmp_path)), tmp_path / "m", given=given, replace=True)
  assert not read_model_card(tmp_path / "m").normalises_waveform


@pytest.mark.parametrize("published", [
    {"sampling_rate": 8000}, {"do_normalize": "yes"}, {"feature_size": 80}])
def test_a_feature_extractor_of_another_kind_is_refused(tmp_path, rng, published):
  given = _audio_encoder(tmp_path, rng, **published)
  with pytest.raises(InputError, match="preprocessor_config.json says"):
    convert(find(str(tmp_path)), tmp_path / "m", given=given)
  (tmp_path / "preprocessor_config.json").write_text("{")
  with pytest.raises(InputError, match="preprocessor_config.json cannot be read"):
    convert(find(str(tmp_path)), tmp_path / "m", given=given)


def test_wav2vec2_folders_prefer_safetensors(tmp_path, rng):
  tensors, given = official("wav2vec2", rng)
  wrapped = {f"wav2vec2.{name}": value for name, value in tensors.items()}
  extras = {"lm_head.weight": np.ones((3, 4), np.float32),
            "wav2vec2.masked_spec_embed": np.ones(4, np.float32)}
  save_file(wrapped | extras, tmp_path / "model.safetensors")
  (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
  (plan,), left_out = identify_all(find(str(tmp_path)), given=given)
  assert plan.unused == {"lm_head.*": 1, "masked_spec_embed": 1} and not left_out
  plan.check()


def test_several_or_no_checkpoints_of_a_component_are_named(tmp_path, rng):
  for folder in ("transformer", "echomimicv3-flash-pro"):
    (tmp_path / folder).mkdir()
    tensors, given = official("preview" if folder == "transformer" else "flash", rng)
    save_file(tensors, tmp_path / folder / "diffusion_pytorch_model.safetensors")
  given["transformer"] |= {"audio_layers": 2, "audio_dim": 768}
  with pytest.raises(InputError, match="several checkpoints of the transformer: echomimicv3"):
    identify_all(find(str(tmp_path)), given={"transformer": {"num_heads": 2}})
  with pytest.raises(InputError, match="has no vae; found: transformer"):
    identify_all(find(str(tmp_path)), "vae", given={"transformer": {"num_heads": 2}})
  (tmp_path / "empty").mkdir()
  with pytest.raises(InputError, match="has no weights"):
    find(str(tmp_path / "empty"))
  save_file({"x": np.ones(3, np.float32)}, tmp_path / "transformer" / "stray.safetensors")
  plans, left_out = identify_all(find(str(tmp_path / "transformer")),
                                 given={"transformer": {"num_heads": 2}})
  assert len(plans) == 1 and "stray.safetensors: not recognised" in left_out[0]


@pytest.mark.parametrize("index, message", [
    ("{", "not an index"), ('{"weight_map": 3}', "not an index"),
    ('{"weight_map": {"a": "../secret.safetensors"}}', "outside of its folder"),
    ('{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors does not exist")])
def test_a_bad_index_is_named(tmp_path, index, message):
  (tmp_path / "model.safetensors.index.json").write_text(index)
  with pytest.raises(InputError, match=message):
    identify_all(find(str(tmp_path)))


def test_a_bad_config_is_named(tmp_path):
  save_file({"x": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(InputError, match="config.json is not JSON"):
    identify_all(find(str(tmp_path)))


def test_safetensors_are_read_as_they_are(tmp_path, rng):
  tensors = {"a": rng.standard_normal((3, 4)).astype(ml_dtypes.bfloat16),
             "b": rng.standard_normal((2, 3, 1)).astype(np.float16), "c": np.array(3, np.float32),
             "d": np.arange(5), "e": np.zeros((0, 4), np.float32)}
  save_file(tensors, tmp_path / "a.safetensors")
  opened = open_tensors([tmp_path / "a.safetensors"])
  assert opened.keys() == tensors.keys()
  for name, tensor in tensors.items():
    assert opened[name].shape == np.shape(tensor) and opened[name].dtype == tensor.dtype
    np.testing.assert_array_equal(opened[name].make(), tensor)
  with pytest.raises(InputError, match="tensor a is in another part"):
    open_tensors([tmp_path / "a.safetensors"] * 2)


@pytest.mark.parametrize("keep", [0, 7, 30, 200, -1])
def test_a_file_that_was_cut_short_is_recognised(tmp_path, keep):
  file = tmp_path / "a.safetensors"
  save_file({"a": np.ones((100, 10), np.float32), "b": np.ones(3, np.float32)}, file)
  file.write_bytes(file.read_bytes()[:keep])
  with pytest.raises(InputError, match="a.safetensors is damaged or cut short.*\nDownload it again"):
    open_tensors([file])


@pytest.mark.parametrize("header", [
    b"[]", b"{", b"[" * 100_000, b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": [0, 1180591620717411303424], "data_offsets": [0, 0]}}',
    b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]}}',
    b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
    b' "b": {"dtype": "F16", "shape": [1], "data_offsets": [2, 4]}}',
    b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}',
    b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
    b'{"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}', b'{"a": 3}'])
def test_a_hostile_header_is_refused(tmp_path, header):
  file = tmp_path / "a.safetensors"
  file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
  with pytest.raises(InputError, match="damaged or cut short"):
    open_tensors([file])


def test_an_unknown_dtype_is_named(tmp_path):
  file = tmp_path / "a.safetensors"
  header = b'{"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}'
  file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
  with pytest.raises(InputError, match="tensor a has dtype 'F4', which is not read"):
    open_tensors([file])


def test_bytes_that_belong_to_no_tensor_are_told(tmp_path):
  file, notes = tmp_path / "a.safetensors", []
  save_file({"a": np.ones(3, np.float32)}, file)
  assert open_tensors([file], notes).keys() == {"a"} and not notes
  with file.open("ab") as out:
    out.write(b"x" * 1234)
  np.testing.assert_array_equal(open_tensors([file], notes)["a"].make(), np.ones(3))
  assert len(notes) == 1 and notes[0].startswith("a.safetensors has 1,234 bytes that belong to no")


@pytest.mark.parametrize("name, content, message", [
    ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3414550664\n",
     r"a Git LFS pointer \(\d+ bytes of text\), not the weights \(3,414,550,664 bytes\).\nFetch them"),
    ("a.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 7\n", "LFS pointer"),
    ("a.bin", b"<!DOCTYPE html>\n<html><body>Log in</body></html>", "text, not weights: .* '<!DOCTYPE"),
    ("a.safetensors", b'{"error": "Repository not found"}', "text, not weights"),
    ("a.safetensors", b"GGUF" + b"\3\0" * 40, "a GGUF file"),
    ("._a.safetensors", b"\0\5\x16\7" + b"\0" * 40, "a metadata file of macOS"),
    ("a.bin", b"\x1f\x8b\x08" + b"\0" * 40, "an archive"),
    ("a.safetensors.incomplete", b"\0" * 40, "a download that was not finished"),
    ("a.dat", b"\0" * 40, "unknown kind of file '.dat'; wanted .safetensors, .sft, .pth"),
])
def test_what_lies_in_the_place_of_weights_is_named(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(InputError, match=message):
    open_tensors([tmp_path / name])


def test_a_file_beside_its_downloader_s_notes_is_not_whole(tmp_path):
  save_file({"a": np.ones(3, np.float32)}, tmp_path / "a.safetensors")
  (tmp_path / "a.safetensors.aria2").write_bytes(b"\0")
  with pytest.raises(InputError, match="still being downloaded: a.safetensors.aria2 is beside it"):
    open_tensors([tmp_path / "a.safetensors"])


def test_the_content_and_not_the_ending_says_what_a_file_is(tmp_path):
  torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
  for name in ("a.sft", "a.bin", "a.ckpt"):
    save_file({"a": np.ones(3, np.float32)}, tmp_path / name)
    assert open_tensors([tmp_path / name]).keys() == {"a"}
  for new_format in (True, False):
    torch.save({"b": torch.ones(3)}, tmp_path / "b.ckpt", _use_new_zipfile_serialization=new_format)
    assert open_tensors([tmp_path / "b.ckpt"]).keys() == {"b"}
    (tmp_path / "b.ckpt").rename(tmp_path / "b.safetensors")
    with pytest.raises(InputError, match="a PyTorch file .a pickle., though .*\nRename it to .pth"):
      open_tensors([tmp_path / "b.safetensors"])


def test_endings_may_be_in_capitals(tmp_path):
  weights = {"a": np.ones(3, np.float32)}
  for name in ("m/A.SAFETENSORS", "m/A.BIN", "n/b.Sft"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    save_file(weights, tmp_path / name)
    (found,) = find(str(tmp_path / name)).checkpoints
    assert open_tensors(found.files).keys() == {"a"}
  found = find(str(tmp_path / "m"))
  assert [one.name for one in found.checkpoints] == ["A.SAFETENSORS"] and "left out: A.BIN" in found.notes[0]
  (tmp_path / "m/b.PTH.Part").touch()
  assert "were not finished: b.PTH.Part" in find(str(tmp_path / "m")).notes[-1]


class _Hostile:
  """A pickle that writes a file when it is loaded."""

  def __init__(self, path):
    self._path = str(path)

  def __reduce__(self):
    return pathlib.Path.write_text, (pathlib.Path(self._path), "executed")


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path):
  torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
  for new_format in (True, False):
    torch.save({"a": torch.ones(3), "b": _Hostile(tmp_path / "proof")}, tmp_path / "a.pth",
               _use_new_zipfile_serialization=new_format)
    with pytest.raises(InputError, match="a.pth is refused: it wants .*Nothing in it was run") as e:
      open_tensors([tmp_path / "a.pth"])
    assert len(str(e.value).splitlines()) == 2
    assert not (tmp_path / "proof").exists()


def test_pickles_of_both_formats_are_read_and_others_named(tmp_path, rng):
  torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
  tensors = {"a": rng.standard_normal((3, 4)).astype(ml_dtypes.bfloat16), "b": np.arange(3)}
  given = {name: _to_torch(torch, value) for name, value in tensors.items()}
  given["c"] = given["a"].T  # not contiguous
  for new_format in (True, False):
    torch.save(given, tmp_path / "a.bin", _use_new_zipfile_serialization=new_format)
    opened = open_tensors([tmp_path / "a.bin"])
    for name, tensor in (tensors | {"c": tensors["a"].T}).items():
      np.testing.assert_array_equal(opened[name].make(), tensor)
      assert opened[name].dtype == tensor.dtype and opened[name].shape == tensor.shape
  content = (tmp_path / "a.bin").read_bytes()
  for damaged in (b"", b"\0x" * 100, content[:len(content) // 2]):
    (tmp_path / "b.pth").write_bytes(damaged)
    with pytest.raises(InputError, match="b.pth is (damaged|refused)"):
      open_tensors([tmp_path / "b.pth"])
  torch.save([1, 2], tmp_path / "c.pt")
  with pytest.raises(InputError, match="holds list, wanted a dict"):
    open_tensors([tmp_path / "c.pt"])


def test_dicts_in_dicts_are_opened_and_training_state_is_not(tmp_path):
  torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
  weights = {"a": torch.ones(3), "_extra": None}
  circle = {"step": 3}
  circle["self"] = circle
  torch.save({"state_dict": {"model": weights}, "ema": weights, "epoch": 3, "name": "x",
              "optimizer": {"state": {0: {"m": torch.ones(3)}}, "m": torch.ones(1)},
              "lr_schedulers": [1], "circle": circle}, tmp_path / "a.ckpt")
  assert open_tensors([tmp_path / "a.ckpt"]).keys() == {"state_dict.model.a", "ema.a"}
  torch.save({"epoch": 3, 1: torch.ones(3)}, tmp_path / "b.pt")
  with pytest.raises(InputError, match="a dict without tensors"):
    open_tensors([tmp_path / "b.pt"])
  torch.save({"a": torch.ones(3).to_sparse()}, tmp_path / "c.pt")
  with pytest.raises(InputError, match=r"tensor a is torch.float32, torch.sparse_coo on cpu"):
    open_tensors([tmp_path / "c.pt"])


def test_a_part_that_links_to_nothing_is_named(tmp_path):
  (tmp_path / "a.safetensors").symlink_to("../blobs/0123")
  with pytest.raises(InputError, match="a.safetensors is a link to ../blobs/0123, which is not there"):
    open_tensors([tmp_path / "a.safetensors"])
  save_file({"b": np.ones(3, np.float32)}, tmp_path / "b.safetensors")
  with pytest.raises(InputError, match="; 1 of 2 parts are missing: a.safetensors"):
    open_tensors([tmp_path / "b.safetensors", tmp_path / "a.safetensors"])
  with pytest.raises(InputError, match="/dev/null is not a regular file"):
    open_tensors([pathlib.Path("/dev/null")])


def test_without_torch_the_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "torch", None)
  (tmp_path / "a.pth").write_bytes(b"x")
  with pytest.raises(InputError, match=r"pip install 'emv3-jax\[convert\]'"):
    open_tensors([tmp_path / "a.pth"])


def test_blocked_copies_are_copies(rng):
  for shape in ((), (5,), (300, 7), (2, 3, 600, 513)):
    source = rng.standard_normal(shape).astype(np.float32)
    for dtype in (np.float32, ml_dtypes.bfloat16):
      for view in (source, source.T):
        target = np.zeros(view.shape, dtype)
        copy(view, target)
        np.testing.assert_array_equal(target, view.astype(dtype))
        again = np.zeros(view.shape, dtype)
        copy(target, again)
        np.testing.assert_array_equal(again, target)


def _to_torch(torch, array):
  array = np.asarray(array)
  if array.dtype == ml_dtypes.bfloat16:
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
  return torch.from_numpy(array)
