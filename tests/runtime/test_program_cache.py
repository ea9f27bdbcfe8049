"""A second start takes its programs from the disk, whatever happened to the folder in between."""

import os

import jax
from jax.experimental.compilation_cache import compilation_cache
import jax.numpy as jnp
import pytest

from emv3_jax.errors import InputError
from emv3_jax.runtime import program_cache, program_entries, start_up


@pytest.fixture(autouse=True)
def restored():
  names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs",
           "jax_persistent_cache_min_entry_size_bytes", "jax_compilation_cache_max_size")
  before = {name: getattr(jax.config, name) for name in names}
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def start(folder) -> tuple[int, int]:
  """Runs a program as a new process would; the numbers compiled and found."""
  program_cache.use(folder)
  jax.clear_caches()
  before = start_up.spent()["programs"]
  x = jnp.ones((7, 5))
  got = jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x).T + 42.25)(x)
  assert got[0, 0] == pytest.approx(42.25 + 5 * 0.8414710 * 0.5403023)
  after = start_up.spent()["programs"]
  return after["compiled"] - before["compiled"], after["from_cache"] - before["from_cache"]


def entries(folder):
  return sorted(folder.rglob("*-cache"))


def test_a_second_start_does_not_compile(tmp_path, caplog):
  compiled, found = start(tmp_path)
  assert compiled >= 1 and found == 0 and len(entries(tmp_path)) == compiled
  assert start(tmp_path) == (0, compiled)
  assert not caplog.text


def test_building_is_told_of_what_is_compiled_only(tmp_path, monkeypatch):
  missed, announcer = [], program_cache._announcer()
  monkeypatch.setattr(announcer, "on_miss", lambda: missed.append(start_up.work))
  compiled, _ = start(tmp_path)
  assert len(missed) == compiled
  assert start(tmp_path) == (0, compiled) and len(missed) == compiled


@pytest.mark.parametrize("damage", [
    lambda entry: entry.write_bytes(b"garbage"),
    lambda entry: entry.write_bytes(entry.read_bytes()[:-7]),
    lambda entry: entry.write_bytes(b"\x00" + entry.read_bytes()[1:]),
    lambda entry: entry.with_name(entry.name + ".sum").unlink(),  # killed before it was finished
], ids=["garbage", "cut", "flipped", "unfinished"])
def test_damaged_entries_are_one_warning_and_compiled_again(tmp_path, caplog, recwarn, damage):
  compiled, _ = start(tmp_path)
  for entry in entries(tmp_path):
    damage(entry)
  assert start(tmp_path) == (compiled, 0)
  assert len(caplog.records) == 1 and f"{compiled} of {compiled} programs were" in caplog.text
  assert start(tmp_path) == (0, compiled), "they were replaced"
  assert not recwarn.list


def test_a_start_reads_no_entry_that_is_as_it_was(tmp_path, monkeypatch):
  compiled, _ = start(tmp_path)
  read, checksum = [], program_entries._checksum
  monkeypatch.setattr(program_entries, "_checksum", lambda entry: read.append(entry) or checksum(entry))
  assert start(tmp_path) == (0, compiled) and not read
  for entry in entries(tmp_path):  # as after a copy, or from a version without times
    os.utime(entry, (1, 1))
  program_cache.use(tmp_path)
  assert read[::2] == entries(tmp_path), "read to compare, and to seal again"
  read.clear()
  program_cache.use(tmp_path)
  assert not read


MIB = 1 << 20


def filled(folder, sizes: dict[str, int]) -> None:
  """Entries of these sizes in MiB, the first the longest unused."""
  for number, (name, size) in enumerate(sizes.items()):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size * MIB))
    program_entries.seal(path)
    if number % 2:  # the others have none, as from versions without a limit
      program_entries._used_of(path).write_bytes(number.to_bytes(8, "little"))
    else:
      os.utime(path, ns=(number, number))
      program_entries.seal(path)


def test_the_longest_unused_entries_of_all_versions_make_room_at_the_start(tmp_path):
  filled(tmp_path, {"old/a-cache": 1, "new/b-cache": 1, "old/c-cache": 2, "new/d-cache": 1})
  program_cache.use(tmp_path, limit_mib=3)
  kept = {path.name for path in tmp_path.glob("???/*")}
  assert kept == {"c-cache", "c-cache.sum", "c-atime", "d-cache", "d-cache.sum", "d-atime"}


def test_programs_of_a_run_make_room_and_what_is_used_stays(tmp_path):
  def run(number):
    program_cache.use(tmp_path)
    jax.clear_caches()
    jax.jit(lambda x: x * number)(jnp.ones(3)).block_until_ready()
    return set(entries(tmp_path))

  first = run(1.5)
  second = run(2.5) - first
  assert second
  run(1.5)  # is used again
  jax.config.update("jax_compilation_cache_max_size", sum(
      entry.stat().st_size for entry in entries(tmp_path)))
  compilation_cache.reset_cache()
  jax.jit(lambda x: x / 3.5)(jnp.ones(3)).block_until_ready()
  assert not second <= set(entries(tmp_path)) and first & set(entries(tmp_path))


def test_the_limit_is_jax_s_too(tmp_path):
  program_cache.use(tmp_path, limit_mib=7)
  assert jax.config.jax_compilation_cache_max_size == 7 * MIB


def test_other_versions_and_machines_have_folders_of_their_own(tmp_path, monkeypatch):
  start(tmp_path)
  monkeypatch.setattr(jax, "__version__", "99.0")
  program_cache.use(tmp_path)
  assert len(list(tmp_path.glob("jax-*"))) == len(list(tmp_path.glob("executables-*"))) == 2


@pytest.mark.parametrize("required", [False, True])
def test_a_file_where_the_folder_should_be(tmp_path, caplog, required):
  folder = tmp_path / "programs"
  folder.write_text("")
  if required:
    with pytest.raises(InputError, match="programs cannot be used .*--config.program_cache=DIR"):
      program_cache.use(folder, required=True)
  else:
    assert not program_cache.use(folder)
    assert len(caplog.records) == 1 and "every start compiles" in caplog.text
  assert folder.read_text() == ""


def test_a_read_only_folder_is_read_from(tmp_path, caplog, monkeypatch):
  compiled, _ = start(tmp_path)
  _make_read_only(monkeypatch)
  assert start(tmp_path) == (0, compiled)
  assert len(caplog.records) == 1 and "read-only" in caplog.text
  before = entries(tmp_path)
  jax.jit(lambda x: x * 3 - 1)(jnp.ones(3))
  assert entries(tmp_path) == before
  caplog.clear()
  before[0].write_bytes(b"garbage")
  assert not program_cache.use(tmp_path)
  assert len(caplog.records) == 1 and "are damaged" in caplog.text


def test_a_read_only_folder_without_programs_is_no_cache(tmp_path, caplog, monkeypatch):
  _make_read_only(monkeypatch)
  assert not program_cache.use(tmp_path)
  assert "Permission denied); every start compiles" in caplog.text


def _make_read_only(monkeypatch):
  """As the file system would for others than root."""
  def touch(path):
    raise PermissionError(13, "Permission denied")
  monkeypatch.setattr(program_cache.pathlib.Path, "touch", touch)


def test_no_folder_is_no_cache():
  assert not program_cache.use("", required=True)


def nobody(monkeypatch):
  """Of whom no home folder is known, as of a container's user without HOME."""
  monkeypatch.delenv("HOME")
  monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)


def test_without_a_home_folder_nothing_is_kept(monkeypatch, caplog):
  nobody(monkeypatch)
  assert not program_cache.use("~/programs")
  assert "this user has none; set HOME" in caplog.text and "every start compiles" in caplog.text
  with pytest.raises(InputError, match="set HOME, or name another folder.*--config.program_cache=DIR"):
    program_cache.use("~/programs", required=True)
