/* mxfp4_moe for a GPU. */
#include <errno.h>

#include "infer/jax/calls.h"
#include "infer/jax/cuda/gpu.h"
#include "infer/jax/handlers.h"

/* Tokens that go through the experts at once: it bounds the memory between the two products. */
enum { TOKENS_AT_ONCE = 2048 };

/* What launches and slots can count; published mixtures have 8 of 128. */
enum { PER_TOKEN_MAX = 1024, EXPERTS_OF_MANY_MAX = 1 << 14 };

/* Memory for tokens at their experts, and what they go through. */
struct plan {
    const struct tp_experts_call *call;
    struct tp_gpu_matrix gate_up, down; /* the first experts' */
    const float *gate_up_bias, *down_bias;
    bool is_few, tiles;
    size_t n; /* tokens at once */

    float *biases[2]; /* made of others */
    struct tp_columns columns, inners;
    float *outputs;
    /* Of few tokens. */
    struct tp_routing routing;
    uint32_t *arrived;
    float *x;       /* [T][H] */
    float *no_norm; /* [H], and the following: of a norm that nobody wants */
    struct tp_columns next;
    struct tp_squares squares;
    /* Of many. */
    struct tp_slots slots;
};

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t tiles_of(size_t n, size_t tile)
{
    return (n + tile - 1) / tile;
}

/* ---- memory ---- */

static void take_few(struct tp_arena *arena, struct plan *plan)
{
    const struct tp_experts_call *call = plan->call;
    size_t n_choices = plan->n * call->n_per_token, hidden = call->hidden;
    size_t n_tiles = tiles_of(hidden, TP_TILE_ROWS);
    plan->routing =
        (struct tp_routing){.scales = tp_arena_take(arena, TP_FEW, sizeof(float)),
                            .weights = tp_arena_take(arena, n_choices, sizeof(float)),
                            .chosen = tp_arena_take(arena, n_choices, sizeof(uint32_t)),
                            .n_active = tp_arena_take(arena, 1, sizeof(uint32_t)),
                            .active = tp_arena_take(arena, n_choices, sizeof(uint32_t)),
                            .slots = tp_arena_take(arena, n_choices * TP_FEW, sizeof(uint16_t)),
                            .n_experts = (uint32_t)call->n_experts,
                            .n_per_token = (uint32_t)call->n_per_token};
    plan->arrived = tp_arena_take(arena, n_tiles, sizeof(uint32_t));
    plan->x = tp_arena_take(arena, plan->n * hidden, sizeof(float));
    plan->no_norm = tp_arena_take(arena, hidden, sizeof(float));
    plan->next = tp_arena_columns(arena, plan->n, hidden, 1);
    plan->squares = (struct tp_squares){
        .sums = tp_arena_take(arena, n_tiles * TP_FEW, sizeof(float)),
        .n_sums = (uint32_t)n_tiles,
    };
}

static void take_many(struct tp_arena *arena, struct plan *plan)
{
    size_t n_choices = plan->n * plan->call->n_per_token, n_experts = plan->call->n_experts;
    plan->slots = (struct tp_slots){
        .first = tp_arena_take(arena, n_experts + 1, sizeof(uint32_t)),
        .tokens = tp_arena_take(arena, n_choices, sizeof(uint32_t)),
        .of_token = tp_arena_take(arena, n_choices, sizeof(uint32_t)),
        .chosen = tp_arena_take(arena, n_choices, sizeof(uint32_t)),
        .n_experts = (uint32_t)n_experts,
        .n_per_token = (uint32_t)plan->call->n_per_token,
    };
}

static void take(struct tp_arena *arena, void *context)
{
    struct plan *plan = context;
    const struct tp_experts_call *call = plan->call;
    const struct tp_buffer *biases[] = {&call->gate_up_bias, &call->down_bias};
    size_t n_choices = plan->n * call->n_per_token;
    for (size_t i = 0; i < 2; i++) {
        bool is_other = call->has_bias && biases[i]->dtype != TP_F32;
        plan->biases[i] =
            is_other ? tp_arena_take(arena, biases[i]->elements, sizeof(float)) : NULL;
    }
    plan->columns = tp_arena_columns(arena, plan->n, call->hidden, tp_gpu_parts(&call->x));
    plan->inners = tp_arena_columns(arena, n_choices, call->inner, TP_PARTS_MAX);
    plan->columns.shuffled = plan->inners.shuffled = plan->tiles;
    plan->outputs = tp_arena_take(arena, n_choices * call->hidden, sizeof(float));
    if (plan->is_few)
        take_few(arena, plan);
    else
        take_many(arena, plan);
}

/* ---- few tokens ---- */

static void launch_few(struct tp_gpu_call *gpu, const struct plan *plan,
                       tp_kernel_fn *const *kernels, const void *arguments, size_t bytes, size_t n,
                       uint32_t n_parts, size_t n_tiles)
{
    enum { ANY, ONE, THREE };
    uint32_t groups = !plan->tiles || n_parts * n <= TP_FEW ? 1 : n_parts;
    size_t active = least(n * plan->call->n_per_token, plan->call->n_experts);
    const unsigned grid[3] = {tp_gpu_few_blocks(gpu, active * n_tiles), 1, 1};
    tp_gpu_launch(gpu,
                  kernels[!plan->tiles  ? ANY
                          : groups == 1 ? ONE
                                        : THREE],
                  arguments, bytes, grid, TP_FEW_THREADS,
                  tp_few_shared_bytes(groups, (uint32_t)n, 0));
}

static void route(struct tp_gpu_call *gpu, const struct plan *plan, size_t first, size_t n,
                  float *x)
{
    const struct tp_experts_call *call = plan->call;
    size_t k = call->n_per_token;
    const unsigned grid[3] = {(unsigned)(1 + n * k + n), 1, 1};
    struct tp_array_route a = {.choice = {(const int32_t *)call->chosen.data + first * k,
                                          (const float *)call->weights.data + first * k,
                                          (uint32_t)n},
                               .routing = plan->routing,
                               .hidden = (uint32_t)call->hidden,
                               .outputs = plan->outputs,
                               .x = x,
                               .arrived = plan->arrived,
                               .n_arrived = (uint32_t)tiles_of(call->hidden, TP_TILE_ROWS),
                               .inners = plan->inners};
    tp_gpu_launch(gpu, tp_array_route, &a, sizeof a, grid, TP_ROW_THREADS, 0);
}

static void mix_few(struct tp_gpu_call *gpu, const struct plan *plan, size_t first, size_t n)
{
    static tp_kernel_fn *const gate_up[] = {tp_few_gate_up_any, tp_few_gate_up_wide_1,
                                            tp_few_gate_up_wide_3};
    static tp_kernel_fn *const down[] = {tp_few_down_any, tp_few_down_wide_1, tp_few_down_wide_3};
    const struct tp_experts_call *call = plan->call;
    size_t at = first * call->hidden;
    float *x = call->y.dtype == TP_F32 ? (float *)call->y.data + at : plan->x;
    struct tp_few_gate_up a = {.gate_up = plan->gate_up,
                               .bias = plan->gate_up_bias,
                               .columns = plan->columns,
                               .routing = plan->routing,
                               .n_tokens = (uint32_t)n,
                               .inner = (uint32_t)call->inner,
                               .alpha = call->alpha,
                               .limit = call->limit,
                               .inners = plan->inners};
    struct tp_few_down b = {.down = plan->down,
                            .bias = plan->down_bias,
                            .inners = plan->inners,
                            .routing = plan->routing,
                            .n_tokens = (uint32_t)n,
                            .outputs = plan->outputs,
                            .arrived = plan->arrived,
                            .x = x,
                            .weight = plan->no_norm,
                            .columns = plan->next,
                            .squares = plan->squares};
    tp_gpu_make_columns(gpu, &call->x, at, n, &plan->columns);
    route(gpu, plan, first, n, x);
    launch_few(gpu, plan, gate_up, &a, sizeof a, n, plan->columns.n_parts,
               tiles_of(call->inner, TP_TILE_UNITS));
    launch_few(gpu, plan, down, &b, sizeof b, n, plan->inners.n_parts,
               tiles_of(call->hidden, TP_TILE_ROWS));
    if (x == plan->x)
        tp_gpu_convert(gpu, (struct tp_numbers){x, false}, tp_gpu_numbers(&call->y, at),
                       n * call->hidden);
}

/* ---- many ---- */

static void sort(struct tp_gpu_call *gpu, const struct plan *plan, size_t first, size_t n)
{
    const struct tp_experts_call *call = plan->call;
    size_t k = call->n_per_token;
    const unsigned any[3] = {tp_gpu_blocks(gpu, n * k), 1, 1}, one[3] = {1, 1, 1};
    struct tp_array_choose a = {
        .choice = {(const int32_t *)call->chosen.data + first * k, NULL, (uint32_t)n},
        .slots = plan->slots,
        .inners = plan->inners};
    struct tp_many_sort b = {.slots = plan->slots, .n_tokens = (uint32_t)n};
    tp_gpu_launch(gpu, tp_array_choose, &a, sizeof a, any, TP_ROW_THREADS, 0);
    tp_gpu_launch(gpu, tp_many_sort, &b, sizeof b, one, TP_SORT_THREADS,
                  call->n_experts * sizeof(uint32_t));
}

static void launch_many(struct tp_gpu_call *gpu, const struct plan *plan, tp_kernel_fn *kernel,
                        const void *arguments, size_t bytes, size_t n, uint32_t n_parts,
                        size_t n_rows)
{
    size_t n_choices = n * plan->call->n_per_token;
    const unsigned grid[3] = {
        (unsigned)tiles_of(n_rows, TP_MANY_ROWS),
        (unsigned)(n_choices / TP_MANY_VECTORS + least(n_choices, plan->call->n_experts)), 1};
    tp_gpu_launch(gpu, kernel, arguments, bytes, grid, TP_MANY_THREADS,
                  tp_many_shared_bytes(TP_MATRIX_MXFP4, n_parts));
}

static void mix_many(struct tp_gpu_call *gpu, const struct plan *plan, size_t first, size_t n)
{
    const struct tp_experts_call *call = plan->call;
    const unsigned tokens[3] = {(unsigned)n, 1, 1};
    uint32_t n_parts = plan->columns.n_parts;
    struct tp_many_gate_up a = {.gate_up = plan->gate_up,
                                .bias = plan->gate_up_bias,
                                .columns = plan->columns,
                                .slots = plan->slots,
                                .inner = (uint32_t)call->inner,
                                .alpha = call->alpha,
                                .limit = call->limit,
                                .inners = plan->inners};
    struct tp_many_down b = {.down = plan->down,
                             .bias = plan->down_bias,
                             .inners = plan->inners,
                             .slots = plan->slots,
                             .outputs = plan->outputs};
    struct tp_array_mix c = {.outputs = plan->outputs,
                             .weights =
                                 (const float *)call->weights.data + first * call->n_per_token,
                             .slots = plan->slots,
                             .y = tp_gpu_numbers(&call->y, first * call->hidden),
                             .hidden = (uint32_t)call->hidden};
    tp_gpu_make_columns(gpu, &call->x, first * call->hidden, n, &plan->columns);
    sort(gpu, plan, first, n);
    launch_many(gpu, plan, n_parts == 1 ? tp_many_gate_up_wide_1 : tp_many_gate_up_wide_3, &a,
                sizeof a, n, n_parts, 2 * call->inner);
    launch_many(gpu, plan, tp_many_down_wide_3, &b, sizeof b, n, TP_PARTS_MAX, call->hidden);
    tp_gpu_launch(gpu, tp_array_mix, &c, sizeof c, tokens, TP_ROW_THREADS, 0);
}

/* ---- the call ---- */

static const float *bias_of(struct tp_gpu_call *gpu, const struct tp_buffer *bias, float *made)
{
    if (made == NULL)
        return bias->data;
    tp_gpu_convert(gpu, tp_gpu_numbers(bias, 0), (struct tp_numbers){made, false}, bias->elements);
    return made;
}

static struct plan make_plan(const struct tp_gpu_call *gpu, const struct tp_experts_call *call)
{
    struct plan plan = {.call = call,
                        .gate_up = tp_gpu_matrix_of(TP_MATRIX_MXFP4, 2 * call->inner, call->hidden,
                                                    call->gate_up.data, call->gate_up_scales.data),
                        .down = tp_gpu_matrix_of(TP_MATRIX_MXFP4, call->hidden, call->inner,
                                                 call->down.data, call->down_scales.data)};
    size_t shared = tp_many_shared_bytes(TP_MATRIX_MXFP4, TP_PARTS_MAX);
    size_t sorts = call->n_experts * sizeof(uint32_t), has = gpu->facts->shared_bytes_max;
    plan.tiles = tp_gpu_uses_tiles(gpu, &plan.gate_up) && tp_gpu_uses_tiles(gpu, &plan.down);
    plan.is_few = !plan.tiles || call->n_tokens <= TP_FEW || shared > has || sorts > has ||
                  call->n_experts > EXPERTS_OF_MANY_MAX;
    plan.n = least(call->n_tokens, plan.is_few ? (size_t)TP_FEW : (size_t)TOKENS_AT_ONCE);
    return plan;
}

static void mix(struct tp_gpu_call *gpu, const struct tp_experts_call *call)
{
    struct plan plan = make_plan(gpu, call);
    tp_gpu_reserve(gpu, take, &plan);
    if (call->has_bias && gpu->rc == 0) {
        plan.gate_up_bias = bias_of(gpu, &call->gate_up_bias, plan.biases[0]);
        plan.down_bias = bias_of(gpu, &call->down_bias, plan.biases[1]);
    }
    for (size_t first = 0; gpu->rc == 0 && first < call->n_tokens; first += plan.n) {
        size_t n = least(plan.n, call->n_tokens - first);
        if (plan.is_few)
            mix_few(gpu, &plan, first, n);
        else
            mix_many(gpu, &plan, first, n);
    }
}

static int check_sizes(const struct tp_experts_call *call, struct tp_error *error)
{
    const struct tp_buffer *buffers[] = {&call->x, &call->gate_up_scales, &call->down_scales};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof buffers / sizeof *buffers; i++)
        rc = tp_gpu_check_dims(buffers[i], error);
    if (rc == 0 && call->n_per_token > PER_TOKEN_MAX)
        rc = tp_error_set(
            error, -EINVAL,
            "argument \"experts\": expected at most %d for a token on a GPU, found %zu",
            PER_TOKEN_MAX, call->n_per_token);
    return rc;
}

static int mxfp4_moe(const struct tp_frame *frame, struct tp_error *error)
{
    struct tp_experts_call call;
    struct tp_gpu_call gpu;
    int rc = tp_open_mxfp4_moe(frame, &call, error);
    if (rc == 0)
        rc = check_sizes(&call, error);
    if (rc != 0 || call.y.elements == 0)
        return rc;
    rc = tp_gpu_begin(frame, &gpu, error);
    if (rc != 0)
        return rc;
    if (tp_experts_call_is_empty(&call))
        gpu.rc = tp_device_zero(gpu.device, call.y.data, call.y.bytes, error);
    else
        mix(&gpu, &call);
    return tp_gpu_end(&gpu);
}

struct XLA_FFI_Error *tensorport_mxfp4_moe(struct XLA_FFI_CallFrame *frame)
{
    return tp_frame_handle(frame, "mxfp4_moe", mxfp4_moe);
}
