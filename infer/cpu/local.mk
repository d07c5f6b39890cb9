# The CPU backend. Loops for an instruction set lie in a library that alone may use it.
libinfer_a_SOURCES += \
	infer/cpu/attend.inc \
	infer/cpu/attention.c infer/cpu/attention.h \
	infer/cpu/backend.c \
	infer/cpu/cores.c infer/cpu/cores.h \
	infer/cpu/elementwise.inc \
	infer/cpu/kernel_tables.h \
	infer/cpu/kernels.c infer/cpu/kernels.h \
	infer/cpu/kernels_scalar.c \
	infer/cpu/kv_cache.c infer/cpu/kv_cache.h \
	infer/cpu/lanes_avx2.h \
	infer/cpu/lanes_avx512.h \
	infer/cpu/lanes_scalar.h \
	infer/cpu/layers.c infer/cpu/layers.h \
	infer/cpu/mixture.c infer/cpu/mixture.h \
	infer/cpu/multiply.c infer/cpu/multiply.h \
	infer/cpu/mxfp4_tables.c infer/cpu/mxfp4_tables.h \
	infer/cpu/peaks.c infer/cpu/peaks.h \
	infer/cpu/pool.c infer/cpu/pool.h \
	infer/cpu/products.inc \
	infer/cpu/products_f32.inc \
	infer/cpu/products_tables.inc \
	infer/cpu/quantize.inc \
	infer/cpu/quantized.c infer/cpu/quantized.h \
	infer/cpu/sequence.c infer/cpu/sequence.h \
	infer/cpu/table.inc \
	infer/cpu/workspace.c infer/cpu/workspace.h \
	infer/weights/matrix.h

if BUILD_X86
noinst_LIBRARIES += libinfer_avx2.a libinfer_avx512.a libinfer_avx512_bf16.a
INFER_AVX512_CFLAGS = -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma
libinfer_avx2_a_SOURCES = infer/cpu/kernels_avx2.c
libinfer_avx2_a_CFLAGS = $(AM_CFLAGS) -ffp-contract=off -mavx2 -mf16c -mfma -mbmi2
libinfer_avx512_a_SOURCES = infer/cpu/kernels_avx512.c
libinfer_avx512_a_CFLAGS = $(AM_CFLAGS) -ffp-contract=off $(INFER_AVX512_CFLAGS)
libinfer_avx512_bf16_a_SOURCES = infer/cpu/products_avx512_bf16.c
libinfer_avx512_bf16_a_CFLAGS = $(AM_CFLAGS) -ffp-contract=off $(INFER_AVX512_CFLAGS) -mavx512bf16
INFER_LIBS += libinfer_avx512.a libinfer_avx512_bf16.a libinfer_avx2.a libinfer.a
endif
