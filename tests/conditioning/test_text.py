import concurrent.futures
import os
import pathlib
import subprocess
import sys

from absl import logging
import ml_dtypes
import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, processors, trainers

import emv3_jax
from emv3_jax.conditioning.text import PromptCache, Tokenizer
from emv3_jax.errors import InputError

CORPUS = ["a woman speaks to the camera and smiles", "a man holds a cup and speaks slowly"]


@pytest.fixture(scope="module")
def trained():
  """A tiny unigram model laid out like umT5's: <pad> 0, </s> 1, words marked at their start."""
  tokenizer = tokenizers.Tokenizer(models.Unigram())
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  tokenizer.train_from_iterator(CORPUS, trainers.UnigramTrainer(
      vocab_size=60, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
      show_progress=False))
  tokenizer.post_processor = processors.TemplateProcessing(
      single="$A </s>", special_tokens=[("</s>", 1)])
  return tokenizer


@pytest.fixture
def folder(trained, tmp_path):
  trained.save(str(tmp_path / "tokenizer.json"))
  return tmp_path


@pytest.fixture
def warnings_seen(monkeypatch):
  seen = []
  monkeypatch.setattr(logging, "warning", lambda text, *values: seen.append(text % values))
  return seen


def test_ids_are_those_of_the_library(folder, trained, warnings_seen):
  ids, mask = Tokenizer.load(folder).tokenize(CORPUS, 64)
  assert ids.dtype == np.int32 and ids.shape == mask.shape == (2, 64)
  for row, prompt in enumerate(CORPUS):
    want = trained.encode(prompt).ids
    assert want[-1] == 1
    assert ids[row, mask[row]].tolist() == want
    assert not ids[row, len(want):].any() and mask[row].sum() == len(want)
  assert not warnings_seen


def test_file_and_folder_load_the_same(folder):
  got, want = (Tokenizer.load(path).tokenize(CORPUS)[0]
               for path in (folder / "tokenizer.json", folder))
  np.testing.assert_array_equal(got, want)
  assert got.shape == (2, 512)


@pytest.fixture(scope="module")
def sentencepiece_folder(tmp_path_factory):
  """A folder with `spiece.model` alone, trained as T5's are: umT5's special tokens and cleaning."""
  folder = tmp_path_factory.mktemp("umt5-xxl")
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(CORPUS * 20), model_prefix=str(folder / "spiece"), vocab_size=60,
      hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>",
      minloglevel=2)
  (folder / "spiece.vocab").unlink()
  return folder


@pytest.mark.parametrize("prompt", [
    "a woman speaks", "  two  spaces \n a tab\t", "ｗｉｄｅ ①", "Köln e\u0301", "\u2603 zzz", ""])
def test_sentencepiece_folder_gives_the_ids_of_sentencepiece(sentencepiece_folder, tmp_path, prompt):
  library = sentencepiece.SentencePieceProcessor(
      model_file=str(sentencepiece_folder / "spiece.model"))
  tokenizer = Tokenizer.load(sentencepiece_folder)
  ids, mask = tokenizer.tokenize([prompt], 64)
  assert ids[0, mask[0]].tolist() == [*library.encode(prompt), library.eos_id()]
  assert tokenizer._tokenizer.get_vocab_size() == library.vocab_size()
  tokenizer.save(tmp_path / "tokenizer.json")
  np.testing.assert_array_equal(Tokenizer.load(tmp_path).tokenize([prompt], 64)[0], ids)


def test_damaged_sentencepiece_file_is_refused(tmp_path):
  (tmp_path / "spiece.model").write_bytes(b"\x0a\xff\xff")
  with pytest.raises(InputError, match="spiece.model is damaged"):
    Tokenizer.load(tmp_path)


def test_ids_of_the_embedded_default_are_those_of_its_file():
  file = pathlib.Path(emv3_jax.__file__).parent / "assets" / "tiny" / "tokenizer.json"
  library = tokenizers.Tokenizer.from_file(str(file))
  prompts = [" ".join(words) for words in np.random.default_rng(0).choice(
      [*library.get_vocab(), "", "\n", "Köln", "a,b."], (50, 12))]
  ids, mask = Tokenizer.load(file).tokenize(prompts, 256)
  for prompt, row, used in zip(prompts, ids, mask, strict=True):
    assert row[used].tolist() == [*library.encode(prompt, add_special_tokens=False).ids, 1]


def test_settings_in_the_file_do_not_interfere(trained, tmp_path):
  other = tokenizers.Tokenizer.from_str(trained.to_str())
  other.enable_truncation(4)
  other.enable_padding(length=9, pad_id=2)
  other.save(str(tmp_path / "tokenizer.json"))
  ids, mask = Tokenizer.load(tmp_path).tokenize(CORPUS[:1], 64)
  assert ids[0, mask[0]].tolist() == trained.encode(CORPUS[0]).ids


def test_empty_prompt_is_the_end_alone(folder):
  ids, mask = Tokenizer.load(folder).tokenize([""], 8)
  assert ids[0].tolist() == [1] + 7 * [0] and mask[0].tolist() == [True] + 7 * [False]


def test_long_prompt_is_cut_with_a_warning(folder, trained, warnings_seen):
  prompt = "a woman " * 300 + "speaks slowly"
  whole = trained.encode(prompt).ids
  ids, mask = Tokenizer.load(folder).tokenize([prompt])
  assert len(whole) > 512 and mask.all()
  assert ids[0].tolist() == whole[:511] + [1]
  [warning] = warnings_seen
  assert f"Prompt of {len(whole)} tokens is cut to 512" in warning
  assert warning.endswith("speaks slowly'")


def test_prompt_that_just_fits_is_whole(folder, trained, warnings_seen):
  whole = trained.encode(CORPUS[0]).ids
  tokenizer = Tokenizer.load(folder)
  assert tokenizer.tokenize(CORPUS[:1], len(whole))[0][0].tolist() == whole
  assert not warnings_seen
  assert tokenizer.tokenize(CORPUS[:1], len(whole) - 1)[0][0].tolist() == whole[:-2] + [1]
  assert len(warnings_seen) == 1


@pytest.mark.parametrize("content", [None, "", "{", '{"model": {"type": "none"}}', "\xff"])
def test_missing_and_damaged_files_are_refused(tmp_path, content):
  if content is not None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="latin-1")
  with pytest.raises(InputError, match="tokenizer.json"):
    Tokenizer.load(tmp_path)


def test_tokenizer_of_another_family_is_refused(tmp_path):
  tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(
      str(tmp_path / "tokenizer.json"))
  with pytest.raises(InputError, match="</s>"):
    Tokenizer.load(tmp_path)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_cache_gives_back_what_it_kept(tmp_path, rng, dtype, warnings_seen):
  cache = PromptCache(tmp_path / "cache", "abc", "bfloat16")
  embedding = rng.standard_normal((7, 16)).astype(dtype)
  assert cache.get("hello") is None
  cache.put("hello", embedding)
  got = PromptCache(tmp_path / "cache", "abc", "bfloat16").get("hello")
  assert got.dtype == dtype
  np.testing.assert_array_equal(got, embedding)
  assert not warnings_seen and len(list((tmp_path / "cache").iterdir())) == 1


def test_cache_tells_prompts_encoders_and_precisions_apart(tmp_path):
  files = {PromptCache(tmp_path, *key).file(prompt)
           for key in (("abc", "float32"), ("abd", "float32"), ("abc", "bfloat16"))
           for prompt in ("", "a", "a ")}
  assert len(files) == 9


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "other"])
def test_damaged_entry_counts_as_missing(tmp_path, rng, damage, warnings_seen):
  cache = PromptCache(tmp_path, "abc", "float32")
  embedding = rng.standard_normal((3, 4)).astype(np.float32)
  cache.put("hello", embedding)
  content = bytearray(cache.file("hello").read_bytes())
  content[-5] ^= 1 if damage == "flip" else 0
  cache.file("hello").write_bytes(
      {"cut": content[:-8], "empty": b"", "flip": content, "other": b"text" * 20}[damage])
  assert cache.get("hello") is None
  [warning] = warnings_seen
  assert "computing it again" in warning
  cache.put("hello", embedding)
  np.testing.assert_array_equal(cache.get("hello"), embedding)


def test_unwritable_folder_warns_once_and_does_without(tmp_path, rng, warnings_seen):
  (tmp_path / "file").write_text("in the way")
  cache = PromptCache(tmp_path / "file" / "cache", "abc", "float32")
  for prompt in ("a", "b"):
    cache.put(prompt, rng.standard_normal((3, 4)).astype(np.float32))
    assert cache.get(prompt) is None
  [warning] = warnings_seen
  assert "not cached" in warning


def test_a_failed_write_leaves_nothing(tmp_path, rng, monkeypatch, warnings_seen):
  def fail(*_):
    raise OSError(28, "No space left on device")
  monkeypatch.setattr(os, "replace", fail)
  PromptCache(tmp_path, "abc", "float32").put("a", np.ones((2, 2), np.float32))
  assert not list(tmp_path.iterdir()) and "No space left" in warnings_seen[0]


def kept(cache, prompts) -> str:
  return "".join(prompt for prompt in prompts if cache.file(prompt).exists())


def test_the_longest_unused_entries_evict(tmp_path, warnings_seen):
  old = PromptCache(tmp_path, "of another encoder", "float32")
  old.put("x", np.zeros((8, 16), np.float32))
  size = old.file("x").stat().st_size
  cache = PromptCache(tmp_path, "abc", "float32", limit=3 * size)
  for second, prompt in enumerate("abc"):
    cache.put(prompt, np.full((8, 16), second, np.float32))
    os.utime(cache.file(prompt), (second + 2, second + 2))
    assert old.file("x").exists() is (prompt != "c")  # entries of all encoders count
    if prompt == "a":
      os.utime(old.file("x"), (1, 1))
  assert kept(cache, "abc") == "abc"
  np.testing.assert_array_equal(cache.get("a"), 0)  # is used: b is next
  cache.put("d", np.zeros((8, 16), np.float32))
  assert kept(cache, "abcd") == "acd"
  cache.put("large", np.zeros((99, 16), np.float32))
  assert kept(cache, "acd") == "" and not cache.file("large").exists()
  assert not warnings_seen


def test_only_what_a_killed_process_left_is_removed_of_temporary_files(tmp_path):
  cache = PromptCache(tmp_path, "abc", "float32", limit=500)
  left, writing = (tmp_path / f".{name}.part.safetensors" for name in ("left", "writing"))
  for path in (left, writing):
    path.write_bytes(b"1" * 500)
  os.utime(left, (1, 1))
  cache.put("a", np.zeros((2, 16), np.float32))
  assert not left.exists() and writing.exists() and cache.file("a").exists()


def test_many_writers_of_a_small_cache_get_in_nobodys_way(tmp_path, warnings_seen):
  def work(prompt):
    cache = PromptCache(tmp_path, "abc", "float32", limit=2000)
    for _ in range(20):
      cache.put(prompt, np.full((8, 16), ord(prompt), np.float32))
      found = cache.get(prompt)
      assert found is None or (found == ord(prompt)).all()

  with concurrent.futures.ThreadPoolExecutor(6) as threads:
    list(threads.map(work, "abcdef"))
  assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2000
  assert not warnings_seen


def test_nobody_is_told_that_pytorch_is_missing():
  script = ("import importlib.util as util; found = util.find_spec; "
            "util.find_spec = lambda name, *rest: None if name == 'torch' else found(name, *rest); "
            "import emv3_jax, transformers; assert not transformers.utils.is_torch_available()")
  done = subprocess.run([sys.executable, "-c", script], check=True, text=True, capture_output=True)
  assert "PyTorch" not in done.stdout + done.stderr
