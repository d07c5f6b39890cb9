/* One thing that `tpinfer bench` measures, and how it is measured. */
#ifndef TENSORPORT_INFER_CLI_BENCH_CASE_H
#define TENSORPORT_INFER_CLI_BENCH_CASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infer/cli/memory_use.h"
#include "infer/cli/runtime.h"
#include "infer/engine/batch.h"

enum tp_bench_kind {
    TP_BENCH_PREFILL, /* the prompts, until there are logits after the last of them */
    TP_BENCH_DECODE,  /* steps of one token for each text, after the prompts */
};

/* "prefill": NULL at the end, in the order of the enum. */
extern const char *const tp_bench_kind_names[];

struct tp_bench_case {
    enum tp_bench_kind kind;
    size_t n;                 /* texts at once */
    uint32_t *const *prompts; /* [n][lengths[i]]; a decode may begin with empty ones */
    const size_t *lengths;    /* [n] */
    size_t first_prompt;      /* number of the first in a file, from 1; 0: random */
    size_t length;            /* of the longest prompt */
};

/* What all cases have in common. */
struct tp_bench_settings {
    size_t tokens;          /* that a decode adds to each text */
    size_t warm_up, repeat; /* runs that do not count, and that do */
    uint64_t seed;
    size_t context; /* of the texts; 0: what the case needs */
};

struct tp_bench_result {
    struct tp_bench_case what; /* without the prompts; the lengths are the result's own */
    size_t *lengths;           /* [n] */
    size_t repeat;
    double *seconds;               /* [repeat] */
    struct tp_batch_counts counts; /* of one run: all are the same */
    uint64_t cache_bytes;          /* that the texts have taken for keys and values, at most */
    struct tp_memory_use memory;   /* at the end */
    /* What the machine could do between the runs that count, before the first and after the last:
     * machines change while they are measured. */
    struct tp_backend_limits *limits; /* [repeat + 1] */
};

/* Who looks on while something is measured. */
struct tp_bench_observer {
    /* Before each step: what is being measured. False ends it. */
    bool (*progress)(void *context, const struct tp_bench_case *what, size_t run, size_t n_runs);

    /* What the machine can do now. Negative errnos with a message. */
    int (*limits)(void *context, struct tp_backend_limits *ret_limits, struct tp_error *error);
    void *context;
};

/* Tokens that each text must have room for. */
size_t tp_bench_case_context(const struct tp_bench_case *what,
                             const struct tp_bench_settings *settings);

/* Refuses, with a message, what the model, --context or the machine has no room for. */
int tp_bench_case_check(const struct tp_bench_case *what, const struct tp_bench_settings *settings,
                        const struct tp_runtime *runtime, struct tp_error *error);

/* Measures; tp_bench_result_clear() frees the result. -EINTR if the observer ended it; errors of
 * the backend with a message. */
int tp_bench_case_run(const struct tp_bench_case *what, const struct tp_bench_settings *settings,
                      struct tp_runtime *runtime, const struct tp_bench_observer *observer,
                      struct tp_bench_result *ret_result, struct tp_error *error);

void tp_bench_result_clear(struct tp_bench_result *result);

#endif
