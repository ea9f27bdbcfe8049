"""Prompts: umT5 tokenizer, and a cache of embeddings on disk."""

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
  import tokenizers

MAX_LENGTH = 512
PAD_ID = 0
END = "</s>"
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")  # the first one that exists is read
CACHE_BYTES = 2 << 30
_STALE_SECONDS = 3600  # age at which a temporary file counts as abandoned
_SHOWN_CHARACTERS = 100  # at each end of the truncated text in a warning


class Tokenizer:
  """The tokenizer of umT5: no cleaning of the text, `</s>` at the end, padding with id 0.

  Args:
    tokenizer: of the library tokenizers.
  """

  def __init__(self, tokenizer: "tokenizers.Tokenizer"):
    tokenizer.no_padding()
    tokenizer.no_truncation()
    self._tokenizer = tokenizer
    self._end_id = tokenizer.token_to_id(END)

  @classmethod
  def load(cls, path: str | os.PathLike) -> "Tokenizer":
    """Reads a tokenizer from a folder as published for umT5, or from its file (see `tokenizer_file`).

    Raises:
      InputError: the file is missing or damaged, or has no token `</s>`.
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
    """Writes the tokenizer as a `tokenizer.json`.

    Raises:
      OSError: the file cannot be written.
    """
    text = self._tokenizer.to_str(pretty=True)
    pathlib.Path(file).write_text(text, encoding="utf-8")

  def tokenize(self, prompts: Sequence[str], length: int = MAX_LENGTH
               ) -> tuple[Int32[np.ndarray, "b m"], Bool[np.ndarray, "b m"]]:
    """Tokenizes prompts to ids and an attention mask, True for the prompt's tokens, `</s>` included.

    An empty prompt gives only `</s>`. A prompt of more than `length` tokens is truncated to its first
    `length - 1` tokens and `</s>`; a warning shows the rest.
    """
    ids = np.full((len(prompts), length), PAD_ID, np.int32)
    counts = np.zeros(len(prompts), np.int32)
    for row, prompt in enumerate(prompts):
      encoding = self._tokenizer.encode(prompt, add_special_tokens=False)
      tokens = [*encoding.ids[:length - 1], self._end_id]
      if len(encoding.ids) >= length:
        rest = prompt[encoding.offsets[length - 1][0]:].strip()
        if len(rest) > 2 * _SHOWN_CHARACTERS:
          rest = f"{rest[:_SHOWN_CHARACTERS]} ... {rest[-_SHOWN_CHARACTERS:]}"
        logging.warning("Prompt of %d tokens is cut to %d, %s included. Not used: %r",
                        len(encoding.ids) + 1, length, END, rest)
      ids[row, :len(tokens)] = tokens
      counts[row] = len(tokens)
    return ids, np.arange(length) < counts[:, None]


def tokenizer_file(path: str | os.PathLike) -> pathlib.Path:
  """Returns the file of a tokenizer: `path`, or in the folder `path` tokenizer.json, else spiece.model.

  If the folder has neither, the result is the missing tokenizer.json.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    return path
  found = [path / name for name in TOKENIZER_FILES if (path / name).is_file()]
  return found[0] if found else path / TOKENIZER_FILES[0]


def _from_json(file: pathlib.Path) -> "tokenizers.Tokenizer":
  from tokenizers import Tokenizer as JsonTokenizer  # imported here: needed only for prompts

  return JsonTokenizer.from_file(str(file))


def _from_sentencepiece(file: pathlib.Path) -> "tokenizers.Tokenizer":
  from transformers import (
    T5Tokenizer,  # takes a second to import, which tokenizer.json does not need
  )

  # A published tokenizer_config.json lists extra tokens. Without it there are only those of the file.
  extra: dict[str, Any] = {} if (file.parent / "tokenizer_config.json").is_file() else {"extra_ids": 0}
  return T5Tokenizer.from_pretrained(file.parent, vocab_file=str(file), local_files_only=True,
                                     **extra).backend_tokenizer


class PromptCache:
  """A cache of prompt embeddings in a folder, one file each, named by a digest of all they depend on.

  If the folder is not writable, one warning is logged and nothing is cached; a damaged file counts as
  missing, with a warning. Files are written atomically, so that several processes may share a folder.
  Beyond its size limit the least recently used entries are removed, whichever encoder they belong to.

  Args:
    folder: created when the first embedding is written.
    encoder_digest: identifies the text encoder's weights and all else that embeddings depend on besides
      prompt and precision (config, tokenizer, length).
    precision: name of the dtypes of the encoder.
    limit: maximal size of all entries in bytes.
  """

  def __init__(self, folder: str | os.PathLike, encoder_digest: str, precision: str,
               limit: int = CACHE_BYTES):
    self._folder = pathlib.Path(folder)
    self._encoder = (encoder_digest, precision)
    self._limit = limit
    self._writable = True

  def file(self, prompt: str) -> pathlib.Path:
    """Returns the path of the embedding of `prompt`, whether it exists or not."""
    parts = [hashlib.sha256(part.encode()).digest() for part in (*self._encoder, prompt)]
    return self._folder / f"{hashlib.sha256(b''.join(parts)).hexdigest()}.safetensors"

  def get(self, prompt: str) -> np.ndarray | None:
    """Reads the embedding [m, dim] of `prompt` in its stored dtype; None if there is none."""
    file = self.file(prompt)
    try:
      if not file.exists():
        return None
      with safe_open(file, "np") as content:
        embedding = content.get_tensor("embedding")
        intact = (content.metadata() or {}).get("sha256") == _digest(embedding)
    except FileNotFoundError:  # removed by another process
      return None
    except (OSError, SafetensorError) as error:
      logging.warning("Prompt cache: %s cannot be read (%s); computing it again.", file, error)
      return None
    if not intact:
      logging.warning("Prompt cache: %s is damaged; computing it again.", file)
      return None
    with contextlib.suppress(OSError):  # owned by another user, or removed
      os.utime(file)  # the entries with the oldest times are removed first
    return embedding

  def put(self, prompt: str, embedding: np.ndarray) -> None:
    """Writes the embedding [m, dim] of `prompt`."""
    if not self._writable:
      return
    embedding = np.ascontiguousarray(embedding)
    content = save({"embedding": embedding}, {"sha256": _digest(embedding)})
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      with atomic_file(self.file(prompt)) as temporary:
        temporary.write_bytes(content)
      self._evict()
    except (OSError, InputError) as error:
      self._writable = False
      logging.warning("Prompt cache: %s Prompts are not cached.", error)

  def _evict(self) -> None:
    """Removes entries, the least recently used first, until the folder is within its limit."""
    entries, now = [], time.time()
    for path in self._folder.glob("*.safetensors"):
      with contextlib.suppress(FileNotFoundError):  # other processes remove entries too
        status = path.stat()
        unfinished = path.name.startswith(".")  # of a process that is writing, or was killed
        if not unfinished or status.st_mtime < now - _STALE_SECONDS:
          entries.append((0 if unfinished else status.st_mtime_ns, status.st_size, path))
    size = sum(size for _, size, _ in entries)
    for _, freed, path in sorted(entries):
      if size <= self._limit:
        break
      with contextlib.suppress(OSError):  # already removed, or owned by another user
        path.unlink()
      size -= freed


def _digest(array: np.ndarray) -> str:
  return hashlib.sha256(array.tobytes()).hexdigest()
