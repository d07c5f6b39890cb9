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

# The handlers for CUDA, on the harness that runs kernels without a GPU (see tests/cuda/local.mk), and
# for a machine that has one.
if BUILD_XLA
handler_test_sources = \
	$(xla_cuda_files) \
	tests/jax/handler_call.c tests/jax/handler_call.h \
	tests/jax/test_cuda_handlers.c

if BUILD_CUDA
noinst_PROGRAMS += tests/jax/test-cuda-handlers-cuda
tests_jax_test_cuda_handlers_cuda_SOURCES = $(handler_test_sources)
tests_jax_test_cuda_handlers_cuda_CPPFLAGS = $(AM_CPPFLAGS) $(XLA_CPPFLAGS)
tests_jax_test_cuda_handlers_cuda_LDADD = $(cuda_objects) libcuda_host.a $(cuda_libraries)
tests_jax_test_cuda_handlers_cuda_DEPENDENCIES = $(cuda_objects) libcuda_host.a
tests_jax_test_cuda_handlers_cuda_LINK = $(link_with_kernels)
endif

if PYTHON_TESTS
if !SANITIZED
check_PROGRAMS += tests/jax/test-cuda-handlers
tests_jax_test_cuda_handlers_SOURCES = $(handler_test_sources)
tests_jax_test_cuda_handlers_CPPFLAGS = $(AM_CPPFLAGS) $(XLA_CPPFLAGS)
tests_jax_test_cuda_handlers_LDADD = libcuda_kernels_watched.a libcuda_harness.a -ldl -lm
tests_jax_test_cuda_handlers_LINK = $(link_with_kernels)
EXTRA_tests_jax_test_cuda_handlers_DEPENDENCIES = tensorport-xla.so
TESTS += tests/jax/test-cuda-handlers
endif
endif
endif

# What is compiled for CUDA, whether or not anything is built for it.
EXTRA_DIST += tests/jax/test_cuda_lowering.py
if PYTHON_TESTS
TESTS += tests/jax/test_cuda_lowering.py
endif
