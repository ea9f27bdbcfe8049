"""Prompts: umT5 tokens, and a cache of their embeddings on disk."""

from collections.abc import Sequence
import contextlib
import hashlib
import os
import pathlib
import time
import typing
from typing import Any

from absl import logging
from jaxtyping import Bool, Int32
import ml_dtypes  # noqa: F401  registers bfloat16 with numpy before safetensors reads it
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from emv3_jax.errors import InputError
from emv3_jax.io.atomic import atomic_file

if typing.TYPE_CHECKING:
  import transformers

MAX_LENGTH = 512
PAD_ID = 0
END = "</s>"
FILES = ("tokenizer.json", "spiece.model")  # of a tokenizer; the first that is there is read
CACHE_BYTES = 2 << 30
_LEFT_OVER = 3600  # seconds after which a temporary file is nobody's
_SHOWN = 100  # characters at either end of what was cut


class Tokenizer:
  """umT5's way of tokenising: no cleaning of the text, `</s>` at the end, padded with id 0.

  Args:
    tokenizer: of the library transformers, with a backend that knows where a token came from.
  """

  def __init__(self, tokenizer: "transformers.PreTrainedTokenizerFast"):
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    self._tokenizer = tokenizer
    self._end_id = tokenizer.backend_tokenizer.token_to_id(END)

  @classmethod
  def load(cls, path: str | os.PathLike) -> "Tokenizer":
    """Reads a tokenizer: a folder as umT5's is published, or its file (see `tokenizer_file`).

    Raises:
      InputError: missing, damaged, or without `</s>`.
    """
    file = tokenizer_file(path)
    try:
      file.open("rb").close()
      tokenizer = cls(_from_json(file) if file.suffix == ".json" else _from_sentencepiece(file))
    except OSError as error:
      raise InputError(f"Tokenizer {file}: {error.strerror or error}; the file tokenizer.json of "
                       "umT5 is needed, or its spiece.model.") from None
    except Exception as error:  # the library raises nothing narrower for a file it cannot parse
      raise InputError(f"Tokenizer {file} is damaged or of another kind: {error}.") from None
    if tokenizer._end_id is None:
      raise InputError(f"Tokenizer {file} has no token {END}; wanted one of the T5 family.")
    return tokenizer

  def save(self, file: str | os.PathLike) -> None:
    """Writes all that it is as a `tokenizer.json`.

    Raises:
      OSError: it cannot be written.
    """
    text = self._tokenizer.backend_tokenizer.to_str(pretty=True)
    pathlib.Path(file).write_text(text, encoding="utf-8")

  def tokenize(self, prompts: Sequence[str], length: int = MAX_LENGTH
               ) -> tuple[Int32[np.ndarray, "b m"], Bool[np.ndarray, "b m"]]:
    """Token ids and which of them are the prompt's, `</s>` included.

    An empty prompt is `</s>` alone. A prompt of more than `length` tokens keeps its first
    `length - 1` and `</s>`; a warning says what was cut.
    """
    ids = np.full((len(prompts), length), PAD_ID, np.int32)
    counts = np.zeros(len(prompts), np.int32)
    for row, prompt in enumerate(prompts):
      encoding = self._tokenizer(prompt, add_special_tokens=False, return_attention_mask=False,
                                 return_offsets_mapping=True, verbose=False)
      tokens = [*encoding["input_ids"][:length - 1], self._end_id]
      if len(encoding["input_ids"]) >= length:
        rest = prompt[encoding["offset_mapping"][length - 1][0]:].strip()
        if len(rest) > 2 * _SHOWN:
          rest = f"{rest[:_SHOWN]} ... {rest[-_SHOWN:]}"
        logging.warning("Prompt of %d tokens is cut to %d, %s included. Not used: %r",
                        len(encoding["input_ids"]) + 1, length, END, rest)
      ids[row, :len(tokens)] = tokens
      counts[row] = len(tokens)
    return ids, np.arange(length) < counts[:, None]


def tokenizer_file(path: str | os.PathLike) -> pathlib.Path:
  """The file that holds a tokenizer: `path`, or, in the folder `path`, tokenizer.json, else
  spiece.model. Where there is neither it is the former, which is missing then."""
  path = pathlib.Path(path)
  if not path.is_dir():
    return path
  found = [path / name for name in FILES if (path / name).is_file()]
  return found[0] if found else path / FILES[0]


def _from_json(file: pathlib.Path) -> "transformers.PreTrainedTokenizerFast":
  from transformers import PreTrainedTokenizerFast  # here: half a second, for prompts alone

  return PreTrainedTokenizerFast(tokenizer_file=str(file))


def _from_sentencepiece(file: pathlib.Path) -> "transformers.PreTrainedTokenizerFast":
  from transformers import T5Tokenizer

  # Published beside it: which further tokens there are. Else they are those of the file.
  extra: dict[str, Any] = {} if (file.parent / "tokenizer_config.json").is_file() else {"extra_ids": 0}
  return T5Tokenizer.from_pretrained(file.parent, vocab_file=str(file), local_files_only=True, **extra)


class PromptCache:
  """Embeddings of prompts in a folder, one file each, named by what determines the content.

  Where the folder cannot be written a warning says so once and nothing is cached; a damaged file
  counts as missing, with a warning. Files appear whole or not at all, so that several processes
  may share a folder. Where it grows beyond its limit it loses what was not used for longest,
  whichever encoder it was of.

  Args:
    folder: made when the first embedding is kept.
    encoder_digest: identifies the text encoder's weights and whatever else the embedding depends on
      besides prompt and precision (config, tokenizer, length).
    precision: name of the dtypes that the encoder ran in.
    limit: bytes that all entries of the folder may take.
  """

  def __init__(self, folder: str | os.PathLike, encoder_digest: str, precision: str,
               limit: int = CACHE_BYTES):
    self._folder = pathlib.Path(folder)
    self._encoder = (encoder_digest, precision)
    self._limit = limit
    self._writable = True

  def file(self, prompt: str) -> pathlib.Path:
    """Where the embedding of `prompt` is or would be."""
    parts = [hashlib.sha256(part.encode()).digest() for part in (*self._encoder, prompt)]
    return self._folder / f"{hashlib.sha256(b''.join(parts)).hexdigest()}.safetensors"

  def get(self, prompt: str) -> np.ndarray | None:
    """The embedding [m, dim] of `prompt` in the dtype it was kept in, None where there is none."""
    file = self.file(prompt)
    try:
      if not file.exists():
        return None
      with safe_open(file, "np") as content:
        embedding = content.get_tensor("embedding")
        intact = (content.metadata() or {}).get("sha256") == _digest(embedding)
    except FileNotFoundError:  # another process made room
      return None
    except (OSError, SafetensorError) as error:
      logging.warning("Prompt cache: %s cannot be read (%s); computing it again.", file, error)
      return None
    if not intact:
      logging.warning("Prompt cache: %s is damaged; computing it again.", file)
      return None
    with contextlib.suppress(OSError):  # of somebody else, or gone
      os.utime(file)  # entries are lost in the order of these times
    return embedding

  def put(self, prompt: str, embedding: np.ndarray) -> None:
    """Keeps the embedding [m, dim] of `prompt`."""
    if not self._writable:
      return
    embedding = np.ascontiguousarray(embedding)
    content = save({"embedding": embedding}, {"sha256": _digest(embedding)})
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      with atomic_file(self.file(prompt)) as temporary:
        temporary.write_bytes(content)
      self._make_room()
    except (OSError, InputError) as error:
      self._writable = False
      logging.warning("Prompt cache: %s Prompts are not cached.", error)

  def _make_room(self) -> None:
    """Removes entries, the longest unused first, until the folder keeps to its limit."""
    entries, now = [], time.time()
    for path in self._folder.glob("*.safetensors"):
      with contextlib.suppress(FileNotFoundError):  # other processes make room too
        status = path.stat()
        unfinished = path.name.startswith(".")  # of a process that writes, or was killed
        if not unfinished or status.st_mtime < now - _LEFT_OVER:
          entries.append((0 if unfinished else status.st_mtime_ns, status.st_size, path))
    size = sum(size for _, size, _ in entries)
    for _, freed, path in sorted(entries):
      if size <= self._limit:
        break
      with contextlib.suppress(OSError):  # gone, or of a user whose files must stay
        path.unlink()
      size -= freed


def _digest(array: np.ndarray) -> str:
  return hashlib.sha256(array.tobytes()).hexdigest()
