# The GPU backend: one plugin that holds all it needs of the rest of the code, and CUDA's runtime.
cuda_kernel_files = \
	cuda/arrays.cu \
	cuda/attend.cu \
	cuda/choose.cu \
	cuda/few.cu \
	cuda/many.cu \
	cuda/many_attend.cu \
	cuda/many_rows.cu \
	cuda/peaks.cu \
	cuda/product.cu

cuda_header_files = \
	cuda/arena.h \
	cuda/backend.h \
	cuda/choosing.h \
	cuda/decoding.h \
	cuda/device.h \
	cuda/few_stages.h \
	cuda/few_tile.cuh \
	cuda/gpu.cuh \
	cuda/kernels.h \
	cuda/layer.cuh \
	cuda/many_stages.h \
	cuda/many_tile.cuh \
	cuda/numbers.cuh \
	cuda/peaks.h \
	cuda/plan.h \
	cuda/runner.h \
	cuda/sequence.h \
	cuda/shown.h \
	cuda/stage_times.h \
	cuda/step.h \
	cuda/upload.h \
	cuda/weights.h

# The host's side, without the device: the tests have one of their own.
cuda_host_files = \
	cuda/arena.c \
	cuda/backend.c \
	cuda/choosing.c \
	cuda/decoding.c \
	cuda/few_stages.c \
	cuda/many_stages.c \
	cuda/peaks.c \
	cuda/plan.c \
	cuda/runner.c \
	cuda/sequence.c \
	cuda/shown.c \
	cuda/stage_times.c \
	cuda/step.c \
	cuda/upload.c \
	cuda/weights.c \
	decode/error.c \
	fs/base/amount.c \
	fs/base/workers.c \
	infer/backend.c \
	infer/model/held.c \
	infer/model/rope.c \
	infer/model/sampling.c
cuda_host_flags = $(AM_CFLAGS) -fPIC -fvisibility=hidden -ffp-contract=off

EXTRA_DIST += $(cuda_kernel_files) $(cuda_header_files) cuda/ESTIMATE.md cuda/README.md

if BUILD_CUDA
noinst_LIBRARIES += libcuda_host.a
libcuda_host_a_SOURCES = $(cuda_host_files) cuda/device_cuda.c
libcuda_host_a_CFLAGS = $(cuda_host_flags)
libcuda_host_a_CPPFLAGS = $(AM_CPPFLAGS) -isystem $(CUDA_HOME)/include

cuda_libraries = -L$(CUDA_HOME)/lib64 -lcudart_static -lrt -lpthread -ldl -lm
cuda_objects = $(cuda_kernel_files:.cu=.device.o)
cuda/%.device.o: cuda/%.cu $(cuda_header_files)
	$(AM_V_GEN)$(MKDIR_P) cuda && $(NVCC) -std=c++17 -O3 --fmad=false -Xcompiler -fPIC,-fvisibility=hidden \
		--threads 2 $(CUDA_CODE_FLAGS) -I$(top_srcdir) -c -o $@ $<

tensorport-cuda.so: libcuda_host.a $(cuda_objects)
	$(AM_V_CCLD)$(CXX) -shared $(LDFLAGS) -o $@ $(cuda_objects) -Wl,--whole-archive libcuda_host.a \
		-Wl,--no-whole-archive -Wl,-z,defs $(cuda_libraries)

plugindir = $(pkglibdir)
plugin_DATA = tensorport-cuda.so
CLEANFILES += tensorport-cuda.so $(cuda_objects)
endif
