/* Preloaded into the daemon (LD_PRELOAD), this makes its calls fail on demand: reads of files
 * whose path contains a given text, opens, and memory.
 *
 * The test and the library share a control block through a mapped file (FAULT_CONTROL), so a
 * change takes effect at once, and the test sees what has happened. robust.py has the same
 * struct. All zero: nothing is disturbed.
 *
 * Allocations fail only for calls that come from the program itself, cJSON and libc unless
 * `allocation_from_all` is set: libfuse 3.14 ends the session when it cannot allocate the buffer
 * of a new thread, which is no fault of the program.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control {
    /* pread: of 100 calls so many ... */
    _Atomic uint32_t read_percent; /* fail with read_error */
    _Atomic uint32_t read_error;
    _Atomic uint32_t short_percent;     /* give less than was asked for */
    _Atomic uint32_t interrupt_percent; /* fail with EINTR */
    _Atomic uint32_t read_delay_ms;     /* before each */
    _Atomic uint32_t hold_reads;        /* while set, reads wait */
    /* open and openat fail with this error once `open_grace` of them were let through. */
    _Atomic uint32_t open_error;
    _Atomic uint32_t open_grace;
    _Atomic uint32_t allocation_percent;
    _Atomic uint32_t allocation_from_all;
    _Atomic uint32_t map_percent; /* mmap, by the program */
    _Atomic uint32_t stat_percent;
    _Atomic uint32_t stat_error;
    /* What has happened. */
    _Atomic uint32_t reads; /* that concerned a matching file */
    _Atomic uint32_t held;  /* waiting now */
    _Atomic uint32_t faults;
    _Atomic uint32_t failed_allocations;
    char match[128];
};

static struct control none;
static struct control *control = &none;

__attribute__((constructor)) static void attach(void)
{
    const char *path = getenv("FAULT_CONTROL");
    int fd = path == NULL ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0)
        return;
    void *map =
        (void *)syscall(SYS_mmap, NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED)
        control = map;
}

/* Thread-local variables that need no allocation when a thread first uses them. */
#define THREAD_LOCAL static _Thread_local __attribute__((tls_model("initial-exec")))

/* True in `percent` of 100 cases. */
static bool strikes(uint32_t percent)
{
    THREAD_LOCAL uint32_t state;
    static _Atomic uint32_t n_threads;
    if (percent == 0)
        return false;
    if (state == 0)
        state = atomic_fetch_add(&n_threads, 1) * 7919 + 1;
    state = state * 1664525 + 1013904223;
    bool yes = (state >> 16) % 100 < percent;
    if (yes)
        atomic_fetch_add(&control->faults, 1);
    return yes;
}

static void pause_ms(uint32_t ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&time, NULL);
}

/* The function that is called so behind this library: a sanitizer's or libc's. The system call
 * itself would not do, for ThreadSanitizer must see which descriptors there are. */
static void *find_next(void *_Atomic *cache, const char *name)
{
    if (*cache == NULL)
        *cache = dlsym(RTLD_NEXT, name);
    return *cache;
}

/* ---- reading ---- */

static bool concerns(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return false;
    path[length] = '\0';
    return strstr(path, control->match) != NULL;
}

/* Waits, and says whether the call is to fail; may make it shorter. */
static bool disturb_read(size_t *length)
{
    atomic_fetch_add(&control->reads, 1);
    if (control->hold_reads) {
        atomic_fetch_add(&control->held, 1);
        while (control->hold_reads)
            pause_ms(1);
        atomic_fetch_sub(&control->held, 1);
    }
    if (control->read_delay_ms > 0)
        pause_ms(control->read_delay_ms);
    if (strikes(control->interrupt_percent)) {
        errno = EINTR;
        return true;
    }
    if (strikes(control->read_percent)) {
        errno = (int)control->read_error;
        return true;
    }
    if (*length > 1 && strikes(control->short_percent))
        *length = *length < 4096 ? 1 : *length / 3;
    return false;
}

static ssize_t disturbed_pread(int fd, void *buffer, size_t length, off_t offset)
{
    static void *_Atomic next;
    ssize_t (*real)(int, void *, size_t, off_t) = find_next(&next, "pread64");
    if (concerns(fd) && disturb_read(&length))
        return -1;
    return real(fd, buffer, length, offset);
}

ssize_t pread(int fd, void *buffer, size_t length, off_t offset)
{
    return disturbed_pread(fd, buffer, length, offset);
}

ssize_t pread64(int fd, void *buffer, size_t length, off_t offset)
{
    return disturbed_pread(fd, buffer, length, offset);
}

/* A read that must not wait finds nothing in memory while others would have to wait. */
static ssize_t disturbed_preadv2(int fd, const struct iovec *pieces, int n, off_t offset, int flags)
{
    static void *_Atomic next;
    ssize_t (*real)(int, const struct iovec *, int, off_t, int) = find_next(&next, "preadv64v2");
    if (n != 1 || !concerns(fd))
        return real(fd, pieces, n, offset, flags);
    if ((flags & RWF_NOWAIT) != 0 && (control->hold_reads || control->read_delay_ms > 0)) {
        errno = EAGAIN;
        return -1;
    }
    struct iovec piece = *pieces;
    if (disturb_read(&piece.iov_len))
        return -1;
    return real(fd, &piece, 1, offset, flags);
}

ssize_t preadv2(int fd, const struct iovec *pieces, int n, off_t offset, int flags)
{
    return disturbed_preadv2(fd, pieces, n, offset, flags);
}

ssize_t preadv64v2(int fd, const struct iovec *pieces, int n, off_t offset, int flags)
{
    return disturbed_preadv2(fd, pieces, n, offset, flags);
}

/* ---- opening ---- */

static bool refuse_open(void)
{
    if (control->open_error == 0)
        return false;
    uint32_t grace = control->open_grace;
    while (grace > 0) {
        if (atomic_compare_exchange_weak(&control->open_grace, &grace, grace - 1))
            return false;
    }
    atomic_fetch_add(&control->faults, 1);
    errno = (int)control->open_error;
    return true;
}

static mode_t mode_of(int flags, va_list arguments)
{
    return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
}

#define DEFINE_OPENAT(name)                                                                        \
    int name(int directory, const char *path, int flags, ...)                                      \
    {                                                                                              \
        static void *_Atomic next;                                                                 \
        int (*real)(int, const char *, int, ...) = find_next(&next, #name);                        \
        va_list arguments;                                                                         \
        va_start(arguments, flags);                                                                \
        mode_t mode = mode_of(flags, arguments);                                                   \
        va_end(arguments);                                                                         \
        return refuse_open() ? -1 : real(directory, path, flags, mode);                            \
    }

#define DEFINE_OPEN(name)                                                                          \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        static void *_Atomic next;                                                                 \
        int (*real)(const char *, int, ...) = find_next(&next, #name);                             \
        va_list arguments;                                                                         \
        va_start(arguments, flags);                                                                \
        mode_t mode = mode_of(flags, arguments);                                                   \
        va_end(arguments);                                                                         \
        return refuse_open() ? -1 : real(path, flags, mode);                                       \
    }

DEFINE_OPENAT(openat)
DEFINE_OPENAT(openat64)
DEFINE_OPEN(open)
DEFINE_OPEN(open64)

static int disturbed_fstatat(int directory, const char *path, struct stat *status, int flags)
{
    if (strstr(path, control->match) != NULL && strikes(control->stat_percent)) {
        errno = (int)control->stat_error;
        return -1;
    }
    return (int)syscall(SYS_newfstatat, directory, path, status, flags);
}

int fstatat(int directory, const char *path, struct stat *status, int flags)
{
    return disturbed_fstatat(directory, path, status, flags);
}

int fstatat64(int directory, const char *path, struct stat64 *status, int flags)
{
    _Static_assert(sizeof(struct stat) == sizeof(struct stat64), "one struct on 64-bit machines");
    return disturbed_fstatat(directory, path, (struct stat *)status, flags);
}

/* ---- memory ---- */

#ifndef WITHOUT_ALLOCATION
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

/* Whether a call that returns to `caller` may fail. */
static bool may_fail(const void *caller)
{
    THREAD_LOCAL bool busy;
    Dl_info info;
    if (busy)
        return false;
    busy = true;
    bool known = dladdr(caller, &info) != 0 && info.dli_fname != NULL;
    busy = false;
    return control->allocation_from_all || (known && strstr(info.dli_fname, "libfuse") == NULL);
}

static bool refuse_allocation(uint32_t percent, const void *caller)
{
    if (percent == 0 || !may_fail(caller) || !strikes(percent))
        return false;
    atomic_fetch_add(&control->failed_allocations, 1);
    errno = ENOMEM;
    return true;
}

void *malloc(size_t size)
{
    if (refuse_allocation(control->allocation_percent, __builtin_return_address(0)))
        return NULL;
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    if (refuse_allocation(control->allocation_percent, __builtin_return_address(0)))
        return NULL;
    return __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
    if (size > 0 && refuse_allocation(control->allocation_percent, __builtin_return_address(0)))
        return NULL;
    return __libc_realloc(old, size);
}

static void *disturbed_mmap(void *at, size_t length, int protection, int flags, int fd,
                            off_t offset, const void *caller)
{
    if (refuse_allocation(control->map_percent, caller))
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return disturbed_mmap(at, length, protection, flags, fd, offset, __builtin_return_address(0));
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return disturbed_mmap(at, length, protection, flags, fd, offset, __builtin_return_address(0));
}
#endif
