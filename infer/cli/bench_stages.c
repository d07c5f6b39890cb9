#include "infer/cli/bench_stages.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/json_text.h"

struct collecting {
    struct tp_bench_stages *stages;
    bool failed;
};

/* A tp_backend_stage_fn. */
static void collect(void *context, const struct tp_backend_stage *stage)
{
    struct collecting *collecting = context;
    struct tp_bench_stages *all = collecting->stages;
    struct tp_backend_stage *stages = realloc(all->stages, (all->n + 1) * sizeof *stages);
    if (stages == NULL) {
        collecting->failed = true;
        return;
    }
    all->stages = stages;
    stages[all->n++] = *stage;
}

int tp_bench_stages_check(const struct tp_runtime *runtime, struct tp_error *error)
{
    if (runtime->kind->measure_stages != NULL)
        return 0;
    return tp_error_set(error, -EOPNOTSUPP,
                        "--stages is for a GPU, and this is the %s: give --backend cuda",
                        runtime->kind->name);
}

int tp_bench_stages_measure(struct tp_runtime *runtime, size_t batch, size_t depth,
                            struct tp_bench_stages *ret_stages, struct tp_error *error)
{
    const struct tp_backend_kind *kind = runtime->kind;
    struct tp_bench_stages stages = {.batch = batch, .depth = depth};
    struct collecting collecting = {&stages, false};
    struct tp_backend_limits before = {0}, after = {0};
    int rc = kind->measure(runtime->backend, false, &before, error);
    if (rc == 0)
        rc = kind->measure_stages(runtime->backend, batch, depth, collect, &collecting, error);
    if (rc == 0)
        rc = kind->measure(runtime->backend, false, &after, error);
    if (rc == 0 && collecting.failed)
        rc = tp_error_set(error, -ENOMEM, "out of memory");
    if (rc < 0) {
        tp_bench_stages_clear(&stages);
        return rc;
    }
    stages.bandwidth =
        before.read_bandwidth > after.read_bandwidth ? before.read_bandwidth : after.read_bandwidth;
    *ret_stages = stages;
    return 0;
}

void tp_bench_stages_clear(struct tp_bench_stages *stages)
{
    free(stages->stages);
    *stages = (struct tp_bench_stages){0};
}

static double bytes_per_second(const struct tp_backend_stage *stage)
{
    return (double)stage->bytes / stage->seconds;
}

void tp_bench_stages_print(const struct tp_bench_stages *stages)
{
    printf("%zu %s after %zu; copies %.1f GB/s\n", stages->batch,
           stages->batch == 1 ? "token" : "tokens", stages->depth, 1e-9 * stages->bandwidth);
    printf("%-14s %8s %10s %10s %10s %8s %6s\n", "stage", "launches", "us each", "us a step",
           "MB a step", "GB/s", "share");
    for (size_t i = 0; i < stages->n; i++) {
        const struct tp_backend_stage *stage = &stages->stages[i];
        printf("%-14s %8zu %10.2f %10.1f %10.3f %8.1f %5.0f%%\n", stage->name, stage->n_launches,
               1e6 * stage->seconds / (double)stage->n_launches, 1e6 * stage->seconds,
               1e-6 * (double)stage->bytes, 1e-9 * bytes_per_second(stage),
               100 * bytes_per_second(stage) / stages->bandwidth);
    }
    printf("\n");
    fflush(stdout);
}

cJSON *tp_bench_stages_item(const struct tp_bench_stages *stages)
{
    cJSON *item = cJSON_CreateObject();
    tp_json_add_unsigned(item, "batch", stages->batch);
    tp_json_add_unsigned(item, "depth", stages->depth);
    cJSON_AddNumberToObject(item, "copy_gb_per_second", 1e-9 * stages->bandwidth);
    cJSON *list = cJSON_AddArrayToObject(item, "stages");
    for (size_t i = 0; i < stages->n; i++) {
        const struct tp_backend_stage *stage = &stages->stages[i];
        cJSON *one = cJSON_CreateObject();
        tp_json_add_text(one, "stage", stage->name, strlen(stage->name));
        tp_json_add_unsigned(one, "launches", stage->n_launches);
        cJSON_AddNumberToObject(one, "seconds", stage->seconds);
        tp_json_add_unsigned(one, "bytes", stage->bytes);
        cJSON_AddNumberToObject(one, "gb_per_second", 1e-9 * bytes_per_second(stage));
        cJSON_AddNumberToObject(one, "share", bytes_per_second(stage) / stages->bandwidth);
        cJSON_AddItemToArray(list, one);
    }
    return item;
}
