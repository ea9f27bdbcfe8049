"""A second start takes its programs from the disk."""

import jax
import jax.numpy as jnp
import pytest

from emv3_jax import program_cache


@pytest.fixture
def restored():
  names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs",
           "jax_persistent_cache_min_entry_size_bytes")
  before = {name: getattr(jax.config, name) for name in names}
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  jax.experimental.compilation_cache.compilation_cache.reset_cache()


def test_programs_are_kept_and_found_again(tmp_path, restored, monkeypatch):
  assert program_cache.use(tmp_path / "programs")
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.experimental.compilation_cache.compilation_cache.reset_cache()
  hits = []
  jax.monitoring.register_event_listener(
      lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None)
  step = lambda x: jnp.sin(x) @ jnp.cos(x).T + 42.25
  first = jax.jit(step)(jnp.ones((7, 5)))
  assert any((tmp_path / "programs").iterdir())
  hits.clear()
  jax.clear_caches()
  second = jax.jit(step)(jnp.ones((7, 5)))
  assert hits and (first == second).all()


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path, caplog):
  (tmp_path / "file").write_text("")
  assert not program_cache.use(tmp_path / "file" / "programs")
  assert "every start compiles" in caplog.text
  assert not program_cache.use("")
