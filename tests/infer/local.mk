# What runs models from the view, against numpy and the goldens of transformers. The tests share the
# harness of tests/mount and what that needs.
INFER_TESTS = \
	tests/infer/test_weights.py

EXTRA_DIST += \
	$(INFER_TESTS) \
	tests/infer/support.py

if PYTHON_TESTS
check_PROGRAMS += tests/infer/show-model
TESTS += $(INFER_TESTS)
tests_infer_show_model_SOURCES = tests/infer/show_model.c
tests_infer_show_model_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS) $(CRYPTO_CFLAGS)
tests_infer_show_model_LDADD = $(INFER_LIBS) $(CRYPTO_LIBS)
endif
