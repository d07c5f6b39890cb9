/* What it costs to load a view's weights and how fast they are read afterwards, in place and in
 * huge pages.
 *
 *     weights VIEW [--placement none|mapped|huge] [--threads N] [--repeat N]
 *
 * Prints one JSON object. Reading is a sum over all bytes, each thread over an equal share of every
 * tensor. With `none` nothing is loaded: the first reading pays for the page faults.
 */
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fs/base/workers.h"
#include "infer/weights/load.h"

enum { SHARE_ALIGNMENT = 256 };

struct reading {
    const struct tp_weights_view *view;
    size_t n_threads;
    _Atomic uint64_t sum;
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

typedef uint64_t words __attribute__((vector_size(64), aligned(16)));

/* Bytes beyond a multiple of 256 are left out: there are few. */
static uint64_t add_up(const uint8_t *bytes, size_t length)
{
    words sums[2] = {{0}};
    for (size_t i = 0; i + SHARE_ALIGNMENT <= length; i += SHARE_ALIGNMENT) {
        const words *at = (const words *)(bytes + i);
        for (size_t j = 0; j < 4; j++)
            sums[j % 2] += at[j];
    }
    words total = sums[0] + sums[1];
    uint64_t sum = 0;
    for (size_t j = 0; j < 8; j++)
        sum += total[j];
    return sum;
}

static int read_share(void *context, size_t worker)
{
    struct reading *reading = context;
    uint64_t sum = 0;
    for (size_t i = 0; i < reading->view->manifest.n_tensors; i++) {
        const struct tp_weights_array *array = &reading->view->arrays[i];
        size_t share =
            array->tensor->nbytes / reading->n_threads / SHARE_ALIGNMENT * SHARE_ALIGNMENT;
        sum += add_up((const uint8_t *)array->data + worker * share, share);
    }
    atomic_fetch_add(&reading->sum, sum);
    return 0;
}

static void die(const char *message)
{
    fprintf(stderr, "weights: %s\n", message);
    exit(1);
}

int main(int argc, char **argv)
{
    const char *placement = "none";
    size_t n_threads = tp_workers_default(), repeat = 5;
    struct tp_weights_view *view;
    struct tp_error error = {""};
    struct tp_load_report report = {0};
    if (argc < 2)
        die("usage: weights VIEW [--placement none|mapped|huge] [--threads N] [--repeat N]");
    for (int i = 2; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--placement") == 0)
            placement = argv[i + 1];
        else if (strcmp(argv[i], "--threads") == 0)
            n_threads = strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--repeat") == 0)
            repeat = strtoul(argv[i + 1], NULL, 10);
        else
            die("unknown option");
    }
    double start = now();
    tp_mapping_guard("weights");
    if (tp_weights_view_open(argv[1], &view, &error) < 0)
        die(error.text);
    double opened = now() - start;
    if (strcmp(placement, "none") != 0) {
        enum tp_placement where =
            strcmp(placement, "huge") == 0 ? TP_PLACEMENT_HUGE_PAGES : TP_PLACEMENT_MAPPED;
        if (tp_weights_view_load(view, where, n_threads, TP_PROGRESS_NONE, &report, &error) < 0)
            die(error.text);
    }
    printf("{\"placement\": \"%s\", \"threads\": %zu, \"bytes\": %llu, \"open_seconds\": %.4f, "
           "\"load_seconds\": %.4f, \"load_gb_per_s\": %.2f, \"read_gb_per_s\": [",
           placement, n_threads, (unsigned long long)view->total_bytes, opened, report.seconds,
           report.seconds > 0 ? 1e-9 * (double)report.bytes / report.seconds : 0);
    for (size_t i = 0; i < repeat; i++) {
        struct reading reading = {.view = view, .n_threads = n_threads};
        start = now();
        tp_workers_run(n_threads, read_share, &reading);
        printf("%s%.2f", i > 0 ? ", " : "", 1e-9 * (double)view->total_bytes / (now() - start));
    }
    printf("]}\n");
    tp_weights_view_close(view);
    return 0;
}
