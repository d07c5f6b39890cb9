include tests/unit/local.mk
include tests/export/local.mk
include tests/infer/local.mk
include tests/jax/local.mk
include tests/cuda/local.mk
include tests/mount/local.mk
include tests/fuzz/local.mk
