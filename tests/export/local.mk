# The commands of `tensorport`, used as a user would, against the readers that their output is for.
# They share the harness of tests/mount and what that needs.
EXPORT_TESTS = \
	tests/export/test_completion.py \
	tests/export/test_convert.py \
	tests/export/test_doctor.py \
	tests/export/test_help.py \
	tests/export/test_mounts.py \
	tests/export/test_run.py

EXTRA_DIST += \
	$(EXPORT_TESTS) \
	tests/export/support.py

if PYTHON_TESTS
TESTS += $(EXPORT_TESTS)
endif
