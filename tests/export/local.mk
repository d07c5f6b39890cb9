# The commands of `tensorport`, used as a user would, against the readers that their output is for.
# They share the harness of tests/mount and what that needs.
EXPORT_TESTS = \
	tests/export/test_completion.py \
	tests/export/test_convert.py \
	tests/export/test_doctor.py \
	tests/export/test_formats.py \
	tests/export/test_formats_edges.py \
	tests/export/test_help.py \
	tests/export/test_inspect_statistics.py \
	tests/export/test_mounts.py \
	tests/export/test_quantize.py \
	tests/export/test_run.py \
	tests/export/test_verify.py

EXTRA_DIST += \
	$(EXPORT_TESTS) \
	tests/export/formats.py \
	tests/export/test_pack.py \
	tests/export/test_run.py

EXTRA_DIST += \
	$(EXPORT_TESTS) \
	tests/export/packed.py \
	tests/export/support.py

if PYTHON_TESTS
check_PROGRAMS += tests/export/plan-dump
tests_export_plan_dump_SOURCES = \
	fs/export/convert/artifact.c \
	fs/export/convert/container.c \
	fs/export/convert/format_msgpack.c \
	fs/export/convert/format_numpy.c \
	fs/export/convert/format_pickle.c \
	fs/export/convert/format_quantized.c \
	fs/export/convert/format_safetensors.c \
	fs/export/convert/formats.c \
	fs/export/convert/json_edit.c \
	fs/export/convert/quantize.c \
	fs/export/convert/quantize_choice.c \
	fs/export/convert/quantized_config.c \
	fs/export/convert/quantized_view.c \
	fs/export/convert/tile.c \
	fs/export/convert/transpose.c \
	tests/export/plan_dump.c
tests_export_plan_dump_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS)
tests_export_plan_dump_LDADD = $(FS_LIBS)
TESTS += $(EXPORT_TESTS)
endif
