/* mxfp4_moe: tokens through the experts that somebody has chosen for them. */
#include <errno.h>
#include <string.h>

#include "decode/codec.h"
#include "infer/cpu/mixture.h"
#include "infer/jax/floats.h"
#include "infer/jax/frame.h"
#include "infer/jax/handlers.h"
#include "infer/jax/process.h"

/* Tokens that go through the experts at once: it bounds the memory between the two products. What
 * comes out for a token does not depend on the others. */
enum { TOKENS_AT_ONCE = 512 };

struct call {
    struct tp_buffer x, y, chosen, weights;
    struct tp_buffer gate_up, gate_up_scales, down, down_scales;
    struct tp_buffer gate_up_bias, down_bias;
    bool has_bias;
    struct tp_mixture_shape shape;
    float alpha, limit;
};

/* ---- what there is ---- */

static int open_arguments(const struct tp_frame *frame, struct call *call, struct tp_error *error)
{
    uint32_t floats = tp_types(TP_F32) | tp_types(TP_BF16), bytes = tp_types(TP_U8);
    const struct {
        const char *name;
        uint32_t types;
        struct tp_buffer *buffer;
    } arguments[] = {
        {"x", floats, &call->x},
        {"experts", tp_types(TP_I32), &call->chosen},
        {"weights", tp_types(TP_F32), &call->weights},
        {"gate_up", bytes, &call->gate_up},
        {"gate_up_scales", bytes, &call->gate_up_scales},
        {"down", bytes, &call->down},
        {"down_scales", bytes, &call->down_scales},
        {"gate_up_bias", floats, &call->gate_up_bias},
        {"down_bias", floats, &call->down_bias},
    };
    enum { ALL = sizeof arguments / sizeof arguments[0], BIASES = 2 };
    int rc = tp_frame_count(frame, ALL - BIASES, ALL, 1, error);
    if (rc != 0)
        return rc;
    size_t n = tp_frame_arguments(frame);
    if (n == ALL - 1)
        return tp_error_set(error, -EINVAL, "expected both biases or none, found one");
    call->has_bias = n == ALL;
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = tp_frame_argument(frame, i, arguments[i].name, arguments[i].types, arguments[i].buffer,
                               error);
    if (rc == 0)
        rc = tp_frame_result(frame, 0, "y", tp_types(call->x.dtype), &call->y, error);
    if (rc == 0)
        rc = tp_frame_f32(frame, "alpha", &call->alpha, error);
    return rc == 0 ? tp_frame_f32(frame, "limit", &call->limit, error) : rc;
}

/* The experts' sizes are those of the scales; everything else must agree. */
static int expect_shapes(struct call *call, struct tp_error *error)
{
    int rc = tp_buffer_expect_mxfp4(&call->gate_up, &call->gate_up_scales, 3, error);
    if (rc == 0)
        rc = tp_buffer_expect_mxfp4(&call->down, &call->down_scales, 3, error);
    if (rc == 0)
        rc = tp_buffer_expect_rank(&call->x, 2, error);
    if (rc == 0)
        rc = tp_buffer_expect_rank(&call->chosen, 2, error);
    if (rc != 0)
        return rc;
    size_t tokens = call->x.dims[0], k = call->chosen.dims[1];
    size_t n_experts = call->gate_up_scales.dims[0];
    size_t hidden_blocks = call->gate_up_scales.dims[2], inner_blocks = call->down_scales.dims[2];
    size_t hidden = hidden_blocks * TP_MXFP4_BLOCK_ELEMENTS;
    size_t inner = inner_blocks * TP_MXFP4_BLOCK_ELEMENTS;
    const struct {
        const struct tp_buffer *buffer;
        size_t dims[3], rank;
    } expected[] = {
        {&call->x, {tokens, hidden}, 2},
        {&call->y, {tokens, hidden}, 2},
        {&call->chosen, {tokens, k}, 2},
        {&call->weights, {tokens, k}, 2},
        {&call->gate_up_scales, {n_experts, 2 * inner, hidden_blocks}, 3},
        {&call->down_scales, {n_experts, hidden, inner_blocks}, 3},
        {&call->gate_up_bias, {n_experts, 2 * inner}, 2},
        {&call->down_bias, {n_experts, hidden}, 2},
    };
    enum { ALL = sizeof expected / sizeof expected[0], BIASES = 2 };
    size_t n = call->has_bias ? ALL : ALL - BIASES;
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = tp_buffer_expect(expected[i].buffer, expected[i].dims, expected[i].rank, error);
    call->shape = (struct tp_mixture_shape){n_experts, k, hidden, inner};
    return rc;
}

/* ---- computing ---- */

static int reserve_mixture(struct tp_process *process, const struct call *call, size_t n_tokens)
{
    struct tp_mixture *mixture = &process->mixture;
    if (memcmp(&mixture->shape, &call->shape, sizeof call->shape) == 0 &&
        n_tokens <= mixture->n_tokens)
        return 0;
    tp_mixture_fini(mixture);
    int rc = tp_mixture_init(&call->shape, n_tokens, mixture);
    if (rc != 0)
        tp_mixture_fini(mixture);
    return rc;
}

/* Expert `n_experts` is none. */
static void choose(struct tp_mixture *mixture, const struct call *call, size_t first, size_t n)
{
    size_t k = call->shape.n_per_token;
    const int32_t *chosen = (const int32_t *)call->chosen.data + first * k;
    const float *weights = (const float *)call->weights.data + first * k;
    for (size_t i = 0; i < n * k; i++) {
        bool here = chosen[i] >= 0 && (size_t)chosen[i] < call->shape.n_experts;
        mixture->chosen[i] = here ? (uint32_t)chosen[i] : (uint32_t)call->shape.n_experts;
        mixture->weights[i] = here ? weights[i] : 0;
    }
}

/* The biases [experts][n] as float32: of all experts, or of the chosen when they are fewer. */
static const float *biases_of(const struct call *call, const struct tp_buffer *bias,
                              struct tp_scratch *scratch)
{
    size_t n_slots = call->chosen.elements, n = bias->dims[1];
    const int32_t *chosen = call->chosen.data;
    if (bias->dtype == TP_F32 || n_slots >= call->shape.n_experts)
        return tp_floats_of(bias, scratch);
    float *floats = tp_scratch_reserve(scratch, bias->elements, sizeof *floats);
    for (size_t i = 0; floats != NULL && i < n_slots; i++) {
        size_t e = (size_t)chosen[i];
        if (chosen[i] >= 0 && e < call->shape.n_experts)
            tp_codecs()->convert[TP_BF16][TP_TARGET_F32]((const uint16_t *)bias->data + e * n,
                                                         floats + e * n, n);
    }
    return floats;
}

static int compute_in(struct tp_process *process, const struct call *call)
{
    size_t tokens = call->x.dims[0], hidden = call->shape.hidden, inner = call->shape.inner;
    size_t n_experts = call->shape.n_experts;
    struct tp_experts experts = {
        .gate_up = {n_experts,
                    {TP_MATRIX_MXFP4, 2 * inner, hidden, call->gate_up.data,
                     call->gate_up_scales.data}},
        .down = {n_experts,
                 {TP_MATRIX_MXFP4, hidden, inner, call->down.data, call->down_scales.data}},
        .alpha = call->alpha,
        .limit = call->limit,
    };
    const float *x = tp_floats_of(&call->x, &process->x);
    float *y = tp_floats_for(&call->y, &process->y);
    int rc =
        reserve_mixture(process, call, tokens < TOKENS_AT_ONCE ? tokens : (size_t)TOKENS_AT_ONCE);
    if (call->has_bias) {
        experts.gate_up_bias = biases_of(call, &call->gate_up_bias, &process->bias[0]);
        experts.down_bias = biases_of(call, &call->down_bias, &process->bias[1]);
        if (experts.gate_up_bias == NULL || experts.down_bias == NULL)
            rc = -ENOMEM;
    }
    if (x == NULL || y == NULL)
        rc = -ENOMEM;
    for (size_t first = 0; rc == 0 && first < tokens; first += TOKENS_AT_ONCE) {
        size_t n = tokens - first < TOKENS_AT_ONCE ? tokens - first : (size_t)TOKENS_AT_ONCE;
        choose(&process->mixture, call, first, n);
        rc = tp_mixture_apply(&process->mixture, &process->workspace, &experts, TP_ACTIVATIONS_F32,
                              x + first * hidden, n, y + first * hidden);
    }
    if (rc == 0)
        tp_floats_deliver(&call->y, y);
    return rc;
}

/* Without tokens, columns, experts or choices there is nothing to add. */
static bool is_empty(const struct call *call)
{
    return call->chosen.elements == 0 || call->shape.hidden == 0 || call->shape.inner == 0 ||
           call->shape.n_experts == 0;
}

static int mxfp4_moe(const struct tp_frame *frame, struct tp_error *error)
{
    struct call call = {.has_bias = false};
    struct tp_process *process;
    int rc = open_arguments(frame, &call, error);
    if (rc == 0)
        rc = expect_shapes(&call, error);
    if (rc != 0)
        return rc;
    if (is_empty(&call)) {
        if (call.y.elements > 0)
            memset(call.y.data, 0, call.y.bytes);
        return 0;
    }
    rc = tp_process_enter(&process, error);
    if (rc != 0)
        return rc;
    rc = compute_in(process, &call);
    tp_process_leave();
    return rc;
}

struct XLA_FFI_Error *tensorport_mxfp4_moe(struct XLA_FFI_CallFrame *frame)
{
    return tp_frame_handle(frame, "mxfp4_moe", mxfp4_moe);
}
