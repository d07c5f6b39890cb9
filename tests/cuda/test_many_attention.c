/* Attention of many tokens: tiles of them, pieces of keys, windows, rings and sinks. */
#include <math.h>

#include "tests/cuda/kernel_reference.h"

enum {
    QUERY_ROWS = 64, /* query heads times tokens of a tile, at most, as in the backend */
    SEQUENCES_MAX = 5,
    TOKENS_MAX = 256,
    SIZE_MAX_OF_HEADS = 256,
};

/* A step's tokens of one sequence: positions first, first + 1, ... */
struct run_of_tokens {
    size_t first, n;
};

struct many_attention_case {
    size_t group, n_kv, size, window;         /* query heads of a KV head */
    struct run_of_tokens runs[SEQUENCES_MAX]; /* as many as have tokens */
    size_t spare; /* positions of the context and of rings beyond what must be */
    bool bf16, sinks;
    uint32_t n_parts;
    float scale; /* of scores; 0: 1 / sqrt(size) */
};

static size_t longest_of(const struct many_attention_case *c)
{
    size_t longest = 0;
    for (size_t i = 0; i < SEQUENCES_MAX; i++) {
        size_t end = c->runs[i].first + c->runs[i].n;
        longest = c->runs[i].n > 0 && end > longest ? end : longest;
    }
    return longest;
}

/* What sees `window` keys from each of the tokens of a step. */
static size_t ring_of(const struct many_attention_case *c)
{
    size_t most = 0;
    for (size_t i = 0; i < SEQUENCES_MAX; i++)
        most = c->runs[i].n > most ? c->runs[i].n : most;
    return c->window + most - 1 + c->spare;
}

/* Tokens of a tile, at most. */
static uint32_t tile_max_of(const struct many_attention_case *c)
{
    uint32_t n = c->group < QUERY_ROWS ? QUERY_ROWS / (uint32_t)c->group : 1;
    while (n > 1 && tp_many_attend_shared_bytes(n, (uint32_t)c->group, (uint32_t)c->size) >
                        device_facts()->shared_bytes_max)
        n /= 2;
    return n;
}

/* A step: its sequences, and where its tokens stand. */
struct many_step {
    struct history histories[SEQUENCES_MAX];
    struct tp_gpu_sequence sequences[SEQUENCES_MAX];
    struct tp_query_tile tiles[TOKENS_MAX];
    uint32_t positions[TOKENS_MAX], sequence_of[TOKENS_MAX];
    size_t n, n_sequences, n_tiles;
};

static void add_run(struct many_step *step, const struct cache_shape *cache,
                    const struct run_of_tokens *run, size_t tile_max)
{
    size_t sequence = step->n_sequences++, last = run->first + run->n - 1;
    step->histories[sequence] = make_history(cache, last + 1);
    step->sequences[sequence] = store_history(cache, &step->histories[sequence], last);
    for (size_t i = 0; i < run->n; i += tile_max) {
        size_t n = run->n - i < tile_max ? run->n - i : tile_max;
        step->tiles[step->n_tiles++] = (struct tp_query_tile){(uint32_t)(step->n + i), (uint32_t)n};
    }
    for (size_t i = 0; i < run->n; i++, step->n++) {
        step->positions[step->n] = (uint32_t)(run->first + i);
        step->sequence_of[step->n] = (uint32_t)sequence;
    }
}

static void check_attention(const struct many_attention_case *c)
{
    size_t n_heads = c->group * c->n_kv;
    uint32_t tile_max = tile_max_of(c);
    const struct cache_shape cache = {.n_kv = c->n_kv,
                                      .size = c->size,
                                      .context = longest_of(c) + c->spare,
                                      .ring = ring_of(c),
                                      .is_ring = c->window > 0,
                                      .bf16 = c->bf16};
    struct many_step *step = on_host(1, sizeof *step);
    for (size_t i = 0; i < SEQUENCES_MAX && c->runs[i].n > 0; i++)
        add_run(step, &cache, &c->runs[i], tile_max);
    size_t n = step->n, total = n * n_heads * c->size;
    float *queries = random_floats(total), *sinks = random_floats(n_heads);
    float scale = c->scale != 0 ? c->scale : (float)(1 / sqrt((double)c->size));
    struct tp_many_attend a = {
        .places = {on_device(step->positions, n * sizeof *step->positions),
                   on_device(step->sequence_of, n * sizeof *step->sequence_of)},
        .cache = cache_of(&cache, step->sequences, step->n_sequences),
        .tiles = on_device(step->tiles, step->n_tiles * sizeof *step->tiles),
        .n_heads = (uint32_t)n_heads,
        .window = (uint32_t)c->window,
        .scale = scale,
        .sinks = c->sinks ? on_device(sinks, n_heads * sizeof *sinks) : NULL,
        .queries = on_device(queries, total * sizeof *queries),
        .columns = empty_columns(n, n_heads * c->size, c->n_parts, false),
        .tile_max = tile_max};
    launch_grid(tp_many_attend, &a, sizeof a,
                (unsigned[]){(unsigned)step->n_tiles, (unsigned)c->n_kv, 1}, TP_MANY_ATTEND_THREADS,
                tp_many_attend_shared_bytes(tile_max, (uint32_t)c->group, (uint32_t)c->size));
    const float *found = read_columns(&a.columns, n);
    /* An error of a score is one of its weight. */
    double mixed[SIZE_MAX_OF_HEADS], rounding = fabs(scale) * (double)c->size * 0x1p-23,
                                     tolerance = c->n_parts == 1 ? 0x1p-8 : fmax(rounding, 4e-6);
    for (size_t i = 0; i < n * n_heads; i++) {
        size_t token = i / n_heads, head = i % n_heads;
        expected_attention(&cache, &step->histories[step->sequence_of[token]], c->window,
                           step->positions[token], head / c->group, queries + i * c->size,
                           c->sinks ? &sinks[head] : NULL, scale, mixed);
        for (size_t j = 0; j < c->size; j++)
            expect_near(found[i * c->size + j], mixed[j], 1, tolerance, "mixed of token, head",
                        token, head);
    }
}

/* From the beginning, about the edges of tiles of tokens and of pieces of keys, which are both 64;
 * windows that end within a piece, at its edge and behind it, with rings that just hold them. */
static void prompts_and_windows(void)
{
    static const size_t n[] = {1, 63, 64, 65, 127, 128, 129},
                        windows[] = {0, 1, 2, 63, 64, 65, 128};
    for (size_t i = 0; i < 7; i++) {
        check_attention(&(struct many_attention_case){.group = 1,
                                                      .n_kv = 2,
                                                      .size = 8,
                                                      .window = windows[i],
                                                      .runs = {{0, n[i]}},
                                                      .bf16 = i % 2 == 1,
                                                      .sinks = i % 3 != 1,
                                                      .n_parts = 3});
        check_attention(&(struct many_attention_case){.group = 2,
                                                      .n_kv = 1,
                                                      .size = 4,
                                                      .window = windows[6 - i],
                                                      .runs = {{0, n[i]}},
                                                      .spare = 7,
                                                      .bf16 = i % 2 == 0,
                                                      .sinks = i % 3 == 1,
                                                      .n_parts = 3});
    }
}

/* Pieces of a prompt: behind many positions, rings have wrapped. */
static void prompts_that_go_on(void)
{
    static const struct run_of_tokens runs[] = {{1, 65},  {63, 2},   {64, 64},
                                                {65, 10}, {200, 70}, {130, 9}};
    static const size_t windows[] = {0, 1, 9, 64, 100};
    for (size_t i = 0; i < 6; i++) {
        for (size_t j = 0; j < 5; j++)
            check_attention(&(struct many_attention_case){.group = 3,
                                                          .n_kv = 1,
                                                          .size = 6,
                                                          .window = windows[j],
                                                          .runs = {runs[i]},
                                                          .spare = j == 2 ? 5 : 0,
                                                          .bf16 = (i + j) % 2 == 0,
                                                          .sinks = i % 2 == 0,
                                                          .n_parts = 3});
    }
}

/* Neighbours in a step have nothing to do with each other. */
static void prompts_of_several_sequences(void)
{
    static const size_t windows[] = {0, 7, 64};
    for (size_t i = 0; i < 3; i++)
        check_attention(
            &(struct many_attention_case){.group = 2,
                                          .n_kv = 2,
                                          .size = 10,
                                          .window = windows[i],
                                          .runs = {{0, 3}, {70, 33}, {5, 1}, {128, 40}, {63, 2}},
                                          .spare = i,
                                          .bf16 = i == 1,
                                          .sinks = i != 2,
                                          .n_parts = i == 0 ? 1 : 3});
}

/* More heads than a tile has rows, too; sizes that are no multiples of what a thread takes. */
static void prompts_of_groups_and_head_sizes(void)
{
    static const size_t groups[] = {1, 3, 8, 16, 65}, sizes[] = {1, 2, 20, 63, 64, 80, 128};
    for (size_t i = 0; i < 5; i++)
        check_attention(&(struct many_attention_case){.group = groups[i],
                                                      .n_kv = 1 + i % 2,
                                                      .size = sizes[i],
                                                      .window = i % 2 * 6,
                                                      .runs = {{60, 9}},
                                                      .bf16 = i % 2 == 1,
                                                      .sinks = i % 2 == 0,
                                                      .n_parts = i % 3 == 2 ? 1 : 3});
    for (size_t i = 0; i < 7; i++)
        check_attention(&(struct many_attention_case){.group = 2,
                                                      .n_kv = 2,
                                                      .size = sizes[i],
                                                      .runs = {{62, 4}},
                                                      .bf16 = i % 2 == 0,
                                                      .sinks = true,
                                                      .n_parts = 3});
}

/* Scores whose exponentials float32 has no room for, of either sign: later pieces have larger ones,
 * or smaller. */
static void huge_scores_of_prompts(void)
{
    static const float scales[] = {300, -2e3f};
    for (size_t i = 0; i < 4; i++)
        check_attention(&(struct many_attention_case){.group = 2,
                                                      .n_kv = 1,
                                                      .size = 4,
                                                      .window = i % 2 * 70,
                                                      .runs = {{0, 67}, {130, 5}},
                                                      .bf16 = i % 2 == 0,
                                                      .sinks = i < 2,
                                                      .n_parts = 3,
                                                      .scale = scales[i / 2]});
}

static void large_prompts(void)
{
    for (size_t window = 0; window <= LARGE_WINDOW; window += LARGE_WINDOW)
        check_attention(&(struct many_attention_case){.group = LARGE_HEADS / LARGE_KV_HEADS,
                                                      .n_kv = LARGE_KV_HEADS,
                                                      .size = LARGE_HEAD_SIZE,
                                                      .window = window,
                                                      .runs = {{0, 130}, {3000, 100}},
                                                      .spare = 500,
                                                      .bf16 = true,
                                                      .sinks = true,
                                                      .n_parts = 3});
}

const struct kernel_test many_attention_tests[] = {
    {"prompts_and_windows", prompts_and_windows, 0},
    {"prompts_that_go_on", prompts_that_go_on, 0},
    {"prompts_of_several_sequences", prompts_of_several_sequences, 0},
    {"prompts_of_groups_and_head_sizes", prompts_of_groups_and_head_sizes, 0},
    {"huge_scores_of_prompts", huge_scores_of_prompts, 0},
    {"large_prompts", large_prompts, IS_LARGE},
    {NULL, NULL, 0},
};
