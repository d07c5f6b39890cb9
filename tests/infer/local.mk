# `tpinfer`, used as a user would, against what the reference implementations gave for the same input.
# The tests share the harness of tests/mount. Vectors of the o200k vocabulary need what is not ours to
# distribute; where it is missing, the names of the tests say so.
INFER_TESTS = \
	tests/infer/test_chat.py \
	tests/infer/test_tokenizer.py

EXTRA_DIST += \
	$(INFER_TESTS) \
	tests/infer/support.py

if PYTHON_TESTS
TESTS += $(INFER_TESTS)
endif
