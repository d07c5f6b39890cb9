#include "infer/weights/mapping.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "decode/error.h"
#include "fs/base/bytes.h"

enum { HUGE_PAGE_BYTES = 2 << 20 };

/* A signal handler has no other way to know: all mappings, for it to read without a lock. New ones
 * are put in front when they are complete. */
static _Atomic(struct tp_mapping *) mappings;
static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER; /* whoever changes the list holds it */

static const char *program_name;
static size_t program_name_length;
static struct sigaction action_before;
static atomic_flag is_ending = ATOMIC_FLAG_INIT;

/* ---- the signal; everything in here is async-signal-safe ---- */

static const struct tp_mapping *find(const uint8_t *address)
{
    const struct tp_mapping *mapping = atomic_load(&mappings);
    while (mapping != NULL &&
           (address < mapping->bytes || (size_t)(address - mapping->bytes) >= mapping->length))
        mapping = mapping->next;
    return mapping;
}

/* In one piece, so that other output cannot come between. */
static void put_line(const struct tp_mapping *mapping)
{
    struct iovec parts[] = {{(char *)program_name, program_name_length},
                            {mapping->message, mapping->message_length}};
    while (writev(STDERR_FILENO, parts, 2) < 0 && errno == EINTR)
        continue;
}

/* A mapping is longer than its file to the end of the last page, but there no access fails. */
static void handle(int number, siginfo_t *information, void *context)
{
    (void)context;
    const struct tp_mapping *mapping = information->si_code > 0 ? find(information->si_addr) : NULL;
    if (mapping == NULL) { /* not ours: the access is repeated under the action of before */
        sigaction(number, &action_before, NULL);
        if (information->si_code <= 0) /* sent by somebody: there is no access to repeat */
            raise(number);
        return;
    }
    if (atomic_flag_test_and_set(&is_ending)) /* another thread writes the line and ends us all */
        for (;;)
            pause();
    put_line(mapping);
    _exit(1);
}

void tp_mapping_guard(const char *program)
{
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    program_name = program;
    program_name_length = strlen(program);
    sigaction(SIGBUS, &action, &action_before);
}

/* ---- the list ---- */

static char *compose(const char *path, const char *tensor, size_t tensor_length, size_t *ret_length)
{
    struct tp_error text = {""}; /* makes control characters visible */
    char *message = NULL;
    tp_error_set(&text, 0, "%s: tensor \"%.*s\" disappeared or was truncated while it was in use",
                 path, tp_bytes_shown(tensor, tensor_length), tensor);
    int length = asprintf(&message, ": %s\n", text.text);
    if (length < 0)
        return NULL;
    *ret_length = (size_t)length;
    return message;
}

/* ---- where a mapping lies ---- */

/* Maps a file at a multiple of the huge page size. File systems that keep the page cache in large
 * folios (ext4, xfs, tmpfs; not FUSE so far) then map 2 MiB with one entry, which is shared with
 * other processes as any page of the cache, and the kernel reads ahead that much at a time. */
static void *map_aligned(int fd, size_t length)
{
    uint8_t *room = mmap(NULL, length + HUGE_PAGE_BYTES, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return MAP_FAILED;
    size_t before = (HUGE_PAGE_BYTES - (uintptr_t)room % HUGE_PAGE_BYTES) % HUGE_PAGE_BYTES;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), used = (length + page - 1) / page * page;
    uint8_t *bytes = mmap(room + before, length, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
    if (bytes == MAP_FAILED) {
        int saved_errno = errno;
        munmap(room, length + HUGE_PAGE_BYTES);
        errno = saved_errno;
        return MAP_FAILED;
    }
    if (before > 0)
        munmap(room, before);
    uint8_t *end = room + (length + HUGE_PAGE_BYTES + page - 1) / page * page;
    if (bytes + used < end)
        munmap(bytes + used, (size_t)(end - bytes) - used);
    madvise(bytes, length, MADV_HUGEPAGE); /* no more than a wish */
    return bytes;
}

static void *map(int fd, size_t length)
{
    if (length < HUGE_PAGE_BYTES || length > SIZE_MAX - 2 * (size_t)HUGE_PAGE_BYTES)
        return mmap(NULL, length, PROT_READ, MAP_SHARED, fd, 0);
    return map_aligned(fd, length);
}

int tp_mapping_new(int fd, size_t length, const char *path, const char *tensor,
                   size_t tensor_length, struct tp_mapping **ret_mapping)
{
    struct tp_mapping *mapping = calloc(1, sizeof *mapping);
    if (mapping == NULL)
        return -ENOMEM;
    mapping->message = compose(path, tensor, tensor_length, &mapping->message_length);
    if (mapping->message == NULL) {
        free(mapping);
        return -ENOMEM;
    }
    void *bytes = map(fd, length);
    if (bytes == MAP_FAILED) {
        int rc = -errno;
        free(mapping->message);
        free(mapping);
        return rc;
    }
    mapping->bytes = bytes;
    mapping->length = length;
    pthread_mutex_lock(&changing);
    mapping->next = atomic_load(&mappings);
    atomic_store(&mappings, mapping);
    pthread_mutex_unlock(&changing);
    *ret_mapping = mapping;
    return 0;
}

static void take_out(struct tp_mapping *mapping)
{
    struct tp_mapping *before = atomic_load(&mappings);
    if (before == mapping) {
        atomic_store(&mappings, mapping->next);
        return;
    }
    while (before->next != mapping)
        before = before->next;
    before->next = mapping->next;
}

void tp_mapping_free(struct tp_mapping *mapping)
{
    if (mapping == NULL)
        return;
    pthread_mutex_lock(&changing);
    take_out(mapping);
    pthread_mutex_unlock(&changing);
    munmap((void *)mapping->bytes, mapping->length);
    free(mapping->message);
    free(mapping);
}
