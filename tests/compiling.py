"""How XLA compiles in tests: tiny models spend their time in the compiler, which need not optimise them."""

from __future__ import annotations

QUICK = (
    "--xla_backend_optimization_level=0"
    # The older code of fusions compiles in half the time; users have the newer.
    " --xla_cpu_use_fusion_emitters=false"
    # Tests have a worker for each core.
    " --xla_cpu_parallel_codegen_split_count=1"
)
