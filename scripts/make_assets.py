"""Makes everything under emv3_jax/assets that is not trained.

    apt-get install espeak-ng
    python scripts/make_assets.py

Speaks every sentence of `speech/index.json` (add or change rows there; `frames` is filled in here)
and makes the small default's portrait, voice, prompt, face box and tokenizer under `tiny/`. Written
with espeak-ng 1.51; another version may speak a little differently.
"""

import argparse
import collections
import io
import json
import math
import pathlib
import re
import subprocess
import sys
import wave

import av
import numpy as np
from PIL import Image
from tokenizers import (
  Tokenizer,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

from emv3_jax.geometry import RATE
from emv3_jax.io.resampling import resample
from emv3_jax.puppets import world
from emv3_jax.puppets.world import backdrop, clips, identities, mp4, palette, sentences, wardrobe
from emv3_jax.puppets.world.sentences import SAMPLES_PER_FRAME, SPEECH_DIR
from emv3_jax.puppets.world.voice import level

TINY_DIR = SPEECH_DIR.parent / "tiny"
BIT_RATE = 24_000
TOKENS = 512

DEFAULT_CLIP = clips.ClipSpec(
  seed=5, identity=identities.BY_NAME["Iris"], clothes="teal", garment="hoodie", background="sand",
  pattern="dotted", fingers=3, hand_side=1, gesture="waves", sentence="enus_f3_4", start=-3,
  frames=65)

GENERAL_WORDS = """
a an the of and to in is it that was for on with as at by be this from or are not no have one two
three four five six man woman girl boy person people child face head eyes eye mouth lips teeth hand
hands fingers finger arm smile smiling speak speaking talk talking say sing singing look looking
camera front behind left right room wall light dark window door tree sky background video portrait
close up down still moving motion slow slowly gently quick quickly natural clear sharp blurred low
bright colours color colors red yellow white pink purple wearing dressed dress hat sad happy calm
young old bad good worst best quality static overexposed distorted deformed extra missing subtitles
style picture image painting drawing frame scene gesture gestures wave waving nod nodding shake
shaking raise lift lifting tilt tilting show showing his her its their he she they who very
"""
PIECES = """
ing ed er ly ion tion es al en re in un de st th ch sh ou ea ee oo ar or an on at it is ro ri li la le
ness ment able ful less ist est pre con com per ver ter der ber ck nd nt ng ll ss tt pp bb
"""
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"-()&/"


def speak(row: dict) -> np.ndarray:
  """A row of the index, spoken and levelled: [n] float32 at 16 kHz."""
  command = ["espeak-ng", "-v", row["voice"], "-s", str(row["words_per_minute"]),
             "-p", str(row["pitch"]), "--stdout", row["text"]]
  spoken = subprocess.run(command, check=True, capture_output=True).stdout
  with wave.open(io.BytesIO(spoken)) as file:
    samples = np.frombuffer(spoken[44:], "<i2") / 32768
    return level(resample(samples, file.getframerate(), RATE), RATE)


def write_opus(path: pathlib.Path, samples: np.ndarray) -> None:
  """Writes one channel [n] of 16 kHz sound as Ogg Opus, 24 kbit a second."""
  with av.open(str(path), "w", format="ogg", options={"fflags": "+bitexact"}) as container:
    stream = container.add_stream("libopus", rate=RATE, layout="mono", bit_rate=BIT_RATE)
    stream.options = {"application": "audio", "vbr": "on"}
    frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), "flt", "mono")
    frame.sample_rate = RATE
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def make_speech() -> None:
  """Speaks the whole index and notes each sentence's length in it."""
  index = SPEECH_DIR / "index.json"
  rows = json.loads(index.read_text(encoding="utf-8"))
  for old in SPEECH_DIR.glob("*.opus"):
    old.unlink()
  for row in rows:
    samples = speak(row)
    row["frames"] = math.ceil(len(samples) / SAMPLES_PER_FRAME)
    write_opus(SPEECH_DIR / f"{row['name']}.opus", samples)
  lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
  index.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def make_default() -> None:
  """The tiny default's inputs: a held-out puppet that is about to say a held-out sentence."""
  still = world.render_clip(DEFAULT_CLIP)
  if still.truth.opening[0] > 0:
    raise SystemExit("the default portrait's mouth is open: choose another sentence")
  Image.fromarray(still.frames[0]).save(TINY_DIR / "portrait.png", optimize=True)
  samples = np.clip(np.rint(still.audio * 32767), -32768, 32767).astype("<i2")
  with wave.open(str(TINY_DIR / "speech.wav"), "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(RATE)
    file.writeframes(samples.tobytes())
  (TINY_DIR / "prompt.txt").write_text(still.caption + "\n")
  (TINY_DIR / "face_box.txt").write_text(mp4.box_around(still.truth.face_box) + "\n")


def caption_words() -> collections.Counter:
  """How often each word occurs in two thousand captions, all parts of all captions included."""
  told = [world.caption(world.clip_spec(0, i, split))
          for split in ("train", "held_out") for i in range(1000)]
  tables = (palette.CLOTHES, palette.BACKGROUND, palette.HAIR, wardrobe.GARMENTS,
            backdrop.PATTERNS, clips.GESTURES, clips.FLAWS)
  told += [part for table in tables for part in table]
  return collections.Counter(re.findall("[a-z]+", " ".join(told).lower()))


def make_tokenizer() -> None:
  """A unigram tokenizer of at most 512 pieces that behaves like umT5's, in lower case.

  Words of captions and general words are pieces of their own, other words fall into syllables and
  letters; what is none of these is <unk>.
  """
  words = caption_words() + collections.Counter(GENERAL_WORDS.split())
  total = sum(words.values())
  pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
  pieces += [(f"▁{word}", math.log(count / total)) for word, count in words.most_common()]
  pieces += [(piece, -12.0) for piece in PIECES.split()]
  pieces += [(character, -14.0) for character in "▁" + CHARACTERS]
  if len(pieces) > TOKENS:
    raise SystemExit(f"{len(pieces)} pieces, at most {TOKENS} are wanted: take general words out")
  tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
  tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
  tokenizer.decoder = decoders.Metaspace()
  tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
  tokenizer.post_processor = processors.TemplateProcessing(
    single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
  tokenizer.save(str(TINY_DIR / "tokenizer.json"))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--only", choices=("speech", "default", "tokenizer"), action="append")
  wanted = parser.parse_args().only or ("speech", "default", "tokenizer")
  TINY_DIR.mkdir(parents=True, exist_ok=True)
  if "speech" in wanted:
    make_speech()
    sentences.sentences.cache_clear()
    sentences.sentence.cache_clear()
  if "default" in wanted:
    make_default()
  if "tokenizer" in wanted:
    make_tokenizer()


if __name__ == "__main__":
  sys.exit(main())
