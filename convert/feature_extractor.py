"""Settings of wav2vec2's feature extractor, published beside its weights."""

import pathlib

from emv3_jax.conditioning.audio import RATE
from emv3_jax.errors import InputError

from .sources import Checkpoint

FILE = "preprocessor_config.json"


def waveform_settings(checkpoint: Checkpoint) -> dict:
  """Returns `do_normalize` and `sampling_rate` of the audio encoder's feature extractor.

  Returns {} if there is no such file beside the checkpoint.

  Raises:
    InputError: the file cannot be read, or it is not for waveforms with one channel at 16 kHz.
  """
  path = pathlib.Path(checkpoint.files[0]).parent / FILE
  if not path.is_file():
    return {}
  from transformers import Wav2Vec2FeatureExtractor  # slow import, for the audio encoder only

  try:
    read = Wav2Vec2FeatureExtractor.from_pretrained(path.parent, local_files_only=True)
  except Exception as error:  # for a file that it cannot parse the library raises many kinds of error
    raise InputError(f"{path} cannot be read ({type(error).__name__}: {str(error)[:150]}).\n"
                     "Download it again, or remove it.") from error
  settings = {"do_normalize": read.do_normalize, "sampling_rate": read.sampling_rate}
  if not isinstance(read.do_normalize, bool) or (read.feature_size, read.sampling_rate) != (1, RATE):
    raise InputError(f"{path} says {settings} and feature_size {read.feature_size}; wanted are "
                     f"waveforms at {RATE} Hz (feature_size 1), normalised or not.\nGive the "
                     "checkpoint as published.")
  return settings
