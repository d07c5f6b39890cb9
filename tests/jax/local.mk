# The Python package and the kernels behind it. They want jax, which the tests' requirements name; what
# needs the kernels says so where configure found no header to build them with.
JAX_TESTS = \
	tests/jax/test_ffi.py

EXTRA_DIST += $(JAX_TESTS)

if PYTHON_TESTS
TESTS += $(JAX_TESTS)
endif
