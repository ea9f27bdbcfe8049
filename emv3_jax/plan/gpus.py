"""Descriptions of GPUs, with which XLA compiles for them on machines without a GPU."""

import dataclasses

_CONFIG = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_memory_per_core}
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: {fpus_per_core}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {l2_bytes}
  clock_rate_ghz: {clock_ghz}
  device_memory_size: {memory_bytes}
  shared_memory_per_block_optin: {shared_memory_per_block}
  cuda_compute_capability {{ major: {capability} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 8 }}
device_description_str: "{description}"
"""


@dataclasses.dataclass(frozen=True)
class GPU:
  """One kind of GPU: sizes in bytes, bandwidth in bytes per second, bfloat16 operations per second."""

  description: str
  capability: int
  cores: int
  fpus_per_core: int
  clock_ghz: float
  memory_bytes: int
  bandwidth: int
  l2_bytes: int
  shared_memory_per_core: int
  shared_memory_per_block: int
  peak_flops: float
  link_bandwidth: float


GPUS = {
    "a100": GPU("NVIDIA A100-SXM4-80GB", 8, 108, 64, 1.41, 84_987_740_160, 2_039_000_000_000,
                41_943_040, 167_936, 166_912, 312e12, 300e9),
    "h100": GPU("NVIDIA H100 80GB HBM3", 9, 132, 128, 1.98, 84_942_979_072, 3_352_320_000_000,
                52_428_800, 233_472, 232_448, 989e12, 450e9),
    "h200": GPU("NVIDIA H200", 9, 132, 128, 1.98, 150_110_011_392, 4_800_000_000_000,
                62_914_560, 233_472, 232_448, 989e12, 450e9),
}


def target_config(name: str) -> str:
  """Returns the GpuTargetConfigProto in text form of a GPU in `GPUS`."""
  return _CONFIG.format(**dataclasses.asdict(GPUS[name]))
