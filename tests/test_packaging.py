"""The source archive and the wheel that is built from it: one package, whose commands work from any folder."""

import email
import importlib.util
import os
import pathlib
import pkgutil
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

import emv3_jax
from emv3_jax.runtime import command_names

ROOT = pathlib.Path(__file__).parents[1]
TINY = ROOT / "emv3_jax/assets/tiny"
DEMO = ["--face_box=" + (TINY / "face_box.txt").read_text().strip(), f"--image={TINY}/portrait.png",
        f"--audio={TINY}/speech.wav", "--prompt=" + (TINY / "prompt.txt").read_text().strip()]
QUICK = ["--config.sampling.steps=2", "--config.sampling.enlarge=1", "--seconds=0.2"]
NOT_FILES = ("build", "outputs", "runs", "data")  # at the root of a checkout; so is what begins with a dot
MEBIBYTES = 20


def tracked() -> list[str]:
  """Files of the project, by their paths; without Git all that do not look made."""
  if (ROOT / ".git").exists():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
  names = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
  made = lambda name: (name.parts[0] in NOT_FILES or name.parts[0].startswith(".")
                       or any(part == "__pycache__" or part.endswith(".egg-info") for part in name.parts))
  return [str(name) for name in names if not made(name)]


def run(*command, cwd, code=0) -> str:
  """What a command said, in an environment that names no packages of its own."""
  environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
  done = subprocess.run(command, cwd=cwd, env=environment, text=True, timeout=900,
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  assert done.returncode == code, done.stdout
  return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("packaging")


@pytest.fixture(scope="module")
def archive(folder) -> pathlib.Path:
  """The source archive, made from a copy of the project's files."""
  for name in tracked():
    (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / name, folder / "copy" / name)
  build = f"import setuptools.build_meta as build; build.build_sdist({str(folder)!r})"
  run(sys.executable, "-c", build, cwd=folder / "copy")
  return folder / f"emv3_jax-{emv3_jax.__version__}.tar.gz"


@pytest.fixture(scope="module")
def wheel(folder, archive) -> pathlib.Path:
  """The wheel, built from the source archive."""
  run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir",
      f"--wheel-dir={folder}", archive, cwd=folder)
  return folder / f"emv3_jax-{emv3_jax.__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def borrowing(folder, wheel) -> pathlib.Path:
  """Commands of an environment with the wheel, whose other packages are those of the tests."""
  environment = folder / "environment"
  run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=folder)
  run(sys.executable, "-m", "pip", f"--python={environment}", "install", "--no-deps", "--no-index", wheel, cwd=folder)
  others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
  own, = environment.glob("lib/python*/site-packages")
  (own / "borrowed.pth").write_text("\n".join(others))
  return environment / "bin"


def test_the_source_archive_has_all_files(archive):
  with tarfile.open(archive) as content:
    held = {name.partition("/")[2] for name in content.getnames()}
  assert sorted(set(tracked()) - held) == []


def test_the_wheel_is_one_package(wheel):
  with zipfile.ZipFile(wheel) as content:
    held = {name for name in content.namelist() if not name.startswith("emv3_jax-")}
    told = email.message_from_bytes(content.read(f"emv3_jax-{emv3_jax.__version__}.dist-info/METADATA"))
  inside = lambda name: name if name.startswith("emv3_jax/") else f"emv3_jax/{name}"
  assert held == {inside(name) for name in tracked() if name.startswith(("emv3_jax/", "configs/", "convert/"))}
  assert wheel.stat().st_size < MEBIBYTES * 2 ** 20
  assert told["Version"] == emv3_jax.__version__ and told["License-Expression"] == "Apache-2.0"
  assert told.get_all("License-File") == ["LICENSE", "NOTICE"]


def test_commands_are_installed(borrowing, tmp_path):
  """All of them begin; what they say names themselves and configs as they are installed."""
  code = """
import importlib.metadata, pathlib, sys
from emv3_jax.errors import InputError
found = importlib.metadata.distribution("emv3-jax").entry_points
for entry in found:
  sys.argv = [entry.name, "--help"]
  print(entry.name, pathlib.Path(sys.modules[entry.module].__file__ if entry.load() else ""))
  try:
    entry.load()()
  except SystemExit as ended:
    assert not ended.code
"""
  said = run(borrowing / "python", "-c", code, cwd=tmp_path)
  for name in ("emv3-sample", "emv3-train", "emv3-convert", "emv3-prepare"):
    assert f"{name} {borrowing.parent}/lib" in said and f"usage: {name} " in said
  assert "run_sample.py" not in said and "python -m convert" not in said and "configs/" not in said
  told = run(borrowing / "emv3-train", "--config=tiny", cwd=tmp_path, code=2)
  assert "for sampling" in told and "for emv3-sample; here one like train_tiny is wanted." in told


def clip(command, folder, *flags) -> bytes:
  run(*command, *DEMO, *flags, f"--config.program_cache={folder}/programs", f"--out={folder}/clip.mp4", cwd=folder)
  return (folder / "clip.mp4").read_bytes()


def test_the_wheel_makes_the_clip_of_the_checkout(borrowing, tmp_path):
  here = clip([sys.executable, ROOT / "run_sample.py", f"--config={ROOT}/configs/tiny.py"], tmp_path, *QUICK)
  assert clip([borrowing / "emv3-sample", "--config=tiny"], tmp_path, *QUICK) == here


@pytest.mark.slow
def test_an_empty_environment_makes_the_demo(archive, folder, tmp_path):
  """The source archive with its dependencies from the network; the checkout with the same ones beside."""
  run(sys.executable, "-m", "venv", tmp_path / "environment", cwd=tmp_path)
  commands = tmp_path / "environment/bin"
  run(commands / "pip", "install", "--quiet", archive, cwd=tmp_path)
  installed = clip([commands / "emv3-sample", "--config=tiny"], tmp_path)
  assert clip([commands / "python", ROOT / "run_sample.py", f"--config={ROOT}/configs/tiny.py"], tmp_path) == installed


def test_commands_that_are_written_down_are_there():
  """In the guides, at the heads of configs and in scripts."""
  texts = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").glob("*.py"), *(ROOT / "scripts").iterdir()]
  text = "\n".join(path.read_text() for path in texts if path.is_file())
  modules = {name.rstrip(".") for name in re.findall(r"python -m ((?:convert|emv3_jax|benchmarks|tests)[\w.]*)", text)}
  files = set(re.findall(r"(?:python |--config=)((?:scripts/|configs/)?\w+\.py)\b", text))
  commands = set(re.findall(r"\bemv3-(?!jax)\w+", text))
  of_module = lambda name: [ROOT / f"{name.replace('.', '/')}{end}" for end in (".py", "/__main__.py")]
  assert len(modules) > 4 and [name for name in modules if not any(map(pathlib.Path.is_file, of_module(name)))] == []
  assert len(files) > 8 and [name for name in files if not (ROOT / name).is_file()] == []
  assert commands <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])


def test_commands_are_written_as_they_are_called(monkeypatch, tmp_path):
  assert command_names.as_called("see emv3-sample --help") == "see python run_sample.py --help"
  assert (ROOT / command_names.config_name("tiny")).is_file()
  with monkeypatch.context() as patch:
    patch.setattr(sys, "argv", ["/environment/bin/emv3-train", "--config=tiny"])
    assert command_names.as_called("emv3-sample") == "emv3-sample" and command_names.config_name("tiny") == "tiny"
  monkeypatch.setattr(command_names, "_CHECKOUT", tmp_path / "run_sample.py")
  assert command_names.as_called("emv3-sample") == "emv3-sample" and command_names.config_name("tiny") == "tiny"


def test_only_the_folders_beside_a_checkout_become_parts_of_the_package():
  names = [module.name for module in pkgutil.walk_packages(emv3_jax.__path__, "emv3_jax.")]
  assert "emv3_jax.runtime.checkout" in names and len(names) == len(set(names)) < 1000
  assert importlib.util.find_spec("emv3_jax.configs") and importlib.util.find_spec("emv3_jax.convert.plan")
  for outside in ("tests", "emv3_jax", "benchmarks"):
    assert importlib.util.find_spec(f"emv3_jax.{outside}") is None
