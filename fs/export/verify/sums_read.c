#include "fs/export/verify/sums_read.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "fs/export/verify/manifest_read.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool read_digest(const char *text, size_t digest_length, uint8_t *digest)
{
    for (size_t i = 0; i < digest_length; i++) {
        int high = hex_digit(text[2 * i]), low = high < 0 ? -1 : hex_digit(text[2 * i + 1]);
        if (low < 0)
            return false;
        digest[i] = (uint8_t)(16 * high + low);
    }
    return true;
}

/* Resolves "\\", "\n" and "\r" in place. */
static bool unescape(char *path)
{
    char *to = path;
    for (const char *at = path; *at != '\0'; at++) {
        if (*at != '\\') {
            *to++ = *at;
            continue;
        }
        at++;
        if (*at != '\\' && *at != 'n' && *at != 'r')
            return false;
        *to++ = *at == 'n' ? '\n' : *at == 'r' ? '\r' : '\\';
    }
    *to = '\0';
    return true;
}

enum line { GOOD, BAD, UNSAFE, NO_MEMORY };

/* `line` is NUL-terminated and has no other NUL within `length`. */
static enum line read_line(const char *line, size_t length, size_t digest_length,
                           struct tp_sum *ret_sum)
{
    const bool escaped = line[0] == '\\';
    line += escaped;
    length -= escaped;
    if (length < 2 * digest_length + 3 || !read_digest(line, digest_length, ret_sum->digest) ||
        line[2 * digest_length] != ' ' ||
        (line[2 * digest_length + 1] != ' ' && line[2 * digest_length + 1] != '*'))
        return BAD;
    const char *path = line + 2 * digest_length + 2;
    path += strncmp(path, "./", 2) == 0 ? 2 : 0;
    char *copy = strdup(path);
    if (copy == NULL)
        return NO_MEMORY;
    if ((escaped && !unescape(copy)) || !tp_manifest_path_is_safe(copy)) {
        free(copy);
        return UNSAFE;
    }
    ret_sum->path = copy;
    return GOOD;
}

static int add(struct tp_sums *sums, struct tp_sum sum)
{
    if ((sums->n & (sums->n - 1)) == 0) {
        struct tp_sum *more =
            reallocarray(sums->list, sums->n == 0 ? 1 : 2 * sums->n, sizeof *more);
        if (more == NULL) {
            free(sum.path);
            return -ENOMEM;
        }
        sums->list = more;
    }
    sums->list[sums->n++] = sum;
    return 0;
}

static int compare(const void *a, const void *b)
{
    return strcmp(((const struct tp_sum *)a)->path, ((const struct tp_sum *)b)->path);
}

/* Sorts, and drops those that stand there twice. */
static void drop_twice(struct tp_sums *sums, const char *name, struct tp_faults *faults)
{
    size_t kept = 0;
    if (sums->n > 0)
        qsort(sums->list, sums->n, sizeof *sums->list, compare);
    for (size_t i = 0; i < sums->n; i++) {
        if (kept > 0 && compare(&sums->list[kept - 1], &sums->list[i]) == 0) {
            tp_faults_add(faults, TP_FAULT_SUMS, name, "lists %.300s twice", sums->list[i].path);
            free(sums->list[i].path);
        } else {
            sums->list[kept++] = sums->list[i];
        }
    }
    sums->n = kept;
}

int tp_sums_read(const char *text, size_t length, const char *name, size_t digest_length,
                 struct tp_faults *faults, struct tp_sums *ret_sums)
{
    *ret_sums = (struct tp_sums){0};
    const char *end = text + length;
    for (size_t number = 1; text < end; number++) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        size_t line_length = (size_t)((newline != NULL ? newline : end) - text);
        char *line = strndup(text, line_length);
        if (line == NULL)
            return -ENOMEM;
        struct tp_sum sum;
        enum line found = strlen(line) == line_length && newline != NULL
                              ? read_line(line, line_length, digest_length, &sum)
                              : BAD;
        free(line);
        if (found == NO_MEMORY || (found == GOOD && add(ret_sums, sum) < 0))
            return -ENOMEM;
        if (found == BAD)
            tp_faults_add(faults, TP_FAULT_SUMS, name,
                          "line %zu: expected %zu hexadecimal digits, two spaces and a path",
                          number, 2 * digest_length);
        if (found == UNSAFE)
            tp_faults_add(faults, TP_FAULT_SUMS, name,
                          "line %zu: the path does not stay in the folder, or lies too deep in it",
                          number);
        text += line_length + (newline != NULL);
    }
    drop_twice(ret_sums, name, faults);
    return 0;
}

void tp_sums_clear(struct tp_sums *sums)
{
    for (size_t i = 0; i < sums->n; i++)
        free(sums->list[i].path);
    free(sums->list);
    *sums = (struct tp_sums){0};
}
