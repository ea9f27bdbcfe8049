"""The inputs of the small default, as shipped."""

import pathlib
import wave

import numpy as np
from PIL import Image
import pytest
from tokenizers import Tokenizer

import emv3_jax
from emv3_jax.puppets import world
from emv3_jax.puppets.world import readers
from emv3_jax.puppets.world.voice import mouth_curve

TINY = pathlib.Path(emv3_jax.__file__).parent / "assets" / "tiny"


@pytest.fixture(scope="module")
def tokenizer():
  return Tokenizer.from_file(str(TINY / "tokenizer.json"))


def test_portrait_is_a_held_out_puppet_with_its_mouth_shut():
  portrait = np.asarray(Image.open(TINY / "portrait.png"))[None]
  reading = readers.read(portrait)
  assert reading.identity in {identity.name for identity in world.HELD_OUT}
  assert reading.opening == 0 and reading.flaw == ""
  prompt = (TINY / "prompt.txt").read_text()
  for word in (reading.clothes, reading.background, reading.pattern):
    assert word in prompt


def test_face_box_holds_the_mouth():
  top, bottom, left, right = map(int, (TINY / "face_box.txt").read_text().split(","))
  assert 0 <= top < 30 < 46 < bottom <= 64 and 0 <= left < 20 < 44 < right <= 64


def test_voice_is_16_khz_and_moves_a_mouth():
  with wave.open(str(TINY / "speech.wav")) as file:
    assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
    samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
  assert 2 < len(samples) / 16000 < 3 and len(samples) % 640 == 0
  curve = mouth_curve(samples, 16000, len(samples) // 640)
  assert curve[0] == 0 and curve.std() > 0.15


def test_tokenizer_has_umt5s_conventions(tokenizer):
  assert tokenizer.get_vocab_size() <= 512
  assert [tokenizer.token_to_id(token) for token in ("<pad>", "</s>", "<unk>")] == [0, 1, 2]
  assert tokenizer.encode("").ids == [1]
  assert tokenizer.encode("A Puppet waves.").ids == tokenizer.encode("a puppet\nwaves.").ids
  assert tokenizer.encode("puppet").ids[-1] == 1


def test_captions_are_made_of_known_words(tokenizer):
  for split in ("train", "held_out"):
    for index in range(200):
      told = world.caption(world.clip_spec(5, index, split))
      ids = tokenizer.encode(told).ids
      assert 2 not in ids and len(ids) <= 64
      assert tokenizer.decode(ids) == told.lower()


def test_other_words_are_spelt_and_other_letters_unknown(tokenizer):
  ids = tokenizer.encode("zebras juggling").ids
  assert 2 not in ids and tokenizer.decode(ids) == "zebras juggling"
  assert 2 in tokenizer.encode("日本").ids
