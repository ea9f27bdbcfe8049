"""Media are one file each: what a file names is not opened, whatever the file itself is called."""

import contextlib
import os
import socket
import threading

import numpy as np
from PIL import Image
import pytest
import soundfile

from emv3_jax.errors import InputError
from emv3_jax.io.audio_files import read_audio
from emv3_jax.io.containers import open_container
from emv3_jax.io.image_files import load_image
from emv3_jax.io.video_files import read_video, write_video

HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile {}\n"
DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"
 profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period duration="PT1S"><AdaptationSet>
<Representation id="0" mimeType="video/mp4" bandwidth="1"><BaseURL>{}</BaseURL><SegmentBase/>
</Representation></AdaptationSet></Period></MPD>"""
NAMES = ["take-10:30{}", "http:{}", "a[1]?*{}", "100%{}", "a%03d{}", "concat:a|b{}", "-{}", "'\"é 你好{}",
         b"\xff\xe9{}"]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
  """A folder with `good.mp4`: pictures and sound."""
  folder = tmp_path_factory.mktemp("good")
  tone = 0.1 * np.sin(np.arange(6400) / 7).astype(np.float32)
  write_video(folder / "good.mp4", np.full((10, 32, 32, 3), 99, np.uint8), audio=(tone, 16000))
  return folder


def both(path, match):
  for read in (read_audio, read_video):
    with pytest.raises(InputError, match=match) as caught:
      read(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", [HLS, CONCAT, DASH], ids=["hls", "concat", "dash"])
@pytest.mark.parametrize("ending", [".mp4", ".m3u8", ".wav"])
def test_playlists_of_good_files_are_refused(good, text, ending):
  path = good / ("list" + ending)
  path.write_text(text.format("good.mp4"))
  both(path, "is a playlist")


@pytest.mark.parametrize("text", [HLS, CONCAT, DASH, "{}\n"], ids=["hls", "concat", "dash", "plain"])
@pytest.mark.parametrize("ending", [".mp4", ".m3u8"])
def test_no_address_is_asked(good, text, ending):
  asked = []

  def answer(server):
    with contextlib.suppress(OSError):
      while True:
        connection, address = server.accept()
        asked.append(address)
        connection.close()

  with socket.create_server(("127.0.0.1", 0)) as server:
    server.settimeout(0.2)
    thread = threading.Thread(target=answer, args=(server,))
    thread.start()
    path = good / ("address" + ending)
    path.write_text(text.format(f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"))
    for read in (read_audio, read_video):
      with pytest.raises(InputError, match="is a playlist|cannot be decoded"):
        read(path)
    thread.join()
  assert not asked


def test_formats_that_a_text_can_hide_from_the_look_at_its_head_are_refused_too(good):
  """Comments before the first directive, longer than what is looked at for the message."""
  path = good / "hidden.mp4"
  path.write_text("#" * 9000 + "\n" + CONCAT.format("good.mp4"))
  with pytest.raises(InputError, match="cannot be decoded|playlist"):
    read_video(path)


def test_a_name_is_no_pattern_of_names(tmp_path, rng):
  for number in range(3):
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / f"a{number}.png")
  Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a%d.png")
  with pytest.raises(InputError, match="only: a still picture"):
    read_video(tmp_path / "a%d.png")
  assert not load_image(tmp_path / "a%d.png").any()


def named(folder, name, ending):
  """bytes or str `name` with an ending, as a path in `folder`."""
  if isinstance(name, bytes):
    return os.fsdecode(os.fsencode(folder) + b"/" + name.replace(b"{}", ending.encode()))
  return os.path.join(folder, name.format(ending))


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_mean_nothing(tmp_path, monkeypatch, name):
  """Written and read by relative paths, where a colon could end the name of a protocol."""
  monkeypatch.chdir(tmp_path)
  sound, film, still = (named(".", name, ending)[2:] for ending in (".wav", ".mp4", ".png"))
  with open(sound, "wb") as file:
    soundfile.write(file, np.zeros(4000), 16000, format="WAV")
  assert len(read_audio(sound)[0]) == 4000
  write_video(film, np.zeros((2, 32, 32, 3), np.uint8))
  assert len(read_video(film).frames) == 2
  with open(still, "wb") as file:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file, "png")
  assert load_image(still).shape == (16, 16, 3)


@pytest.mark.parametrize("kind", ["Audio", "Video"])
def test_folders_and_missing_files(tmp_path, kind):
  for path, match in ((tmp_path, "is a folder"), (tmp_path / "none.mp4", "no such file"),
                      ("/dev/null", "not a regular file")):
    with pytest.raises(InputError, match=f"{kind} .*{match}"), open_container(path, kind):
      pass


@pytest.mark.parametrize("ending", ["txt", "nfo", "mp4"])
def test_text_is_no_video(tmp_path, ending):
  (tmp_path / f"a.{ending}").write_text("hello\n" * 50)
  with pytest.raises(InputError, match="cannot be decoded"):
    read_video(tmp_path / f"a.{ending}")
