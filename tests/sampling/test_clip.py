"""Clips of all four tasks and both variants through the tiny networks, and what is written."""

import dataclasses
import json
import pathlib
import types

import av
import jax
import numpy as np
from PIL import Image
import pytest

import emv3_jax
from emv3_jax.components.config import COMPONENTS
from emv3_jax.errors import InputError
from emv3_jax.io import checkpoints, video_files
from emv3_jax.io.model_card import ComponentCard, ModelCard
from emv3_jax.models import wav2vec2_pieces
from emv3_jax.sampling import clip as clip_lib
from emv3_jax.sampling import fingerprint, output
from emv3_jax.sampling import inputs as inputs_lib
from emv3_jax.sampling.clip import encode_text, sample
from emv3_jax.sampling.model import load
from emv3_jax.sampling.settings import Request
from tests.io.metadata import metadata_of
from tests.sampling.conftest import tiny_config

BOX = "8,40,8,40"


def i2v(files, **changes) -> Request:
  values = {"audio": files["audio"], "image": files["image"], "prompt": "a puppet is talking",
            "face_box": BOX, **changes}
  return Request(**values)


def test_clip_has_as_many_frames_as_the_voice(model, files):
  seen = []
  clip = sample(model, i2v(files), progress=lambda steps: seen.append(list(steps)) or seen[-1])
  assert clip.frames.shape == (5, 48, 48, 3) and clip.frames.dtype == np.uint8
  assert clip.latents.shape == (2, 6, 6, 16) and np.isfinite(clip.latents).all()
  assert clip.frames.std() > 5
  assert seen == [[0, 1]]
  json.dumps(clip.report)
  assert set(clip.report["seconds"]) == {
      "inputs", "text_encoder", "audio_encoder", "image_encoder", "vae_encode", "transformer",
      "vae_decode"}


def test_seed_voice_prompt_and_picture_all_matter(model, files):
  first = sample(model, i2v(files)).latents
  again = sample(model, i2v(files)).latents
  assert np.array_equal(first, again)
  for change in ({"seed": 7}, {"prompt": "something else"}, {"image": files["last_image"]},
                 {"face_box": "none"}, {"negative_prompt": "blurry"}):
    other = sample(model, i2v(files, **change)).latents
    assert np.abs(other - first).max() > 1e-3, change


def test_prompts_are_encoded_without_most_of_their_padding(files, monkeypatch):
  long = load(config=tiny_config("model.transformer.text_tokens=512"))
  found = inputs_lib.read_inputs(i2v(files), long.config, long.tokenizer_path)
  short = encode_text(long, found)
  monkeypatch.setattr(clip_lib, "LENGTH_STEP", 512)
  padded = encode_text(long, found)
  assert short["prompt"].shape == (1, 512, 64)
  for name in short:
    np.testing.assert_allclose(short[name], padded[name], atol=1e-5)


def test_the_checkpoint_says_whether_the_waveform_is_normalised(model, files, monkeypatch):
  usual = clip_lib.read(model, i2v(files))[0].waveform
  audio = ComponentCard({}, "float32", features={"do_normalize": False})
  monkeypatch.setattr(model, "card", ModelCard(files["audio"].parent, None, {"audio_encoder": audio}))
  plain = clip_lib.read(model, i2v(files))[0].waveform
  voice = plain[:3200]
  assert not plain[3200:].any() and voice.std() < 0.5
  np.testing.assert_allclose(usual[:3200], (voice - voice.mean()) / voice.std(), atol=1e-4)


def test_states_of_padding_are_zeros(model, files):
  found = inputs_lib.read_inputs(i2v(files), model.config, model.tokenizer_path)
  states = encode_text(model, found)
  for name, prompt in found.prompts.items():
    _, (mask,) = found.tokenizer.tokenize([prompt], states[name].shape[1])
    assert 0 < mask.sum() < len(mask)
    assert not states[name][0, ~mask].any() and states[name][0, mask].any(-1).all()


def test_equal_prompts_are_encoded_once(model, files, monkeypatch):
  seen = []
  dim = model.config.model.transformer.text_dim
  monkeypatch.setattr(model, "encode_tokens", lambda ids, mask: (
      seen.append(len(ids)), np.arange(1, len(ids) + 1, dtype=np.float32)[:, None, None] + np.zeros((*ids.shape, dim)))[1])
  request = i2v(files, negative_prompt="a puppet is talking")
  states = encode_text(model, inputs_lib.read_inputs(request, model.config, model.tokenizer_path))
  assert seen == [1] and states.keys() == {"prompt", "negative"}
  np.testing.assert_array_equal(states["prompt"], states["negative"])
  assert states["prompt"].any()


def test_embeddings_are_kept_by_tokenizer_and_encoder(tmp_path):
  def file(text, **changes):
    (tmp_path / "tokenizer.json").write_text(text)
    config = dataclasses.replace(tiny_config(), prompt_cache=str(tmp_path / "cache"),
                                 tokenizer=str(tmp_path / "tokenizer.json"), **changes)
    return clip_lib.open_cache(load(config=config)).file("hello").name

  text = pathlib.Path(tiny_config().tokenizer).read_text()
  assert file(text) == file(text)
  assert len({file(text), file(text + "\n"), file(text, seed=1)}) == 3


def test_surplus_frames_are_dropped(model, files):
  clip = sample(model, i2v(files, seconds=0.17))  # 4.25 frames: five, sampled as five
  assert len(clip.frames) == 5
  clip = sample(model, i2v(files, seconds=0.16))  # four frames, sampled as five
  assert len(clip.frames) == 4 and clip.latents.shape[0] == 2
  with model.parameters("vae") as params:
    whole = model.vae_decode(params, clip.latents[None])[0]
  np.testing.assert_allclose(clip.frames.astype(int), whole[:4].astype(int), atol=1)  # rounding at a half
  assert len(clip.sound[0]) == 2560 and np.abs(clip.sound[0]).max() > 0.2


def test_first_and_last_frame(files):
  config = tiny_config()
  request = i2v(files, task="flf2v", last_image=files["last_image"], seconds=0.16)
  found = inputs_lib.read_inputs(request, config, config.tokenizer)
  assert found.condition_mask.tolist() == [True, False, False, True, True], "held over the surplus frame"
  assert np.array_equal(found.video.pixels(3, 4), found.video.pixels(4, 5))
  assert found.frames == 4 and found.sample_frames == 5


def test_a_clip_is_one_line_to_read(model):
  frames = np.zeros((65, 64, 48, 3), np.uint8)
  clip = clip_lib.Clip(frames, 25, (np.zeros((41600, 2), np.float32), 16000), frames, {"a": frames})
  assert repr(clip) == "Clip(65 frames of 48x64 at 25 a second, 2.60 s of sound at 16000 Hz)"


def test_text_to_video(model, files):
  config = dataclasses.replace(model.config.sampling, height=48, width=48)
  sized = load(config=dataclasses.replace(model.config, sampling=config))
  clip = sample(sized, Request(audio=files["audio"], task="t2v", prompt="a puppet"))
  assert clip.frames.shape == (5, 48, 48, 3)
  with pytest.raises(InputError, match="sampling.height"):
    sample(model, Request(audio=files["audio"], task="t2v"))


def test_lipsync_keeps_every_pixel_outside_the_mouth(model, files, tmp_path):
  frames = np.kron(np.random.default_rng(1).integers(0, 256, (6, 6, 6, 1), np.uint8),
                   np.ones((1, 8, 8, 3), np.uint8))
  video_files.write_video(tmp_path / "source.mp4", frames)
  source = video_files.read_video(tmp_path / "source.mp4").frames[:5]
  request = Request(audio=files["audio"], video=tmp_path / "source.mp4", task="lipsync",
                    face_box="0,48,8,40")
  clip = sample(model, request)
  outside = np.ones((48, 48), bool)
  outside[24:48, 8:40] = False
  assert np.array_equal(clip.frames[:, outside], source[:, outside])
  assert np.abs(clip.frames[:, 32:40, 16:32].astype(int) - source[:, 32:40, 16:32]).mean() > 5
  raw = sample(model, dataclasses.replace(request, paste=False))
  assert np.abs(raw.frames[:, outside].astype(int) - source[:, outside]).mean() > 5
  with pytest.raises(InputError, match="--seconds=0.24"):
    sample(model, dataclasses.replace(request, audio=_longer_voice(tmp_path)))


def _longer_voice(folder):
  import soundfile
  path = folder / "long.wav"
  soundfile.write(path, np.zeros(16000), 16000)
  return path


def test_flash(files):
  flash = load(config=tiny_config(
      "model.transformer.variant=flash", "model.transformer.audio_layers=2",
      "model.transformer.audio_hidden=32"))
  clip = sample(flash, i2v(files, face_box=None))  # flash has no face mask: nothing to detect
  assert clip.frames.shape == (5, 48, 48, 3) and np.isfinite(clip.latents).all()


def test_model_folder_gives_the_same_clip(model, files, tmp_path):
  for name in COMPONENTS:
    with model.parameters(name) as params:
      checkpoints.save_component(
          tmp_path / "model", name, jax.device_get(params),
          config=dataclasses.asdict(getattr(model.config.model, name)), variant="preview")
  config = dataclasses.replace(model.config, keep_parts=False,
                               prompt_cache=str(tmp_path / "cache"))
  from_folder = load(tmp_path / "model", config)
  expected = sample(model, i2v(files)).latents
  got = sample(from_folder, i2v(files)).latents
  np.testing.assert_allclose(got, expected, atol=1e-4)
  assert len(list((tmp_path / "cache").iterdir())) == 2, "prompt and negative prompt"
  (tmp_path / "model/text_encoder").rename(tmp_path / "gone")
  with pytest.raises(InputError, match="text_encoder"):
    load(tmp_path / "model", config)


def test_the_public_api(files, tmp_path):
  config = tiny_config()
  request = emv3_jax.Request(audio=files["audio"], image=files["image"], face_box="none")
  clip = emv3_jax.sample(emv3_jax.load("untrained", config), request)
  emv3_jax.write(clip, str(tmp_path / "clip.mp4"))
  assert (tmp_path / "clip.mp4").stat().st_size > 1000
  with pytest.raises(emv3_jax.InputError, match="does not exist"):
    emv3_jax.load(tmp_path / "absent")


def test_checkpoint_of_another_model_names_the_fields(model, tmp_path):
  name = "transformer"
  checkpoints.save_component(
      tmp_path / "model", name, model.network(name).untrained(0), variant="preview",
      config=dataclasses.asdict(model.config.model.transformer))
  wrong = tiny_config("model.transformer.variant=flash")
  with pytest.raises(InputError, match="variant: 'preview' != 'flash'"):
    load(tmp_path / "model", wrong)


def test_written_video_is_whole_and_says_what_it_is(model, files, tmp_path):
  clip = sample(model, i2v(files, seed=9))
  video = output.check_video_path(tmp_path / "deep/clip.mp4")
  output.write(clip, video, save_latents=True)
  assert sorted(path.name for path in video.parent.iterdir()) == [
      "clip.json", "clip.latents.npy", "clip.mp4"]
  assert np.array_equal(np.load(tmp_path / "deep/clip.latents.npy"), clip.latents)
  metadata = metadata_of(video)
  assert metadata["synthetic"] is True and metadata["seed"] == 9 and metadata["model"] == "tiny"
  report = json.loads((tmp_path / "deep/clip.json").read_text())
  assert report["seed"] == 9 and report["versions"]["jax"] and report["config"]["name"] == "tiny"
  with av.open(str(video)) as container:
    assert container.streams.video[0].codec_context.name == "h264"
    assert container.streams.audio[0].codec_context.name == "aac"
    assert container.streams.video[0].average_rate == 25


@pytest.mark.parametrize("changes, said", [
    ({"task": "i2vv"}, "Unknown task"),
    ({"image": None}, "needs image"),
    ({"video": "x.mp4"}, "does not use video"),
    ({"seconds": -1.0}, "not a length of time"),
    ({"seconds": 0.1}, "too short"),
    ({"audio": "absent.wav"}, "no such file"),
    ({"image": "absent.png"}, "absent.png"),
    ({"face_box": "40,8,8,40"}, "reversed"),
    ({"face_box": "8,400,8,40"}, "outside"),
    ({"seed": -1}, "seed"),
])
def test_wrong_requests_are_named_before_a_network_is_loaded(model, files, changes, said,
                                                            monkeypatch):
  monkeypatch.setattr(type(model), "parameters", None)
  monkeypatch.setattr(type(model), "encode_tokens", None)
  with pytest.raises(InputError) as caught:
    sample(model, i2v(files, **changes))
  assert said in str(caught.value)


def test_no_face_is_an_error(files, tmp_path):
  Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save(tmp_path / "grey.png")
  config = tiny_config()
  with pytest.raises(InputError, match="No face found"):
    inputs_lib.read_inputs(i2v(files, image=tmp_path / "grey.png", face_box="auto"), config,
                           config.tokenizer)


def test_where_a_puppet_has_its_face_is_told(model, files, tmp_path):
  """In a picture of the size that the small default writes, and in the middle of a wide one."""
  for name, size, box in (("a", (384, 384), "96,300,66,318"), ("b", (128, 64), "16,50,43,85")):
    Image.new("RGB", size, "grey").save(tmp_path / f"{name}.png")
    with pytest.raises(InputError, match=f"No face found in the image of (?s:.)*--face_box={box}\\."):
      sample(model, i2v(files, image=tmp_path / f"{name}.png", face_box="auto"))
  named = types.SimpleNamespace(config=dataclasses.replace(model.config, name="mine"))
  assert type(model).face_box_hint(named, (64, 64)) == ""


def test_a_puppet_needs_no_face_box(model, files, tmp_path, monkeypatch):
  """Detectors know no drawings: without a box the small default takes the whole picture, and says so."""
  lines = []
  monkeypatch.setattr(clip_lib.logging, "warning", lambda text, *values: lines.append(text % values))
  Image.new("RGB", (48, 48), "grey").save(tmp_path / "grey.png")
  request = i2v(files, image=tmp_path / "grey.png", face_box=None)
  free = sample(model, request)
  assert any("The voice acts on the whole picture" in line and "--face_box=" in line for line in lines)
  assert free.report["request"]["face_box"] == "none"
  np.testing.assert_array_equal(free.frames, sample(model, dataclasses.replace(request, face_box="none")).frames)
  assert free.report["fingerprint"] == fingerprint.provenance(model, request)["fingerprint"]


def test_audio_longer_than_the_window_is_never_cut_silently(files):
  config = tiny_config("sampling.max_frames=1")
  with pytest.raises(InputError, match="A window of 1 frames is too short"):
    sample(load(config=config), i2v(files))


def test_a_long_voice_is_encoded_in_pieces(model, monkeypatch):
  """With the numbers of the network at once, and a line where it is too long for that."""
  told, samples = [], np.random.default_rng(0).standard_normal((1, 32_000), np.float32)
  monkeypatch.setattr("emv3_jax.components.networks.logging.warning", lambda text, *values: told.append(text % values))
  with model.parameters("audio_encoder") as params:
    whole = model.encode_audio(params, samples)
    monkeypatch.setattr(wav2vec2_pieces, "PIECE", 60)
    assert np.abs(model.encode_audio(params, samples) - whole).max() < 1e-5 * np.abs(whole).max()
    assert not told
    monkeypatch.setattr(wav2vec2_pieces.Wav2Vec2Pieces, "is_exact", lambda *_: False)
    model.encode_audio(params, samples)
  assert len(told) == 1 and "minutes on either side" in told[0]
