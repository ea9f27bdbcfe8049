"""What pyproject.toml has no words for: a wheel carries configs/ and convert/ as parts of emv3_jax."""

from setuptools import find_packages, setup

BESIDE = ("configs", "convert")

setup(
    packages=[*find_packages(include=["emv3_jax", "emv3_jax.*"]), *(f"emv3_jax.{name}" for name in BESIDE)],
    package_dir={f"emv3_jax.{name}": name for name in BESIDE})
