"""Configs at the door: overrides, strict dataclasses, the nearest name in every complaint."""

import dataclasses
import json
import pathlib

import ml_collections
import pytest

from emv3_jax.errors import InputError
from emv3_jax.preparation.__main__ import read_settings
from emv3_jax.runtime import command_line
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.settings import Config
from emv3_jax.training import settings as training

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("[!_]*.py"))
SAMPLING = [path for path in CONFIGS if not path.stem.startswith(("train", "prepare"))]
PREPARE = [path for path in CONFIGS if path.stem.startswith("prepare")]


@dataclasses.dataclass(frozen=True)
class Inner:
  steps: int = 25
  shift: float = 5.0
  sizes: tuple[int, ...] = (1, 2)
  name: str | None = None


@dataclasses.dataclass(frozen=True)
class Outer:
  inner: Inner
  on: bool = False


def config():
  return ml_collections.ConfigDict({"inner": dataclasses.asdict(Inner()), "on": False})


@pytest.mark.parametrize("path", SAMPLING, ids=lambda path: path.stem)
def test_every_config_file_builds(path):
  built = config_lib.build(Config, config_lib.read_config_file(path))
  assert built.name == path.stem
  hash(built)


@pytest.mark.parametrize("path", PREPARE, ids=lambda path: path.stem)
def test_every_config_of_preparation_builds(path):
  _, networks, settings = read_settings(str(path), ["prepare.stride=16", "prepare.sizes.0.1=96"])
  assert networks is not None and settings.stride == 16 and settings.sizes[0][1] == 96


def test_overrides_take_the_type_of_what_they_replace():
  values = config()
  config_lib.override(values, ["inner.steps=8", "inner.shift=3", "inner.sizes=[4,5,6]", "on=true"], Outer)
  built = config_lib.build(Outer, values)
  assert built == Outer(Inner(8, 3.0, (4, 5, 6)), True)
  assert type(built.inner.shift) is float


@pytest.mark.parametrize("assignment, said", [
    ("inner.step=8", "did you mean 'steps'"),
    ("iner.steps=8", "did you mean 'inner'"),
    ("inner.steps=8.5", "expected a value like 25 (int)"),
    ("inner.steps=many", "expected a value like 25 (int)"),
    ("on=7", "expected a value like False (bool)"),
    ("inner=3", "group of fields"),
    ("inner.steps", "has no value"),
    ("inner.steps.x=1", "no field 'x'"),
])
def test_wrong_overrides_are_named(assignment, said):
  with pytest.raises(InputError, match=None) as caught:
    config_lib.override(config(), [assignment], Outer)
  assert said in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Listed:
  stages: tuple[Inner, ...] = ()
  sizes: tuple[tuple[int, int], ...] = ((480, 832), (832, 480))


def listed():
  """The second of two entries leaves fields out, as a config file may."""
  return ml_collections.ConfigDict({
      "stages": (dataclasses.asdict(Inner(name="base")), {"steps": 3, "name": "all"}),
      "sizes": Listed().sizes})


def test_entries_of_lists_are_overridden():
  values = listed()
  config_lib.override(values, ["stages.0.steps=8", "stages.1.steps=9", "stages.1.sizes.0=7", "sizes.1.0=16"],
                      Listed)
  assert config_lib.build(Listed, values) == Listed(
      (Inner(8, name="base"), Inner(9, name="all", sizes=(7, 2))), ((480, 832), (16, 480)))


def test_a_field_that_an_entry_leaves_out_has_its_type():
  values = listed()
  config_lib.override(values, ["stages.1.shift=3"], Listed)
  found = config_lib.build(Listed, values).stages[1].shift
  assert found == 3.0 and type(found) is float


@pytest.mark.parametrize("assignment, said", [
    ("stages.2.steps=8", "config.stages has no entry '2'; its entries are 0 (base), 1 (all)."),
    ("stages.-1.steps=8", "config.stages has no entry '-1'; its entries are 0 (base), 1 (all)."),
    ("stages.bas.steps=8", "config.stages has no entry 'bas'; did you mean 0 (base)?"),
    ("stages.1.step=8", "config.stages.1 has no field 'step'; did you mean 'steps'?"),
    ("stages.1.shift=many", "expected a value like 5.0 (float)"),
    ("stages.0.steps=1.5", "--config.stages.0.steps=1.5: expected a value like 25 (int)"),
    ("stages.0=8", "stages.0 is a group of fields; set one of: steps, shift, sizes, name"),
    ("sizes.2.0=8", "config.sizes has no entry '2'; its entries are 0 ((480, 832)), 1 ((832, 480))."),
    ("sizes.0.0.x=8", "config.sizes.0.0 has no field 'x'"),
])
def test_wrong_entries_are_named(assignment, said):
  with pytest.raises(InputError) as caught:
    config_lib.override(listed(), [assignment], Listed)
  assert said in str(caught.value)
  with pytest.raises(InputError, match="config.stages has no entry '0'; it is empty"):
    config_lib.override(ml_collections.ConfigDict({"stages": ()}), ["stages.0.steps=1"], Listed)


def test_origins_of_entries_are_shown(capsys):
  overrides = ["stages.1.steps=9", "sizes.0.0=16"]
  values = listed()
  config_lib.override(values, overrides, Listed)
  command_line.print_config(values.to_dict(), dataclasses.asdict(Listed()), overrides)
  origins = json.loads(capsys.readouterr().out)["origins"]
  assert origins == {**{f"stages.0.{name}": "config" for name in ("steps", "shift", "sizes", "name")},
                     "stages.1.steps": "command line", "stages.1.name": "config", "sizes": "command line"}
  command_line.print_config(values.to_dict(), {}, ["stages=({'steps': 1},)"])
  assert json.loads(capsys.readouterr().out)["origins"]["stages.0.name"] == "command line"
  command_line.print_config(values.to_dict(), {}, [], {"stages": "preset mine"})
  assert {value for name, value in json.loads(capsys.readouterr().out)["origins"].items()
          if name.startswith("stages")} == {"preset mine"}


@pytest.mark.parametrize("values, said", [
    ({"inner": {"stepz": 1}}, "did you mean 'steps'"),
    ({"inner": {"steps": "8"}}, "config.inner.steps is '8'; expected int"),
    ({"inner": {"sizes": 3}}, "expected a list"),
    ({"inner": 3}, "expected a group"),
    ({}, "config.inner is missing"),
])
def test_wrong_values_are_named(values, said):
  with pytest.raises(InputError) as caught:
    config_lib.build(Outer, values)
  assert said in str(caught.value)


def test_config_file_that_is_none(tmp_path):
  with pytest.raises(InputError, match="absent.py is not a file"):
    config_lib.read_config_file(tmp_path / "absent.py")
  (tmp_path / "empty.py").write_text("x = 1\n")
  with pytest.raises(InputError, match="no get_config"):
    config_lib.read_config_file(tmp_path / "empty.py")
  (tmp_path / "broken.py").write_text("def get_config(:\n")
  with pytest.raises(InputError, match="does not parse"):
    config_lib.read_config_file(tmp_path / "broken.py")


def test_differences_name_the_path():
  left, right = Outer(Inner()), Outer(Inner(steps=8, sizes=(1, 3)), True)
  assert config_lib.differences(left, left) == []
  assert config_lib.differences(dataclasses.asdict(left), left) == []
  found = config_lib.differences(left, right)
  assert [line.split(":")[0] for line in found] == ["inner.sizes", "inner.steps", "on"]


def test_false_is_an_override_too():
  values = config()
  for text, want in (("True", True), ("false", False), ("1", True), ("0", False)):
    config_lib.override(values, [f"on={text}"], Outer)
    assert values.on is want


def test_a_group_may_be_built_already():
  inner = Inner(steps=3)
  assert config_lib.build(Outer, {"inner": inner}).inner is inner


def test_tuples_of_fixed_length_are_counted():
  @dataclasses.dataclass(frozen=True)
  class Size:
    sides: tuple[int, int]

  assert config_lib.build(Size, {"sides": [1, 2]}) == Size((1, 2))
  with pytest.raises(InputError, match="sides has 3 values; expected 2"):
    config_lib.build(Size, {"sides": [1, 2, 3]})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_has_a_bare_name(path, tmp_path, monkeypatch):
  """From any folder, and read from any other place too."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "mine.py").write_bytes(path.read_bytes())
  there, named, copied = map(config_lib.read_config_file, (path, path.stem, "mine.py"))
  assert there.to_json() == named.to_json() == copied.to_json()


def test_an_unknown_name_is_told_the_shipped_ones():
  with pytest.raises(InputError, match="tini is not a file.* shipped configs; these are: echomimic_v3_flash, "
                     "echomimic_v3_preview, prepare_tiny, tiny, train_.*"):
    config_lib.read_config_file("tini")


@pytest.mark.parametrize("content, said", [
    ("import nothing_of_this_name\n", "line 1, ends in ModuleNotFoundError: No module named"),
    ("def get_config():\n  return 1 / 0\n", "line 2, ends in ZeroDivisionError: division by zero"),
    ("raise SystemExit(3)\n", "line 1, ends in SystemExit: 3"),
    ("def get_config():\n  raise ValueError('a\\n' * 900)\n", "line 2, ends in ValueError: a a a"),
    ("def get_config():\n  return {}\n", "gives dict; an ml_collections.ConfigDict is wanted"),
    ("get_config = 3\n", "has no get_config"),
    ("x = 1\0\n", "a.py"),
    ("x = '\udcff'\n", "a.py does not parse"),
])
def test_a_config_file_that_raises_is_told_in_a_line(tmp_path, content, said):
  (tmp_path / "a.py").write_bytes(content.encode(errors="surrogateescape"))
  with pytest.raises(InputError) as caught:
    config_lib.read_config_file(tmp_path / "a.py")
  assert said in str(caught.value) and "\n" not in str(caught.value)
  assert len(str(caught.value)) < 300 + len(str(tmp_path)) + 100


def test_a_config_file_that_cannot_be_read(tmp_path, monkeypatch):
  def refuse(*_):
    raise PermissionError(13, "Permission denied", str(tmp_path / "a.py"))

  (tmp_path / "a.py").write_text("")
  monkeypatch.setattr("importlib.machinery.SourceFileLoader.get_data", refuse)
  with pytest.raises(InputError, match="a.py cannot be read .Permission denied"):
    config_lib.read_config_file(tmp_path / "a.py")


@pytest.mark.parametrize("name, cls, said", [
    ("train_tiny", Config, "for training .* for python run_train.py; here one like configs/tiny.py"),
    ("prepare_tiny", Config, "for preparation .*; here one like configs/tiny.py"),
    ("tiny", training.Config, "for sampling .* run_sample.py; here one like configs/train_tiny.py"),
])
def test_a_config_of_another_kind_is_told_by_its_kind(name, cls, said):
  with pytest.raises(InputError, match=said):
    command_line.read_config(f"configs/{name}.py", ["unknown.field=1"], cls)
  with pytest.raises(InputError, match="for training"):
    read_settings("configs/train_tiny.py", [])
