# The mounted tree against an independent reader. Needs FUSE, fusermount3 (umount for root),
# xxh128sum, a C compiler (fault_inject.c) and the Python packages of tests/requirements.txt.
# PY_LOG_COMPILER and the TAP driver are defined in tests/unit/local.mk, which distributes
# tests/kit as well.
MOUNT_TESTS = \
	tests/mount/test_attributes.py \
	tests/mount/test_held_out.py \
	tests/mount/test_malformed.py \
	tests/mount/test_options.py \
	tests/mount/test_random_reads.py \
	tests/mount/test_robust.py \
	tests/mount/test_robust_end.py \
	tests/mount/test_robust_faults.py \
	tests/mount/test_robust_source.py \
	tests/mount/test_robust_users.py \
	tests/mount/test_tree.py \
	tests/mount/test_unmount.py \
	tests/mount/test_view.py

EXTRA_DIST += \
	$(MOUNT_TESTS) \
	tests/mount/compare.py \
	tests/mount/fault_inject.c \
	tests/mount/generate.py \
	tests/mount/harness.py \
	tests/mount/reference.py \
	tests/mount/robust.py \
	tests/requirements.txt

if PYTHON_TESTS
TESTS += $(MOUNT_TESTS)
endif

# Checkpoints that the tests make for themselves, about 1 GB.
clean-local: clean-checkpoints
.PHONY: clean-checkpoints
clean-checkpoints:
	rm -rf tests/checkpoints
