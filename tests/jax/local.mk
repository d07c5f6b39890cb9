# The Python package and the kernels behind it. They want jax, which the tests' requirements name; what
# needs the kernels says so where configure found no header to build them with.
JAX_TESTS = \
	tests/jax/test_ffi.py \
	tests/jax/test_view.py

# As of infer's: these compile and compute a lot, and with sanitizers say nothing new.
JAX_TESTS_THAT_COMPUTE = \
	tests/jax/test_bench.py \
	tests/jax/test_gpt_oss.py \
	tests/jax/test_nnx.py

EXTRA_DIST += \
	$(JAX_TESTS) \
	$(JAX_TESTS_THAT_COMPUTE) \
	tests/jax/jax_support.py

if PYTHON_TESTS
TESTS += $(JAX_TESTS)
if !SANITIZED
TESTS += $(JAX_TESTS_THAT_COMPUTE)
endif
endif
