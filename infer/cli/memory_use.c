#include "infer/cli/memory_use.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct field {
    const char *name; /* "RssAnon:" */
    uint64_t bytes;   /* of a line "NAME kB"; as it was if there is none */
};

static void read_fields(const char *path, struct field *fields, size_t n)
{
    FILE *file = fopen(path, "re");
    char line[256], name[32];
    uint64_t kibibytes;
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "%31s %" SCNu64, name, &kibibytes) != 2)
            continue;
        for (size_t i = 0; i < n; i++) {
            if (strcmp(name, fields[i].name) == 0)
                fields[i].bytes = 1024 * kibibytes;
        }
    }
    if (file != NULL)
        fclose(file);
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

void tp_memory_use_look(struct tp_memory_use *use)
{
    struct field fields[] = {{"RssAnon:", 0}, {"RssFile:", 0}, {"VmHWM:", 0}};
    read_fields("/proc/self/status", fields, sizeof fields / sizeof *fields);
    use->private_bytes = larger(use->private_bytes, fields[0].bytes);
    use->page_cache_bytes = larger(use->page_cache_bytes, fields[1].bytes);
    use->peak_resident_bytes = larger(use->peak_resident_bytes, fields[2].bytes);
}

uint64_t tp_memory_available(void)
{
    struct field field = {"MemAvailable:", UINT64_MAX};
    read_fields("/proc/meminfo", &field, 1);
    return field.bytes;
}
