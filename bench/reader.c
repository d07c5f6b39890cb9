/* bench/reader: reads files in one of several manners and says how long it took.
 *
 *     bench/reader [OPTIONS] FILE...      {"seconds": S, "cpu_seconds": S, ...}
 *
 * One thread per file, all started together; the clock runs from then until the last one ends.
 * In C, and into memory that was touched before, so that the file system is what is measured.
 * A FILE may be given twice: two readers of one file.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { CACHE_LINE = 64, READERS_MAX = 64 };

/* What a reader does with its file; returns the bytes it read. */
struct reader;
typedef uint64_t manner_fn(struct reader *reader);

struct options {
    manner_fn *manner;
    size_t block;
    uint64_t count; /* of random reads */
    bool drop;      /* the file's pages first */
};

struct reader {
    const struct options *options;
    const char *path;
    int fd;
    uint64_t size;
    char *buffer; /* `block` bytes, touched */
    uint64_t random;
    uint64_t bytes;
    uint64_t sum; /* of what a map reader saw: the compiler must not leave the loads out */
    pthread_barrier_t *start;
    pthread_t thread;
};

__attribute__((noreturn)) static void fail(const char *path, const char *what)
{
    fprintf(stderr, "bench/reader: %s: %s: %s\n", path, what, strerror(errno));
    exit(1);
}

/* read(2) as cp and numpy do. */
static uint64_t read_sequentially(struct reader *reader)
{
    uint64_t total = 0;
    ssize_t n;
    while ((n = read(reader->fd, reader->buffer, reader->options->block)) > 0)
        total += (uint64_t)n;
    if (n < 0)
        fail(reader->path, "read");
    return total;
}

/* One read(2) for all of it into memory nobody touched yet, as numpy.load does: its page faults
 * are part of what a user waits for. */
static uint64_t read_into_fresh_memory(struct reader *reader)
{
    char *memory =
        mmap(NULL, reader->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail(reader->path, "mmap");
    uint64_t total = 0;
    ssize_t n;
    while ((n = read(reader->fd, memory + total, reader->size - total)) > 0)
        total += (uint64_t)n;
    if (n < 0)
        fail(reader->path, "read");
    munmap(memory, reader->size);
    return total;
}

/* The memory alone: what the page faults of read_into_fresh_memory() cost. */
static uint64_t touch_fresh_memory(struct reader *reader)
{
    char *memory =
        mmap(NULL, reader->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail(reader->path, "mmap");
    for (uint64_t at = 0; at < reader->size; at += 4096)
        ((volatile char *)memory)[at] = 1;
    munmap(memory, reader->size);
    return reader->size;
}

static uint64_t next_random(struct reader *reader)
{
    reader->random = reader->random * 6364136223846793005U + 1442695040888963407U;
    return reader->random >> 33;
}

/* Blocks at random multiples of the block size; the same ones in every run. */
static uint64_t read_randomly(struct reader *reader)
{
    size_t block = reader->options->block;
    uint64_t n_blocks = reader->size / block;
    for (uint64_t i = 0; i < reader->options->count && n_blocks > 0; i++) {
        off_t offset = (off_t)(next_random(reader) % n_blocks * block);
        if (pread(reader->fd, reader->buffer, block, offset) != (ssize_t)block)
            fail(reader->path, "pread");
    }
    return n_blocks > 0 ? reader->options->count * block : 0;
}

/* A word of every cache line, in order. */
static uint64_t read_mapping(struct reader *reader)
{
    const char *memory = mmap(NULL, reader->size, PROT_READ, MAP_SHARED, reader->fd, 0);
    if (memory == MAP_FAILED)
        fail(reader->path, "mmap");
    uint64_t sum = 0, word;
    for (uint64_t at = 0; at + sizeof word <= reader->size; at += CACHE_LINE) {
        memcpy(&word, memory + at, sizeof word);
        sum += word;
    }
    reader->sum = sum;
    munmap((void *)memory, reader->size);
    return reader->size;
}

/* Counts what of the file is in the page cache, and reads nothing. */
static uint64_t count_resident(struct reader *reader)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n_pages = (reader->size + page - 1) / page;
    void *memory = mmap(NULL, reader->size, PROT_READ, MAP_SHARED, reader->fd, 0);
    unsigned char *resident = malloc(n_pages);
    uint64_t total = 0;
    if (memory == MAP_FAILED || resident == NULL || mincore(memory, reader->size, resident) < 0)
        fail(reader->path, "mincore");
    for (size_t i = 0; i < n_pages; i++)
        total += (resident[i] & 1) * page;
    munmap(memory, reader->size);
    free(resident);
    return total;
}

static uint64_t read_nothing(struct reader *reader)
{
    (void)reader;
    return 0;
}

static const struct {
    const char *name;
    manner_fn *manner;
} manners[] = {
    {"sequential", read_sequentially}, {"random", read_randomly},     {"map", read_mapping},
    {"fresh", read_into_fresh_memory}, {"touch", touch_fresh_memory}, {"resident", count_resident},
    {"nothing", read_nothing},
};

static manner_fn *find_manner(const char *name)
{
    for (size_t i = 0; i < sizeof manners / sizeof *manners; i++) {
        if (strcmp(manners[i].name, name) == 0)
            return manners[i].manner;
    }
    return NULL;
}

static void prepare(struct reader *reader, const struct options *options, const char *path,
                    pthread_barrier_t *start)
{
    struct stat status;
    *reader = (struct reader){.options = options, .path = path, .random = 1, .start = start};
    reader->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (reader->fd < 0 || fstat(reader->fd, &status) < 0)
        fail(path, "open");
    reader->size = (uint64_t)status.st_size;
    /* On a FUSE mount too: the next read asks the daemon again. */
    if (options->drop)
        posix_fadvise(reader->fd, 0, 0, POSIX_FADV_DONTNEED);
    reader->buffer = aligned_alloc(4096, (options->block + 4095) / 4096 * 4096);
    if (reader->buffer == NULL)
        fail(path, "memory");
    memset(reader->buffer, 1, options->block);
}

static void *run(void *context)
{
    struct reader *reader = context;
    pthread_barrier_wait(reader->start);
    reader->bytes = reader->options->manner(reader);
    return NULL;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Of this process: what the copies and page faults of its reads cost is in it. */
static double processor_seconds(const struct rusage *usage)
{
    return (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) +
           1e-6 * (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec);
}

static void run_all(const struct options *options, char **paths, unsigned n)
{
    static struct reader readers[READERS_MAX];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, n + 1);
    for (unsigned i = 0; i < n; i++)
        prepare(&readers[i], options, paths[i], &start);
    for (unsigned i = 0; i < n; i++) {
        if ((errno = pthread_create(&readers[i].thread, NULL, run, &readers[i])) != 0)
            fail(paths[i], "thread");
    }
    struct rusage before, after;
    uint64_t bytes = 0;
    getrusage(RUSAGE_SELF, &before);
    double from = now();
    pthread_barrier_wait(&start);
    for (unsigned i = 0; i < n; i++) {
        pthread_join(readers[i].thread, NULL);
        bytes += readers[i].bytes;
    }
    double seconds = now() - from;
    getrusage(RUSAGE_SELF, &after);
    printf("{\"seconds\": %.6f, \"cpu_seconds\": %.6f, \"bytes\": %llu, \"minor_faults\": %ld}\n",
           seconds, processor_seconds(&after) - processor_seconds(&before),
           (unsigned long long)bytes, after.ru_minflt - before.ru_minflt);
}

static void explain(FILE *stream)
{
    fprintf(stream,
            "usage: bench/reader [--manner M] [--block BYTES] [--count N] [--drop] FILE...\n"
            "manners:");
    for (size_t i = 0; i < sizeof manners / sizeof *manners; i++)
        fprintf(stream, " %s", manners[i].name);
    fputc('\n', stream);
}

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"manner", required_argument, NULL, 'm'}, {"block", required_argument, NULL, 'b'},
        {"count", required_argument, NULL, 'c'},  {"drop", no_argument, NULL, 'd'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0},
    };
    struct options options = {.manner = read_sequentially, .block = 1 << 20, .count = 20000};
    for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (option == 'm')
            options.manner = find_manner(optarg);
        else if (option == 'b')
            options.block = strtoull(optarg, NULL, 0);
        else if (option == 'c')
            options.count = strtoull(optarg, NULL, 0);
        else if (option == 'd')
            options.drop = true;
        else {
            explain(option == 'h' ? stdout : stderr);
            return option == 'h' ? 0 : 2;
        }
    }
    int n = argc - optind;
    if (options.manner == NULL || options.block == 0 || n < 1 || n > READERS_MAX) {
        explain(stderr);
        return 2;
    }
    run_all(&options, argv + optind, (unsigned)n);
    return 0;
}
