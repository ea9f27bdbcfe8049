"""Executables are loaded without tracing where everything that they were made for agrees, and only there."""

import logging
import os
import pickle
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.models.network import Network
from emv3_jax.runtime import executables, kept_programs, kept_shapes, program_entries, start_up
from emv3_jax.sharding import MeshConfig, make_mesh

traced = []


def new_work():
  """Returns the function anew: JAX remembers what it traced by function."""
  def work(x, y):
    traced.append(x.shape)
    return {"sum": jnp.sin(x) @ y + 1, "kept": y * 2}

  return work


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  traced.clear()
  opened = executables.open_folder(tmp_path / "executables", True, 1 << 30)
  monkeypatch.setattr(kept_programs, "folder", opened)
  monkeypatch.setattr(kept_programs, "on_build", lambda: built.append(1))
  built.clear()
  return opened


built = []


def start(identity="a", x=(4, 3), **options):
  """Runs the program as a new process would; returns the result and the numbers of traces and compilations."""
  before = len(traced), len(built)
  ones = x if isinstance(x, np.ndarray | jax.Array) else np.ones(x, np.float32)
  made = kept_programs.jit(new_work(), identity, **options)
  got = made(ones, jnp.ones((ones.shape[1], 2)))
  return jax.device_get(got), (len(traced) - before[0], len(built) - before[1])


def files(folder):
  return sorted(folder.path.glob("*-cache"))


def test_a_second_start_neither_traces_nor_compiles(folder):
  loaded = start_up.watch().executables
  first, did = start()
  assert did == (1, 1) and len(files(folder)) == 2
  assert all(path.stat().st_mode & 0o777 == 0o600 for path in files(folder))
  assert folder.path.stat().st_mode & 0o777 == 0o700
  before = start_up.spent()["programs"]
  second, did = start()
  after = start_up.spent()["programs"]
  assert did == (0, 0) and start_up.watch().executables == loaded + 1
  assert after == {"compiled": before["compiled"], "from_cache": before["from_cache"] + 1}
  plain = jax.device_get(jax.jit(new_work())(np.ones((4, 3), np.float32), jnp.ones((3, 2))))
  for name, array in plain.items():
    np.testing.assert_array_equal(first[name], array)
    np.testing.assert_array_equal(second[name], array)


@pytest.mark.parametrize("other", [
    {"identity": "b"}, {"x": (5, 3)}, {"x": np.ones((4, 3), np.float16)}, {"keep_unused": True}, {"donate_argnums": 1}],
    ids=["config", "shape", "dtype", "option", "donation"])
def test_another_call_is_another_program(other):
  start()
  assert start(**other)[1][0] >= 1
  assert start()[1] == (0, 0)


@pytest.mark.parametrize("part, value", [
    ("_machine", lambda: {"processor": ["another"]}), ("_version", lambda package: "99.0"),
    ("os.environ", {**os.environ, "XLA_FLAGS": "--xla_another=1"})], ids=["machine", "version", "flags"])
def test_another_environment_takes_nothing(monkeypatch, part, value):
  start()
  monkeypatch.setattr(f"emv3_jax.runtime.executables.{part}", value)
  assert start()[1] == (1, 1)


def test_another_option_of_jax_takes_nothing():
  start()
  with jax.default_matmul_precision("bfloat16"):
    pass  # back before the call: the program is the same
  assert start()[1] == (0, 0)
  jax.config.update("jax_default_matmul_precision", "highest")
  try:
    assert start()[1] == (1, 1)
  finally:
    jax.config.update("jax_default_matmul_precision", None)


def test_other_code_traces_again_and_compiles_what_became_another_program(monkeypatch):
  start()
  monkeypatch.setattr(executables, "code", lambda: "other code, same program")
  assert start()[1] == (1, 0)
  assert start()[1] == (0, 0)
  monkeypatch.setattr(executables, "code", lambda: "other code, other program")
  other = new_work()
  kept_programs.jit(lambda x, y: other(x, y)["sum"] + 1, "a")(np.ones((4, 3), np.float32), jnp.ones((3, 2)))
  assert len(built) == 2


def test_the_digest_of_the_code_is_of_names_and_contents(tmp_path, monkeypatch):
  def digest(name, text):
    for path in tmp_path.glob("*.py"):
      path.unlink()
    (tmp_path / name).write_text(text)
    executables.code.cache_clear()
    return executables.code()

  monkeypatch.setattr(executables, "_PACKAGE", tmp_path)
  try:
    assert len({digest("a.py", "x"), digest("b.py", "x"), digest("a.py", "y")}) == 3
    assert digest("a.py", "x") == digest("a.py", "x")
  finally:
    executables.code.cache_clear()


@pytest.mark.parametrize("damage", [
    lambda content: b"garbage", lambda content: content[:-7], lambda content: b"",
    lambda content: content[:-1] + bytes([content[-1] ^ 1])], ids=["garbage", "cut", "empty", "flipped"])
def test_damaged_entries_are_a_warning_and_made_anew(folder, caplog, damage):
  want = start()[0]
  for path in files(folder):
    path.write_bytes(damage(path.read_bytes()))
  got, did = start()
  assert did == (1, 1) and "is damaged" in caplog.text
  np.testing.assert_array_equal(got["sum"], want["sum"])
  assert start()[1] == (0, 0), "they were replaced"


def test_an_entry_under_a_foreign_name_is_not_used(folder):
  """As of a digest that is the same, or of a file that somebody renamed."""
  start()
  content = {path: path.read_bytes() for path in files(folder)}
  start("b", (5, 3))
  ours = [path for path in files(folder) if path not in content]
  for path, foreign in zip(ours, content.values(), strict=True):
    path.write_bytes(foreign)
  got, did = start("b", (5, 3))
  assert did == (1, 1) and got["sum"].shape == (5, 2)


def test_what_can_be_read_but_not_loaded_is_compiled(folder, monkeypatch):
  start()
  def refuse(*_, **__):
    raise RuntimeError("of another release")
  monkeypatch.setattr(executables.serialize_executable, "deserialize_and_load", refuse)
  assert start()[1] == (1, 1)


def test_files_that_others_may_write_are_never_unpickled(folder, monkeypatch, caplog):
  start()
  def unpickle(*_):
    raise AssertionError("unpickled")
  monkeypatch.setattr(pickle, "loads", unpickle)
  for path in files(folder):
    path.chmod(0o666)
  assert start()[1] == (1, 1) and "is not used" in caplog.text


def test_files_of_others_are_not_used(folder, monkeypatch, caplog):
  start()
  monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
  if os.stat(folder.path).st_uid != 0:  # root's are trusted
    assert executables.open_folder(folder.path, True, 1) is None and "another user's" in caplog.text
    assert start()[1] == (1, 1)
  folder.path.chmod(0o770)
  assert executables.open_folder(folder.path, True, 1) is None


def test_a_backend_that_cannot_serialise_takes_the_path_of_jax(folder, monkeypatch, caplog):
  def refuse(_):
    raise ValueError("no serialisation here")
  monkeypatch.setattr(executables, "serialise", refuse)
  monkeypatch.setattr("absl.logging.vlog", lambda level, text, *values: logging.getLogger().warning(text, *values))
  want = start()[0]
  assert "traced at every start: no serialisation here" in caplog.text
  got, did = start()
  assert did == (1, 0), "it is known: JAX's cache has it from now on"
  np.testing.assert_array_equal(got["sum"], want["sum"])


def test_what_jax_took_from_its_cache_is_not_kept(folder, monkeypatch):
  """On CPUs such an executable has no code: it would be read without a fault, and fail when it is called."""
  real = jax.stages.Lowered.compile

  def compile_from_cache(lowered, *args):
    jax.monitoring.record_event(kept_programs._HIT)
    return real(lowered, *args)

  monkeypatch.setattr(jax.stages.Lowered, "compile", compile_from_cache)
  start()
  assert start()[1] == (1, 0) and len(files(folder)) == 1, "the call is known, and that it has no executable"


def test_a_read_only_folder_gives_and_takes_nothing_new(folder, monkeypatch):
  start()
  before = files(folder)
  monkeypatch.setattr(kept_programs, "folder", executables.open_folder(folder.path, False, 1))
  assert start()[1] == (0, 0)
  assert start("b")[0]["sum"].shape == (4, 2) and files(folder) == before


def test_writers_at_the_same_time_leave_whole_entries(folder):
  def write():
    for _ in range(20):
      folder.keep("key", b"x" * 50_000)
  def read():
    for _ in range(40):
      found.append(folder.load("key"))
  found = []
  threads = [threading.Thread(target=target) for target in (write, write, read)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert set(found) <= {None, b"x" * 50_000} and folder.load("key") and len(list(folder.path.glob("*.part"))) == 0


def test_the_limit_counts_executables(folder):
  for number in range(4):
    folder.keep(f"key {number}", bytes(1000))
    program_entries.note_use(folder._entry(f"key {number}"), number)
  small = executables.open_folder(folder.path, True, 2500)
  small.keep("key 4", bytes(1000))
  assert [number for number in range(5) if small.load(f"key {number}")] == [3, 4]
  left = folder.path / f".{'0' * 8}-cache.12345678.part"
  left.write_bytes(b"")
  os.utime(left, (1, 1))
  small.keep("key 5", b"")
  assert not left.exists()


def test_on_a_mesh_shardings_and_donation_stay(folder):
  mesh = make_mesh(MeshConfig(data=4, tensor=2))
  split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data", "tensor"))

  def run():
    made = kept_programs.jit(lambda x: traced.append(1) or x * 2 + 1, "mesh", donate_argnums=0, out_shardings=split)
    x = jax.device_put(np.arange(32, dtype=np.float32).reshape(8, 4), split)
    once = made(x)
    assert x.is_deleted() and once.sharding == split
    return np.asarray(made(once))

  first, traces = run(), len(traced)
  np.testing.assert_array_equal(run(), first)
  assert traces == len(traced) == 1
  other = make_mesh(MeshConfig(data=2, tensor=4))
  kept_programs.jit(lambda x: traced.append(1) or x * 2 + 1, "mesh", out_shardings=jax.sharding.NamedSharding(
      other, split.spec))(np.ones((8, 4), np.float32))
  assert len(traced) == 2


def test_under_a_transformation_it_is_the_function():
  made = kept_programs.jit(lambda x: x ** 2, "square")
  assert jax.grad(lambda x: made(x).sum())(jnp.full(3, 2.0)).tolist() == [4, 4, 4]


def test_a_known_network_is_not_built(folder):
  built_networks = []

  def network():
    def make(rngs):
      built_networks.append(1)
      return nnx.Linear(3, 2, rngs=rngs)
    return Network(make)

  from flax import nnx
  want = kept_shapes.recall(network(), "linear").abstract
  assert built_networks == [1]
  got = kept_shapes.recall(network(), "linear")
  assert got.abstract == want and built_networks == [1]
  kept_shapes.recall(network(), "another")
  assert built_networks == [1, 1]
  assert got.bind(jax.tree.map(lambda leaf: np.ones(leaf.shape), want))(np.ones(3)).shape == (2,)
