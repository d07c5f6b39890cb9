"""Unmounting at once after the last file was closed, as scripts do. The kernel then drops the RELEASE
requests that it has not delivered yet; that must be no fault, and no leak where LeakSanitizer looks:
Mount checks the exit status and stderr."""

import ctypes
import os
import subprocess

from harness import Mount, checkpoint, main, test

libc = ctypes.CDLL(None, use_errno=True)


def unmount(path):
    """With as little delay as possible."""
    if os.geteuid() == 0:
        assert libc.umount(os.fsencode(path)) == 0, os.strerror(ctypes.get_errno())
    else:
        subprocess.run(["fusermount3", "-u", path], check=True)


def use_and_unmount(mount):
    files = [path for path in mount.path.glob("shard_000/*.npy") for _ in range(10)]
    descriptors = [os.open(path, os.O_RDONLY) for path in files]
    for descriptor in descriptors:
        os.pread(descriptor, 1, 0)
    for descriptor in descriptors:
        os.close(descriptor)
    unmount(mount.path)


def count_failures(times, *options):
    """The race is won only now and then."""
    faults = []
    for _ in range(times):
        try:
            with Mount(checkpoint("tiny"), *options) as mount:
                use_and_unmount(mount)
        except AssertionError as fault:
            faults.append(str(fault))
    assert not faults, f"{len(faults)} of {times} failed, the first: {faults[0]}"


@test
def unmounting_right_after_closing_is_no_fault():
    count_failures(120)


@test
def unmounting_right_after_closing_is_no_fault_for_one_thread():
    count_failures(120, "--threads", "1")


main()
