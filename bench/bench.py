"""What the cases share: where things are, and one read of one file in one manner."""

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from checkpoints import MIB, bytes_needed, write_checkpoint
from measure import Rate
from mounts import Mounts

GB = 1e9
MEMORY_FOLDER = Path("/dev/shm")


class Skipped(Exception):
    """A case that cannot run here; the message says why."""


@dataclass(frozen=True)
class Read:
    """How files are read. `tensor` is one of checkpoints.write_checkpoint()."""
    tensor: str = "bf16_0"
    precision: str = "float32"
    direct_io: bool = True
    manner: str = "sequential"
    block: int = MIB
    count: int = 30000     # of random reads
    drop: bool = False     # the mount's pages first: a first pass
    refill: bool = False   # drop and read them first, outside the clock: a second pass
    readers: int = 1       # at once; each has a file of its own: bf16_0, bf16_1
    same_file: bool = False  # instead of one of its own
    source: str = ""       # where the checkpoint is: memory (tmpfs), disk, or the run's choice
    options: tuple = ()    # of tensorport-mount, more

    def tensors(self):
        if self.readers == 1 or self.same_file:
            return [self.tensor] * self.readers
        return [f"bf16_{number}" for number in range(self.readers)]

    def but(self, **changes):
        return replace(self, **changes)


class Bench:
    """The state of one run: programs, checkpoints, mounts. A context manager that cleans up."""

    def __init__(self, options, programs):
        self.options, self.programs = options, programs
        self.size = options.size
        self.pairs = options.pairs
        self._folders, self._sources = [], {}

    def __enter__(self):
        self.mounts = Mounts(self.programs, self.folder("disk"))
        return self

    def __exit__(self, *_):
        try:
            self.mounts.__exit__()
        finally:
            for folder in self._folders:
                shutil.rmtree(folder, ignore_errors=True)

    def folder(self, where):
        """A new folder that does not outlive the run, on `disk` or in `memory`."""
        parent = MEMORY_FOLDER if where == "memory" else self.options.scratch
        self._folders.append(Path(tempfile.mkdtemp(prefix="tensorport-bench-", dir=parent)))
        return self._folders[-1]

    def sources(self, where):
        """The paths of the checkpoint's files by tensor; written at the first call."""
        where = where or self.options.source
        if where not in self._sources:
            parent = MEMORY_FOLDER if where == "memory" else self.options.scratch
            needed, free = bytes_needed(self.size), shutil.disk_usage(parent).free
            if free < needed * 1.2:
                raise Skipped(f"{parent} has {free >> 20} MiB, {needed * 6 // 5 >> 20} are needed")
            self._sources[where] = write_checkpoint(self.folder(where), self.size)
        return self._sources[where]

    # ---- mounts

    def tensorport(self, read):
        folder = next(iter(self.sources(read.source).values())).parent
        direct = ("--direct-io",) if read.direct_io else ()
        options = ("--precision", read.precision, *direct, *read.options)
        return self.mounts.tensorport(folder, *options)

    def null(self, read):
        size = self.tensorport(read).file(read.tensor).stat().st_size
        return self.mounts.null(size, *(("--direct-io",) if read.direct_io else ()))

    def reader(self, paths, *options):
        """What bench/reader says about one run."""
        command = [self.programs["reader"], *options, *map(str, paths)]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    # ---- reads

    def _read(self, read, mount, paths):
        if read.refill:
            # Each time, because how memory happens to lie decides how fast the copies are.
            self.reader(paths, "--drop")
        options = ["--manner", read.manner, "--block", str(read.block), "--count", str(read.count)]
        before = mount.processor_seconds()
        result = self.reader(paths, *options, *(["--drop"] if read.drop else []))
        spent = mount.processor_seconds() - before + result["cpu_seconds"]
        gigabytes = result["bytes"] / GB
        return Rate(gigabytes / result["seconds"], gigabytes and spent / gigabytes)

    def read_tensorport(self, read):
        """A Rate, in GB/s. The source's pages are in memory when the clock starts."""
        mount = self.tensorport(read)
        if (read.source or self.options.source) == "disk":
            self.warm_source(read)
        return self._read(read, mount, [mount.file(tensor) for tensor in read.tensors()])

    def read_null(self, read):
        mount = self.null(read)
        numbers = [0] * read.readers if read.same_file else range(read.readers)
        return self._read(read, mount, [mount.path / str(number) for number in numbers])

    def read_plain(self, read):
        """The same manner, of a file on the disk that is in the page cache."""
        path = self.sources("disk")["bf16_whole"]
        result = self.reader([path], "--manner", read.manner, "--block", str(read.block))
        gigabytes = result["bytes"] / GB
        return Rate(gigabytes / result["seconds"], result["cpu_seconds"] / gigabytes)

    def warm_source(self, read):
        self.reader([self.sources(read.source)[tensor] for tensor in read.tensors()])

    def drop_source(self, read):
        paths = [self.sources(read.source)[tensor] for tensor in read.tensors()]
        self.reader(paths, "--manner", "nothing", "--drop")

    def drop_pages(self, read):
        """Of both mounts: gigabytes that later cases need."""
        if not read.direct_io:
            for measure in (self.read_tensorport, self.read_null):
                measure(read.but(manner="nothing", drop=True))
