#include "infer/cpu/cores.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/* Whether `cpu` is the first permitted one in `list`, such as "0,64" or "0-1": the hardware
 * threads of its core. */
static bool is_first(int cpu, const cpu_set_t *permitted, const char *list)
{
    for (const char *text = list; *text >= '0' && *text <= '9';) {
        char *end;
        long first = strtol(text, &end, 10), last = first;
        if (*end == '-')
            last = strtol(end + 1, &end, 10);
        for (long i = first; i <= last && i < cpu; i++) {
            if (CPU_ISSET(i, permitted))
                return false;
        }
        text = *end == ',' ? end + 1 : end;
    }
    return true;
}

/* A machine that does not tell has one hardware thread per core. */
static bool stands_for_its_core(int cpu, const cpu_set_t *permitted)
{
    char path[96], list[256] = "";
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return true;
    bool known = fgets(list, sizeof list, file) != NULL;
    fclose(file);
    return !known || is_first(cpu, permitted, list);
}

size_t tp_cores(cpu_set_t *ret_set)
{
    cpu_set_t permitted, cores;
    size_t n = 0;
    CPU_ZERO(&cores);
    if (sched_getaffinity(0, sizeof permitted, &permitted) < 0) {
        CPU_ZERO(&permitted);
        CPU_SET(0, &permitted);
    }
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &permitted) && stands_for_its_core(cpu, &permitted)) {
            CPU_SET(cpu, &cores);
            n++;
        }
    }
    if (ret_set != NULL)
        *ret_set = cores;
    return n > 0 ? n : 1;
}
