/* What it costs to load a view's weights, and how fast they are read afterwards, in the page cache
 * and in huge pages of our own.
 *
 *     weights VIEW [THREADS [ROUNDS]]
 *
 * Prints one JSON object. Reading is a sum over all bytes, each thread over an equal share of every
 * tensor. The placements take turns, so that what else the machine does meets them alike. "first"
 * reads a view that was mapped and not loaded: with the page faults.
 */
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "fs/base/workers.h"
#include "infer/weights/load.h"

enum { STEP = 128, N_PLACEMENTS = 2, ROUNDS_DEFAULT = 20 };

struct reading {
    const struct tp_weights_view *view;
    size_t n_threads;
    _Atomic uint64_t sum;
};

struct candidate {
    struct tp_weights_view *view;
    struct tp_load_report report;
    double *rates; /* [rounds], GB/s */
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void die(const char *message)
{
    fprintf(stderr, "weights: %s\n", message);
    exit(1);
}

typedef uint64_t words __attribute__((vector_size(64), aligned(16)));

/* `length` is a multiple of STEP. */
static uint64_t add_up(const uint8_t *bytes, size_t length)
{
    words sums[2] = {{0}};
    for (size_t i = 0; i < length; i += STEP) {
        const words *at = (const words *)(bytes + i);
        sums[0] += at[0];
        sums[1] += at[1];
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
        size_t share = array->tensor->nbytes / reading->n_threads / STEP * STEP;
        sum += add_up((const uint8_t *)array->data + worker * share, share);
    }
    atomic_fetch_add(&reading->sum, sum);
    return 0;
}

/* GB/s; the bytes that the shares leave out are few. */
static double read_all(const struct tp_weights_view *view, size_t n_threads)
{
    struct reading reading = {.view = view, .n_threads = n_threads};
    double start = now();
    tp_workers_run(n_threads, read_share, &reading);
    return 1e-9 * (double)view->total_bytes / (now() - start);
}

static struct tp_weights_view *open_view(const char *path)
{
    struct tp_weights_view *view;
    struct tp_error error = {""};
    if (tp_weights_view_open(path, &view, &error) < 0)
        die(error.text);
    return view;
}

static int compare_rates(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static void print_candidate(const struct candidate *candidate, size_t rounds, const char *name)
{
    qsort(candidate->rates, rounds, sizeof *candidate->rates, compare_rates);
    printf(", \"%s\": {\"load_seconds\": %.3f, \"load_gb_per_s\": %.2f, \"private_bytes\": %llu, "
           "\"read_gb_per_s\": {\"best\": %.2f, \"median\": %.2f}}",
           name, candidate->report.seconds,
           1e-9 * (double)candidate->report.bytes / candidate->report.seconds,
           (unsigned long long)candidate->report.private_bytes, candidate->rates[rounds - 1],
           candidate->rates[rounds / 2]);
}

int main(int argc, char **argv)
{
    struct candidate candidates[N_PLACEMENTS];
    struct tp_error error = {""};
    if (argc < 2)
        die("usage: weights VIEW [THREADS [ROUNDS]]");
    size_t n_threads = argc > 2 ? strtoul(argv[2], NULL, 10) : tp_workers_default();
    size_t rounds = argc > 3 ? strtoul(argv[3], NULL, 10) : ROUNDS_DEFAULT;
    if (n_threads == 0 || rounds == 0)
        die("expected a number of threads and of rounds");
    tp_mapping_guard("weights");
    double start = now();
    struct tp_weights_view *view = open_view(argv[1]);
    double opened = now() - start, first = read_all(view, n_threads);
    printf("{\"bytes\": %llu, \"threads\": %zu, \"open_seconds\": %.4f, \"first_gb_per_s\": %.2f",
           (unsigned long long)view->total_bytes, n_threads, opened, first);
    tp_weights_view_close(view);
    for (size_t i = 0; i < N_PLACEMENTS; i++) {
        candidates[i].view = open_view(argv[1]);
        candidates[i].rates = calloc(rounds, sizeof(double));
        if (candidates[i].rates == NULL ||
            tp_weights_view_load(candidates[i].view, (enum tp_placement)i, n_threads,
                                 TP_PROGRESS_NONE, &candidates[i].report, &error) < 0)
            die(error.text);
    }
    for (size_t round = 0; round < rounds; round++) {
        for (size_t i = 0; i < N_PLACEMENTS; i++)
            candidates[i].rates[round] = read_all(candidates[i].view, n_threads);
    }
    for (size_t i = 0; i < N_PLACEMENTS; i++) {
        print_candidate(&candidates[i], rounds, tp_placement_names[i]);
        tp_weights_view_close(candidates[i].view);
        free(candidates[i].rates);
    }
    printf("}\n");
    return 0;
}
