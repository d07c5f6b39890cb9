noinst_LIBRARIES += libdecode.a

libdecode_a_SOURCES = \
	decode/bitshuffle.c \
	decode/bitshuffle.h \
	decode/bitshuffle_loops.inc \
	decode/bitshuffle_network.inc \
	decode/bitshuffle_scalar.c \
	decode/bitshuffle_tables.h \
	decode/block.c \
	decode/block.h \
	decode/codec.c \
	decode/codec.h \
	decode/codec_scalar.c \
	decode/codec_tables.h \
	decode/dtype.c \
	decode/dtype.h \
	decode/error.c \
	decode/error.h \
	decode/json.c \
	decode/json.h \
	decode/mxfp4_encode.c \
	decode/mxfp4_encode.h \
	decode/mxfp4_encode_scalar.c \
	decode/mxfp4_encode_tables.h \
	decode/npy.c \
	decode/npy.h \
	decode/packed.c \
	decode/packed.h \
	decode/range.c \
	decode/range.h \
	decode/safetensors.c \
	decode/safetensors.h \
	decode/value_kernels.inc \
	decode/value_kernels_base.c \
	decode/value_statistics.c \
	decode/value_statistics.h \
	decode/value_tables.h
# Statistics are the same bits everywhere: no fused multiply-adds.
libdecode_a_CFLAGS = $(AM_CFLAGS) $(LZ4_CFLAGS) $(XXHASH_CFLAGS) -ffp-contract=off

# Objects that everything above decode/ links; one library per instruction set beside the
# portable one, because only those files may use its instructions.
DECODE_LIBS = libdecode.a

if BUILD_X86
noinst_LIBRARIES += libdecode_avx2.a libdecode_avx512.a
libdecode_avx2_a_SOURCES = decode/bitshuffle_avx2.c decode/codec_avx2.c \
	decode/mxfp4_encode_avx2.c decode/value_kernels_avx2.c
libdecode_avx2_a_CFLAGS = $(AM_CFLAGS) -ffp-contract=off -mavx2 -mf16c -mfma -mbmi2
libdecode_avx512_a_SOURCES = decode/bitshuffle_avx512.c decode/codec_avx512.c \
	decode/mxfp4_encode_avx512.c decode/value_kernels_avx512.c
libdecode_avx512_a_CFLAGS = $(AM_CFLAGS) -ffp-contract=off -mavx512f -mavx512bw -mavx512vl -mavx512dq
DECODE_LIBS += libdecode_avx2.a libdecode_avx512.a
endif
if BUILD_NEON
noinst_LIBRARIES += libdecode_neon.a
libdecode_neon_a_SOURCES = decode/codec_neon.c decode/mxfp4_encode_neon.c
DECODE_LIBS += libdecode_neon.a
endif

# The tables refer to the scalar code, and that stands first: once more for the linker.
DECODE_LIBS += libdecode.a $(LZ4_LIBS) $(XXHASH_LIBS)
