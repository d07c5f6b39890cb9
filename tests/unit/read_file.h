/* Whole files for tests: the kit's checkpoints, goldens and manifests. */
#ifndef TENSORPORT_TESTS_UNIT_READ_FILE_H
#define TENSORPORT_TESTS_UNIT_READ_FILE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct bytes {
    char *data; /* malloc'd; NULL when the file could not be read */
    size_t size;
};

/* Reads all of `path`, with a NUL behind the data. */
static inline struct bytes read_file(const char *path)
{
    struct bytes bytes = {NULL, 0};
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return bytes;
    size_t room = 1 << 16;
    bytes.data = malloc(room);
    size_t n = 1;
    while (bytes.data != NULL && n != 0) {
        n = fread(bytes.data + bytes.size, 1, room - bytes.size - 1, file);
        bytes.size += n;
        if (bytes.size == room - 1)
            bytes.data = realloc(bytes.data, room *= 2);
    }
    fclose(file);
    if (bytes.data != NULL)
        bytes.data[bytes.size] = '\0';
    return bytes;
}

/* Reads a file of the source tree, by its path there (TP_TEST_SRCDIR, or the working
 * directory). */
static inline struct bytes read_source_file(const char *path)
{
    const char *root = getenv("TP_TEST_SRCDIR");
    char full[4096];
    snprintf(full, sizeof full, "%s/%s", root != NULL ? root : ".", path);
    return read_file(full);
}

#endif
