"""Detection of the kind of a file from its first bytes, independent of its name."""

import pathlib
import re

from emv3_jax.errors import InputError

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
WEIGHT_SUFFIXES = SAFETENSORS_SUFFIXES + PICKLE_SUFFIXES
# Suffixes of unfinished downloads, or of files that a downloader keeps beside them.
UNFINISHED_SUFFIXES = (".incomplete", ".part", ".partial", ".crdownload", ".download", ".aria2", ".tmp")

_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\s[^\0]*?size (\d+)")
_PICKLES = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_OTHER_FORMATS = (
    (b"GGUF", "is a GGUF file, whose quantised weights are not read.\n"
     "Give the checkpoint as safetensors in bfloat16, float16 or float32."),
    (b"\x00\x05\x16\x07", "is a metadata file of macOS for the file without `._`, not weights.\n"
     "Give that file."),
    (b"\x1f\x8b", "is an archive (gzip), not a checkpoint.\nUnpack it first."),
    (b"7z\xbc\xaf", "is an archive (7z), not a checkpoint.\nUnpack it first."),
    (b"\xfd7zXZ", "is an archive (xz), not a checkpoint.\nUnpack it first."),
    (b"\x89HDF", "is an HDF5 file, as TensorFlow writes them.\n"
     "Give the PyTorch or safetensors file of the same model."),
)


def ending(file: pathlib.PurePath) -> str:
  """Returns the last suffix of a name in lower case: `.pth` for `.PTH`."""
  return file.suffix.lower()


def is_safetensors(file: pathlib.Path) -> bool:
  """Returns whether a weight file is safetensors (else a pickle), by content, or by name if that is unclear.

  Raises:
    InputError: the file is of another kind, is an unfinished download, or has an unknown suffix.
    OSError: the file cannot be read.
  """
  if ending(file) in UNFINISHED_SUFFIXES:
    raise InputError(f"{file} is a download that was not finished.\nDownload it again.")
  unfinished = next((beside for added in UNFINISHED_SUFFIXES
                     if (beside := file.with_name(file.name + added)).exists()), None)
  if unfinished and unfinished.suffix == ".aria2":  # other downloaders write the data to the second file
    raise InputError(f"{file} is still being downloaded: {unfinished.name} is beside it.\n"
                     "Wait for the end of the download, or continue it.")
  if ending(file) not in WEIGHT_SUFFIXES:
    raise InputError(f"{file}: unknown kind of file {file.suffix!r}; wanted "
                     f"{', '.join(WEIGHT_SUFFIXES)}.")
  with file.open("rb") as content:
    start = content.read(512)
  pointer = _POINTER.match(start)
  if pointer:
    raise InputError(f"{file} is a Git LFS pointer ({file.stat().st_size} bytes of text), not the "
                     f"weights ({int(pointer.group(1)):,} bytes).\n"
                     "Fetch them: git lfs pull in its repository, or download the file itself.")
  for magic, what in _OTHER_FORMATS:
    if start.startswith(magic):
      raise InputError(f"{file} {what}")
  if start[8:9] == b"{" and start[5:8] == b"\0\0\0":
    return True
  if start.startswith((b"PK\x03\x04", *_PICKLES)):
    if ending(file) in SAFETENSORS_SUFFIXES:
      raise InputError(f"{file} is a PyTorch file (a pickle), though its name says safetensors.\n"
                       "Rename it to .pth, so that it is read as one.")
    return False
  if len(start) > 8 and _is_text(start):
    shown = start.decode(errors="replace").strip().splitlines() or [""]
    raise InputError(f"{file} is text, not weights: it begins with {shown[0][:60]!r}.\n"
                     "A web page or a link was saved instead; download it again.")
  return ending(file) in SAFETENSORS_SUFFIXES


def _is_text(start: bytes) -> bool:
  return all(byte >= 0x20 or byte in b"\t\r\n\f" for byte in start) and start.isascii()
