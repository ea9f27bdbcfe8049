"""Long clips of the small default: a minute in every mode, and the memory of ten minutes."""

import json
import subprocess
import sys

import numpy as np
import pytest

from configs.tiny import ASSETS
from emv3_jax.io import audio_files, video_files
from emv3_jax.puppets.judging import long_clips
from emv3_jax.puppets.judging.samples import write_wav

pytestmark = pytest.mark.slow

# What `run_sample.py` does, and the greatest memory that the process had, in MiB.
RUN = """
import resource, sys
from emv3_jax.commands import sample
code = sample.main(sys.argv[1:])
print("MIB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
sys.exit(code)
"""


def run(sound, out, *flags: str) -> float:
  """Makes a clip in a process of its own; returns its peak memory in MiB."""
  done = subprocess.run(
      [sys.executable, "-c", RUN, "--config=configs/tiny.py", f"--audio={sound}", f"--image={ASSETS / 'portrait.png'}",
       f"--face_box={(ASSETS / 'face_box.txt').read_text().strip()}", f"--prompt={(ASSETS / 'prompt.txt').read_text().strip()}",
       f"--out={out}", "--report", *flags],
      capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-2000:]
  return float(done.stdout.rpartition("MIB ")[2])


@pytest.mark.parametrize("mode", ["blended", "paper", "paper_literal", "released", "chunked"])
def test_a_minute(tmp_path, record_property, mode):
  write_wav(tmp_path / "sound.wav", long_clips.voice(1500, seed=0)[0])
  record_property("peak_mib", run(tmp_path / "sound.wav", tmp_path / "clip.mp4", "--config.sampling.steps=2",
                                  "--config.sampling.enlarge=1", f"--config.sampling.long.mode={mode}"))
  assert sum(1 for _ in video_files.stream_video(tmp_path / "clip.mp4")) == 1500
  samples, rate = audio_files.read_audio(tmp_path / "clip.mp4")
  assert len(samples) / rate == pytest.approx(60, abs=1e-3)
  found = json.loads((tmp_path / "clip.curves.json").read_text())
  for name in ("largest_seam", "sharpness_ratio", "colour_drift"):
    record_property(name, found[name])
  assert found["largest_seam"] < 4 and 0.8 < found["sharpness_ratio"] < 1.25


def test_memory_does_not_grow_with_length(tmp_path, record_property):
  """Of ten minutes at most a fifth more than of one."""
  sound, peaks = long_clips.voice(1500, seed=0)[0], []
  for minutes in (1, 10):
    write_wav(tmp_path / f"{minutes}.wav", np.tile(sound, minutes))
    peaks.append(run(tmp_path / f"{minutes}.wav", tmp_path / f"{minutes}.mp4", "--config.sampling.steps=1",
                     "--config.sampling.enlarge=1"))
    record_property(f"peak_mib_{minutes}_min", peaks[-1])
    assert sum(1 for _ in video_files.stream_video(tmp_path / f"{minutes}.mp4")) == 1500 * minutes
  assert peaks[1] <= 1.2 * peaks[0], peaks
