#include "fs/view/names.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const char suffix[] = ".npy";
enum {
    ROOM = NAME_MAX + 1,
    HASH_LENGTH = 1 + 16, /* "~" and the digits */
    STEM_MAX = NAME_MAX - HASH_LENGTH - (int)(sizeof suffix - 1),
};

static bool is_plain(const struct tp_name *name)
{
    return name->length + sizeof suffix - 1 <= NAME_MAX &&
           memchr(name->text, '/', name->length) == NULL &&
           memchr(name->text, '\0', name->length) == NULL;
}

/* Copies with '.', '/' and NUL as '_'. */
static void copy_stem(char *target, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        target[i] = text[i] == '.' || text[i] == '/' || text[i] == '\0' ? '_' : text[i];
    target[length] = '\0';
}

static void write_plain(const struct tp_name *name, char target[ROOM])
{
    copy_stem(target, name->text, name->length);
    memcpy(target + name->length, suffix, sizeof suffix);
}

/* `round` is 0, and counts up for the name whose hash is taken as well. */
static void write_hashed(const struct tp_name *name, uint64_t round, char target[ROOM])
{
    size_t length = name->length < STEM_MAX ? name->length : STEM_MAX;
    while (length < name->length && length > 0 && (name->text[length] & 0xC0) == 0x80)
        length--; /* never cut a UTF-8 character */
    copy_stem(target, name->text, length);
    snprintf(target + length, ROOM - length, "~%016llx%s",
             (unsigned long long)XXH3_64bits_withSeed(name->text, name->length, round), suffix);
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Marks the names that are not alone: sorts pointers to them and looks at neighbours. */
static bool mark_collisions(char **names, size_t n, char **sorted, bool *collides)
{
    bool any = false;
    memcpy(sorted, names, n * sizeof *names);
    qsort(sorted, n, sizeof *sorted, compare);
    for (size_t i = 0; i < n; i++) {
        /* Names have equal room in one block, so a pointer tells whose it is. */
        bool same = (i > 0 && strcmp(sorted[i - 1], sorted[i]) == 0) ||
                    (i + 1 < n && strcmp(sorted[i + 1], sorted[i]) == 0);
        collides[(size_t)(sorted[i] - names[0]) / ROOM] = same;
        any |= same;
    }
    return any;
}

int tp_names_make(const struct tp_name *names, size_t n, char ***ret_file_names)
{
    char **made = malloc(n * (sizeof *made + ROOM) + 1);
    char **sorted = malloc(n * sizeof *sorted + 1);
    bool *collides = malloc(n + 1);
    if (made == NULL || sorted == NULL || collides == NULL) {
        free(made);
        free(sorted);
        free(collides);
        return -ENOMEM;
    }
    char *room = (char *)(made + n);
    for (size_t i = 0; i < n; i++) {
        made[i] = room + i * ROOM;
        if (is_plain(&names[i]))
            write_plain(&names[i], made[i]);
        else
            write_hashed(&names[i], 0, made[i]);
    }
    /* A hashed name can only collide by design of an adversary; a few rounds settle it. */
    for (uint64_t round = 0; n > 0 && mark_collisions(made, n, sorted, collides); round++) {
        for (size_t i = 0; i < n; i++) {
            if (collides[i])
                write_hashed(&names[i], round, made[i]);
        }
    }
    free(sorted);
    free(collides);
    *ret_file_names = made;
    return 0;
}
