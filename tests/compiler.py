"""How programs of tests are compiled: most of their time is compilation."""

import jax

# Three to four times quicker than by default; numbers differ by rounding.
QUICK: dict[str, int | bool] = {
    "xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
if jax.__version_info__ < (0, 11, 1):  # later ones have no other emitters, and do not know the option
  QUICK["xla_cpu_use_fusion_emitters"] = False
QUICK_FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICK.items())
