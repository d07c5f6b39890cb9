# The GPU backend on any machine: its kernels as plain C++, on a harness that runs threads as fibers.
# Built as the plugin that tpinfer opens, in the place of CUDA's device; and once more with kernels
# that tell each access to memory: see watch.h.
EXTRA_DIST += \
	tests/cuda/gpu_mutations.py \
	tests/cuda/other_plugin.c \
	tests/cuda/test_gpu.py \
	tests/cuda/test_gpu_bench.py \
	tests/cuda/test_gpu_load.py \
	tests/cuda/test_gpu_mutations.py

kernel_test_sources = \
	tests/cuda/kernel_reference.c tests/cuda/kernel_reference.h \
	tests/cuda/kernel_test.c tests/cuda/kernel_test.h \
	tests/cuda/test_arrays.c \
	tests/cuda/test_attention.c \
	tests/cuda/test_choosing.c \
	tests/cuda/test_many_attention.c \
	tests/cuda/test_many_products.c \
	tests/cuda/test_many_rows.c \
	tests/cuda/test_mlp.c \
	tests/cuda/test_output.c \
	tests/cuda/test_products.c
link_with_kernels = $(CXXLD) $(SANITIZER_CFLAGS) $(AM_LDFLAGS) $(LDFLAGS) -o $@

# The tests of kernels for a machine that has a GPU: bench/gpu brings them there.
if BUILD_CUDA
noinst_PROGRAMS += tests/cuda/test-kernels-cuda
tests_cuda_test_kernels_cuda_SOURCES = $(kernel_test_sources)
tests_cuda_test_kernels_cuda_LDADD = $(cuda_objects) libcuda_host.a $(cuda_libraries)
tests_cuda_test_kernels_cuda_DEPENDENCIES = $(cuda_objects) libcuda_host.a
tests_cuda_test_kernels_cuda_LINK = $(link_with_kernels)
endif

# Sanitizers know nothing of fibers, and say nothing that the harness does not.
if PYTHON_TESTS
if !SANITIZED
harness_flags = $(AM_CXXFLAGS) -fPIC -fvisibility=hidden -ffp-contract=off -U_FORTIFY_SOURCE -Wno-unknown-pragmas
watched_flags = -fno-sanitize=all -fsanitize=thread

check_LIBRARIES = libcuda_harness.a libcuda_kernels.a libcuda_kernels_watched.a
libcuda_harness_a_SOURCES = \
	$(cuda_host_files) \
	tests/cuda/arithmetic.cpp \
	tests/cuda/block.h \
	tests/cuda/device_harness.c \
	tests/cuda/fiber.h \
	tests/cuda/grid.cpp tests/cuda/grid.h \
	tests/cuda/harness.h \
	tests/cuda/watch.cpp tests/cuda/watch.h
libcuda_harness_a_CFLAGS = $(cuda_host_flags)
libcuda_harness_a_CXXFLAGS = $(harness_flags) -O3
libcuda_kernels_a_SOURCES = tests/cuda/kernels.cpp
libcuda_kernels_a_CXXFLAGS = $(harness_flags) -O3
libcuda_kernels_watched_a_SOURCES = tests/cuda/kernels.cpp
libcuda_kernels_watched_a_CXXFLAGS = $(harness_flags) $(watched_flags) -O1

link_harness = $(AM_V_CXXLD)$(CXX) -shared $(SANITIZER_CFLAGS) $(LDFLAGS) -o $@ -Wl,--whole-archive \
	libcuda_harness.a
check_DATA = \
	tests/cuda/other-plugin.so \
	tests/cuda/tensorport-cuda-harness.so \
	tests/cuda/tensorport-cuda-watched.so
tests/cuda/tensorport-cuda-harness.so: libcuda_harness.a libcuda_kernels.a
	$(link_harness) libcuda_kernels.a -Wl,--no-whole-archive -lm
tests/cuda/tensorport-cuda-watched.so: libcuda_harness.a libcuda_kernels_watched.a
	$(link_harness) libcuda_kernels_watched.a -Wl,--no-whole-archive -lm
tests/cuda/other-plugin.so: tests/cuda/other_plugin.c infer/backend.h
	$(AM_V_CCLD)$(MKDIR_P) tests/cuda && $(CC) $(AM_CPPFLAGS) -std=gnu11 -fPIC -shared -o $@ \
		$(srcdir)/tests/cuda/other_plugin.c
CLEANFILES += $(check_DATA)

# Each kernel by itself.
check_PROGRAMS += tests/cuda/peaks tests/cuda/test-kernels
tests_cuda_peaks_SOURCES = tests/cuda/peaks.c
tests_cuda_peaks_LDADD = libcuda_harness.a libcuda_kernels.a -lm
tests_cuda_peaks_LINK = $(link_with_kernels)
tests_cuda_test_kernels_SOURCES = $(kernel_test_sources)
tests_cuda_test_kernels_LDADD = libcuda_kernels_watched.a libcuda_harness.a -lm
tests_cuda_test_kernels_LINK = $(link_with_kernels)

# Several texts that choose their tokens by themselves, which no command does.
check_PROGRAMS += tests/cuda/decode-texts
tests_cuda_decode_texts_SOURCES = tests/cuda/decode_texts.c
tests_cuda_decode_texts_LDADD = $(INFER_LIBS) -ldl

# What the harness itself notices.
check_PROGRAMS += tests/cuda/test-harness
tests_cuda_test_harness_SOURCES = tests/cuda/test_harness.cpp
tests_cuda_test_harness_CXXFLAGS = $(harness_flags) $(watched_flags) -O1
tests_cuda_test_harness_LDADD = libcuda_harness.a -lm
tests_cuda_test_harness_LINK = $(link_with_kernels)

TESTS += \
	tests/cuda/peaks \
	tests/cuda/test-harness \
	tests/cuda/test-kernels \
	tests/cuda/test_gpu.py \
	tests/cuda/test_gpu_bench.py \
	tests/cuda/test_gpu_load.py \
	tests/cuda/test_gpu_mutations.py
endif
endif
