/* Attention of single positions: windows, rings, splits and sinks. */
#include <math.h>

#include "tests/cuda/kernel_reference.h"

struct attention_case {
    size_t group, n_kv, size, window; /* query heads of a KV head */
    size_t context;                   /* 0: as long as it must be */
    const uint32_t *positions;        /* [n], ascending where they share a sequence */
    size_t n;
    bool bf16, sinks, one_sequence;
    uint32_t n_parts;
    float scale; /* of scores; 0: 1 / sqrt(size) */
};

static void check_attention(const struct attention_case *c)
{
    size_t n_heads = c->group * c->n_kv, longest = 0;
    for (size_t i = 0; i < c->n; i++)
        longest = c->positions[i] + 1 > longest ? c->positions[i] + 1 : longest;
    size_t context = c->context > 0 ? c->context : longest,
           seen = c->window > 0 && c->window < longest ? c->window : longest;
    const struct cache_shape cache = {.n_kv = c->n_kv,
                                      .size = c->size,
                                      .context = context,
                                      .ring = c->window + TP_FEW,
                                      .is_ring = c->window > 0,
                                      .bf16 = c->bf16};
    size_t n_splits = seen / TP_GPU_KEY_SPLIT + 2, per_split = c->n * c->n_kv * n_splits * c->group;
    float *queries = random_floats(c->n * n_heads * c->size), *sinks = random_floats(n_heads);
    struct history history = make_history(&cache, longest);
    struct tp_gpu_sequence sequences[TP_FEW];
    uint32_t sequence_of[TP_FEW];
    for (size_t i = 0; i < c->n; i++) {
        sequence_of[i] = (uint32_t)(c->n - 1 - i);
        sequences[sequence_of[i]] =
            store_history(&cache, &history, c->one_sequence ? longest - 1 : c->positions[i]);
    }
    float scale = c->scale != 0 ? c->scale : (float)(1 / sqrt((double)c->size));
    struct tp_attend a = {.places = {on_device(c->positions, c->n * sizeof *c->positions),
                                     on_device(sequence_of, c->n * sizeof *sequence_of)},
                          .cache = cache_of(&cache, sequences, c->n),
                          .n_heads = (uint32_t)n_heads,
                          .window = (uint32_t)c->window,
                          .scale = scale,
                          .sinks = c->sinks ? on_device(sinks, n_heads * sizeof *sinks) : NULL,
                          .queries = on_device(queries, c->n * n_heads * c->size * sizeof *queries),
                          .n_splits = (uint32_t)n_splits,
                          .mixed = zeros_on_device(per_split * c->size * sizeof(float)),
                          .sums = zeros_on_device(per_split * 2 * sizeof(float)),
                          .arrived = zeros_on_device(c->n * c->n_kv * sizeof(uint32_t)),
                          .columns = empty_columns(c->n, n_heads * c->size, c->n_parts, false)};
    launch_grid(tp_attend, &a, sizeof a,
                (unsigned[]){(unsigned)c->n, (unsigned)c->n_kv, (unsigned)n_splits},
                TP_ATTEND_THREADS, tp_attend_shared_bytes((uint32_t)c->group, (uint32_t)c->size));
    const float *found = read_columns(&a.columns, c->n);
    const uint32_t *arrived = from_device(a.arrived, c->n * c->n_kv * sizeof *arrived);
    for (size_t i = 0; i < c->n * c->n_kv; i++)
        expect(arrived[i] == 0, "counter %zu of arrivals stays %u", i, arrived[i]);
    double mixed[256], tolerance = c->n_parts == 1 ? 0x1p-8 : c->scale > 1 ? 1e-4 : 4e-6;
    for (size_t i = 0; i < c->n * n_heads; i++) {
        size_t token = i / n_heads, head = i % n_heads;
        expected_attention(&cache, &history, c->window, c->positions[token], head / c->group,
                           queries + i * c->size, c->sinks ? &sinks[head] : NULL, scale, mixed);
        for (size_t j = 0; j < c->size; j++)
            expect_near(found[i * c->size + j], mixed[j], 1, tolerance, "mixed", i, j);
    }
}

/* Each position by itself, with and without a window that slides over splits and rings that wrap.
 */
static void positions_and_windows(void)
{
    static const uint32_t positions[] = {0, 1, 127, 128, 129, 255, 256, 1000};
    static const size_t windows[] = {0, 1, 2, 127, 128, 129};
    for (size_t i = 0; i < 6; i++) {
        struct attention_case c = {2, 2,          8,          windows[i], 0, positions,
                                   8, i % 2 == 1, i % 3 != 1, false,      3, 0};
        check_attention(&c);
        c.context = 1100;
        c.sinks = !c.sinks;
        check_attention(&c);
    }
}

/* The last eight positions of one sequence in one step: the ring holds exactly what they see. */
static void a_step_of_one_sequence(void)
{
    static const uint32_t at[][TP_FEW] = {{0, 1, 2, 3, 4, 5, 6, 7},
                                          {125, 126, 127, 128, 129, 130, 131, 132},
                                          {300, 301, 302, 303, 304, 305, 306, 307}};
    static const size_t windows[] = {0, 1, 5, 128};
    for (size_t i = 0; i < 3; i++) {
        for (size_t j = 0; j < 4; j++)
            check_attention(&(struct attention_case){3, 1, 10, windows[j], 320, at[i], TP_FEW,
                                                     j % 2 == 0, true, true, 3, 0});
    }
}

static void groups_and_head_sizes(void)
{
    static const size_t groups[] = {1, 3, 8, 16}, sizes[] = {2, 20, 64, 80, 128, 256};
    static const uint32_t positions[] = {130, 3};
    for (size_t i = 0; i < 4; i++) {
        for (size_t j = 0; j < 6; j++)
            check_attention(&(struct attention_case){
                groups[i], 1 + j % 2, sizes[j], (i + j) % 2 * 128, 0, positions, 2,
                (i + j) % 3 == 0, j % 2 == 0, false, j % 3 == 0 ? 1 : 3, 0});
    }
}

/* Scores whose exponentials float32 has no room for, of either sign. */
static void huge_scores(void)
{
    static const uint32_t positions[] = {0, 5, 200, 300};
    for (size_t i = 0; i < 4; i++)
        check_attention(&(struct attention_case){2, 1, 4, i % 2 * 128, 0, positions, 4, i % 2 == 0,
                                                 i < 2, false, 3, i < 2 ? 300.0f : -2e4f});
}

static void large_attention(void)
{
    static const uint32_t positions[] = {8191, 0, 127, 128, 4095, 4096, 5000, 2000};
    for (size_t window = 0; window <= LARGE_WINDOW; window += LARGE_WINDOW)
        check_attention(&(struct attention_case){LARGE_HEADS / LARGE_KV_HEADS, LARGE_KV_HEADS,
                                                 LARGE_HEAD_SIZE, window, 0, positions, TP_FEW,
                                                 true, true, false, 3, 0});
}

const struct kernel_test attention_tests[] = {
    {"positions_and_windows", positions_and_windows, 0},
    {"a_step_of_one_sequence", a_step_of_one_sequence, 0},
    {"groups_and_head_sizes", groups_and_head_sizes, 0},
    {"huge_scores", huge_scores, 0},
    {"large_attention", large_attention, IS_LARGE},
    {NULL, NULL, 0},
};
