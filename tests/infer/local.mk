# `tpinfer` and its parts, used as a user would, against numpy and what the reference implementations
# gave for the same input. The tests share the harness of tests/mount. Vectors of the o200k vocabulary
# need what is not ours to distribute; where it is missing, the names of the tests say so.
INFER_TESTS = \
	tests/infer/test_chat.py \
	tests/infer/test_chat_command.py \
	tests/infer/test_end_to_end.py \
	tests/infer/test_run.py \
	tests/infer/test_session.py \
	tests/infer/test_tokenizer.py \
	tests/infer/test_trace.py \
	tests/infer/test_validate.py \
	tests/infer/test_weights.py

# These compute a lot, or make programs of their own with lines broken. With sanitizers they take many
# minutes and say nothing new: the kernels have their unit tests, the programs the tests above.
INFER_TESTS_THAT_COMPUTE = \
	tests/infer/test_bench.py \
	tests/infer/test_forward.py \
	tests/infer/test_int8.py \
	tests/infer/test_mutations.py \
	tests/infer/test_run_exact.py

EXTRA_DIST += \
	$(INFER_TESTS) \
	$(INFER_TESTS_THAT_COMPUTE) \
	tests/infer/babble.py \
	tests/infer/mutations.py \
	tests/infer/reference_model.py \
	tests/infer/run_support.py \
	tests/infer/support.py \
	tests/infer/text_support.py \
	tests/infer/validate_20b.py

if PYTHON_TESTS
check_PROGRAMS += tests/infer/forward tests/infer/session-file tests/infer/show-model
tests_infer_forward_SOURCES = tests/infer/forward.c
tests_infer_forward_LDADD = $(INFER_LIBS)
tests_infer_session_file_SOURCES = tests/infer/session_file.c
tests_infer_session_file_CFLAGS = $(AM_CFLAGS) $(XXHASH_CFLAGS)
tests_infer_session_file_LDADD = $(INFER_LIBS) $(XXHASH_LIBS)
tests_infer_show_model_SOURCES = tests/infer/show_model.c
tests_infer_show_model_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS) $(CRYPTO_CFLAGS)
tests_infer_show_model_LDADD = $(INFER_LIBS) $(CRYPTO_LIBS)
TESTS += $(INFER_TESTS)
if !SANITIZED
TESTS += $(INFER_TESTS_THAT_COMPUTE)
endif
endif

# The true shape: a checkpoint of 13.8 GB, made if CHECKPOINT does not name it; too large for check.
# The goldens belong to what 'tensorport synth --preset 20b' writes.
validate-20b: all
	$(AM_V_at)$(AM_TESTS_ENVIRONMENT) $(PYTHON) $(srcdir)/tests/infer/validate_20b.py $(CHECKPOINT)
.PHONY: validate-20b
