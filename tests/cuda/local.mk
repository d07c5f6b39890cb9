# The GPU backend on any machine: its kernels as plain C++, on a harness that runs threads as fibers.
# Built as the plugin that tpinfer opens, in the place of CUDA's device.
EXTRA_DIST += \
	tests/cuda/grid.h \
	tests/cuda/harness.h \
	tests/cuda/test_gpu.py \
	tests/cuda/test_gpu_bench.py
	tests/cuda/other_plugin.c \
	tests/cuda/test_gpu.py \
	tests/cuda/test_gpu_load.py

if PYTHON_TESTS
check_LIBRARIES = libcuda_harness.a
libcuda_harness_a_SOURCES = \
	$(cuda_host_files) \
	tests/cuda/device_harness.c \
	tests/cuda/harness.cpp \
	tests/cuda/kernels.cpp
libcuda_harness_a_CFLAGS = $(cuda_host_flags)
libcuda_harness_a_CXXFLAGS = $(AM_CXXFLAGS) -O3 -fPIC -fvisibility=hidden -ffp-contract=off \
	-U_FORTIFY_SOURCE -Wno-unknown-pragmas

check_DATA = tests/cuda/other-plugin.so tests/cuda/tensorport-cuda-harness.so
tests/cuda/tensorport-cuda-harness.so: libcuda_harness.a
	$(AM_V_CXXLD)$(CXX) -shared $(SANITIZER_CFLAGS) $(LDFLAGS) -o $@ -Wl,--whole-archive libcuda_harness.a \
		-Wl,--no-whole-archive -lm
tests/cuda/other-plugin.so: tests/cuda/other_plugin.c infer/backend.h
	$(AM_V_CCLD)$(MKDIR_P) tests/cuda && $(CC) $(AM_CPPFLAGS) -std=gnu11 -fPIC -shared -o $@ \
		$(srcdir)/tests/cuda/other_plugin.c
CLEANFILES += tests/cuda/other-plugin.so tests/cuda/tensorport-cuda-harness.so

check_PROGRAMS += tests/cuda/peaks
tests_cuda_peaks_SOURCES = tests/cuda/peaks.c
nodist_EXTRA_tests_cuda_peaks_SOURCES = tests/cuda/linked_as.cpp # C++: what the library is
tests_cuda_peaks_LDADD = libcuda_harness.a -lm

TESTS += tests/cuda/peaks tests/cuda/test_gpu.py tests/cuda/test_gpu_bench.py
TESTS += tests/cuda/test_gpu.py tests/cuda/test_gpu_load.py
endif
