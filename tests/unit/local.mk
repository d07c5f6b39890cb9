# What all tests share: TAP through automake's driver, and where things are. Criterion prints
# TAP because CRITERION_OUTPUTS says so; other programs print it themselves.
LOG_DRIVER = env AM_TAP_AWK='$(AWK)' $(SHELL) $(top_srcdir)/build-aux/tap-driver.sh
TEST_EXTENSIONS = .py
PY_LOG_DRIVER = $(LOG_DRIVER)
PY_LOG_COMPILER = $(PYTHON)
AM_TESTS_ENVIRONMENT = \
	TP_TEST_SRCDIR='$(abs_top_srcdir)'; export TP_TEST_SRCDIR; \
	TP_TEST_BUILDDIR='$(abs_top_builddir)'; export TP_TEST_BUILDDIR; \
	PYTHONDONTWRITEBYTECODE=1; export PYTHONDONTWRITEBYTECODE; \
	CRITERION_OUTPUTS=tap:-; export CRITERION_OUTPUTS; \
	LSAN_OPTIONS='suppressions=$(abs_top_srcdir)/tests/unit/lsan.supp:print_suppressions=0'; \
	export LSAN_OPTIONS;

EXTRA_DIST += tests/kit tests/unit/lsan.supp

if HAVE_CRITERION
unit_tests = \
	tests/unit/test-bitshuffle \
	tests/unit/test-cache \
	tests/unit/test-codec \
	tests/unit/test-dtype \
	tests/unit/test-extents \
	tests/unit/test-infer-attention \
	tests/unit/test-infer-int8 \
	tests/unit/test-infer-layers \
	tests/unit/test-infer-multiply \
	tests/unit/test-json \
	tests/unit/test-lookup \
	tests/unit/test-manifest \
	tests/unit/test-model-config \
	tests/unit/test-names \
	tests/unit/test-npy \
	tests/unit/test-options \
	tests/unit/test-packed \
	tests/unit/test-rope \
	tests/unit/test-safetensors \
	tests/unit/test-stop-strings \
	tests/unit/test-sequence \
	tests/unit/test-tile \
	tests/unit/test-unpack \
	tests/unit/test-tokenizer \
	tests/unit/test-value-statistics
if BUILD_XLA
unit_tests += tests/unit/test-xla-frame
tests_unit_test_xla_frame_SOURCES = tests/unit/test_xla_frame.c
tests_unit_test_xla_frame_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
tests_unit_test_xla_frame_CPPFLAGS = $(AM_CPPFLAGS) $(XLA_CPPFLAGS)
tests_unit_test_xla_frame_LDADD = libxla.a $(INFER_LIBS) $(CRITERION_LIBS)
endif
check_PROGRAMS += $(unit_tests)
TESTS += $(unit_tests)

UNIT_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
UNIT_LIBS = $(DECODE_LIBS) $(CRITERION_LIBS)

tests_unit_test_bitshuffle_SOURCES = tests/unit/test_bitshuffle.c tests/unit/test_codec.h
tests_unit_test_bitshuffle_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_bitshuffle_LDADD = $(UNIT_LIBS)

tests_unit_test_cache_SOURCES = tests/unit/test_cache.c
tests_unit_test_cache_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_cache_LDADD = $(FS_LIBS) $(CRITERION_LIBS)

tests_unit_test_codec_SOURCES = \
	tests/unit/test_codec.c \
	tests/unit/test_codec.h \
	tests/unit/test_codec_isa.c \
	tests/unit/test_codec_range.c \
	tests/unit/test_mxfp4_encode.c
tests_unit_test_codec_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_codec_LDADD = $(UNIT_LIBS)

tests_unit_test_dtype_SOURCES = tests/unit/test_dtype.c
tests_unit_test_dtype_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_dtype_LDADD = $(UNIT_LIBS)

tests_unit_test_extents_SOURCES = tests/unit/test_extents.c
tests_unit_test_extents_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_extents_LDADD = $(FS_LIBS) $(CRITERION_LIBS)

tests_unit_test_infer_attention_SOURCES = \
	tests/unit/test_infer.h \
	tests/unit/test_infer_attention.c
tests_unit_test_infer_attention_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_infer_attention_LDADD = $(INFER_LIBS) $(CRITERION_LIBS)

tests_unit_test_infer_int8_SOURCES = \
	tests/unit/test_infer.h \
	tests/unit/test_infer_int8.c
tests_unit_test_infer_int8_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_infer_int8_LDADD = $(INFER_LIBS) $(CRITERION_LIBS)

tests_unit_test_infer_layers_SOURCES = \
	tests/unit/test_infer.h \
	tests/unit/test_infer_layers.c
tests_unit_test_infer_layers_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_infer_layers_LDADD = $(INFER_LIBS) $(CRITERION_LIBS)

tests_unit_test_infer_multiply_SOURCES = \
	tests/unit/test_infer.h \
	tests/unit/test_infer_multiply.c
tests_unit_test_infer_multiply_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_infer_multiply_LDADD = $(INFER_LIBS) $(CRITERION_LIBS)

tests_unit_test_json_SOURCES = tests/unit/test_json.c
tests_unit_test_json_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_json_LDADD = $(UNIT_LIBS)

tests_unit_test_lookup_SOURCES = tests/unit/test_lookup.c
tests_unit_test_lookup_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_lookup_LDADD = $(INFER_LIBS) $(CRITERION_LIBS)

tests_unit_test_manifest_SOURCES = tests/unit/test_manifest.c
tests_unit_test_manifest_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_manifest_LDADD = $(INFER_LIBS) $(CRITERION_LIBS)

tests_unit_test_model_config_SOURCES = tests/unit/read_file.h tests/unit/test_model_config.c
tests_unit_test_model_config_CFLAGS = $(UNIT_CFLAGS) $(CJSON_CFLAGS)
tests_unit_test_model_config_LDADD = $(INFER_LIBS) $(CRITERION_LIBS)

tests_unit_test_names_SOURCES = tests/unit/test_names.c
tests_unit_test_names_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_names_LDADD = $(FS_LIBS) $(CRITERION_LIBS)

tests_unit_test_npy_SOURCES = tests/unit/read_file.h tests/unit/test_npy.c
tests_unit_test_npy_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_npy_LDADD = $(UNIT_LIBS)

tests_unit_test_options_SOURCES = fs/mount/options.c tests/unit/test_options.c
tests_unit_test_options_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_options_LDADD = $(FS_LIBS) $(CRITERION_LIBS)

tests_unit_test_packed_SOURCES = tests/unit/test_packed.c
tests_unit_test_packed_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_packed_LDADD = $(UNIT_LIBS)
tests_unit_test_rope_SOURCES = tests/unit/read_file.h tests/unit/test_rope.c
tests_unit_test_rope_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_rope_LDADD = $(INFER_LIBS) $(CRITERION_LIBS)

tests_unit_test_safetensors_SOURCES = tests/unit/read_file.h tests/unit/test_safetensors.c
tests_unit_test_safetensors_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_safetensors_LDADD = $(UNIT_LIBS)

tests_unit_test_stop_strings_SOURCES = tests/unit/test_stop_strings.c
tests_unit_test_stop_strings_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_stop_strings_LDADD = $(INFER_LIBS) $(CRITERION_LIBS)
tests_unit_test_sequence_SOURCES = tests/unit/test_infer.h tests/unit/test_sequence.c
tests_unit_test_sequence_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_sequence_LDADD = $(INFER_LIBS) $(CRITERION_LIBS)

tests_unit_test_tile_SOURCES = fs/export/convert/tile.c tests/unit/test_tile.c
tests_unit_test_tile_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_tile_LDADD = $(CRITERION_LIBS)
tests_unit_test_tokenizer_SOURCES = tests/unit/test_tokenizer.c
tests_unit_test_tokenizer_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_tokenizer_LDADD = $(INFER_LIBS) $(CRITERION_LIBS)

tests_unit_test_value_statistics_SOURCES = tests/unit/test_value_statistics.c
tests_unit_test_value_statistics_CFLAGS = $(UNIT_CFLAGS)
tests_unit_test_value_statistics_LDADD = $(UNIT_LIBS)

tests_unit_test_unpack_SOURCES = \
	fs/export/pack/files.c \
	fs/export/common/output.c \
	fs/export/pack/pack.c \
	fs/export/pack/pack_copy.c \
	fs/export/pack/turns.c \
	fs/export/pack/unpack.c \
	tests/unit/test_unpack.c
tests_unit_test_unpack_CFLAGS = $(UNIT_CFLAGS) $(XXHASH_CFLAGS)
tests_unit_test_unpack_LDADD = $(FS_LIBS) $(CRITERION_LIBS)
else
TESTS += tests/unit/criterion-is-missing
endif
EXTRA_DIST += tests/unit/criterion-is-missing

# Plain C, because Criterion does not run under ThreadSanitizer.
check_PROGRAMS += tests/unit/thread-cache tests/unit/thread-pool
TESTS += tests/unit/thread-cache tests/unit/thread-pool
tests_unit_thread_cache_SOURCES = tests/unit/thread_cache.c
tests_unit_thread_cache_LDADD = $(FS_LIBS)
tests_unit_thread_pool_SOURCES = tests/unit/thread_pool.c
tests_unit_thread_pool_LDADD = $(INFER_LIBS)

if PYTHON_TESTS
check_PROGRAMS += tests/unit/safetensors-verdict
TESTS += tests/unit/differential_safetensors.py tests/unit/test_synth.py
tests_unit_safetensors_verdict_SOURCES = tests/unit/read_file.h tests/unit/safetensors-verdict.c
tests_unit_safetensors_verdict_LDADD = $(DECODE_LIBS)
endif
EXTRA_DIST += tests/unit/differential_safetensors.py tests/unit/test_synth.py
