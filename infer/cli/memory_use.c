#include "infer/cli/memory_use.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void tp_memory_use_look(struct tp_memory_use *use)
{
    const struct {
        const char *name;
        uint64_t *bytes;
    } fields[] = {{"RssAnon:", &use->private_bytes},
                  {"RssFile:", &use->page_cache_bytes},
                  {"VmHWM:", &use->peak_resident_bytes}};
    FILE *file = fopen("/proc/self/status", "re");
    char line[256], name[32];
    uint64_t kilobytes;
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "%31s %" SCNu64, name, &kilobytes) != 2)
            continue;
        for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
            if (strcmp(name, fields[i].name) == 0 && 1024 * kilobytes > *fields[i].bytes)
                *fields[i].bytes = 1024 * kilobytes;
        }
    }
    if (file != NULL)
        fclose(file);
}
