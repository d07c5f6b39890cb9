/* Checking what handlers are called with. */
#include "infer/jax/calls.h"

#include <errno.h>
#include <string.h>

#include "decode/codec.h"

/* ---- products ---- */

/* `leading` axes, which x shares with the weights, and the number of vectors for each of them. */
static int shape_vectors(struct tp_products_call *p, const size_t *leading, size_t n_leading,
                         struct tp_error *error)
{
    size_t expected[TP_BUFFER_MAX_RANK];
    int rc = tp_buffer_expect_rank(&p->x, n_leading + 1, error);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < p->x.rank; i++)
        expected[i] = i < n_leading ? leading[i] : p->x.dims[i];
    expected[p->x.rank - 1] = p->w.columns;
    rc = tp_buffer_expect(&p->x, expected, p->x.rank, error);
    if (rc != 0)
        return rc;
    p->n_batches = p->n_vectors = 1;
    for (size_t i = 0; i + 1 < p->x.rank; i++) /* cannot overflow: see below */
        *(i < n_leading ? &p->n_batches : &p->n_vectors) *= expected[i];
    expected[p->x.rank - 1] = p->w.rows;
    return tp_buffer_expect(&p->y, expected, p->x.rank, error);
}

static int shape_bias(const struct tp_products_call *p, const size_t *leading, size_t n_leading,
                      struct tp_error *error)
{
    size_t expected[TP_BUFFER_MAX_RANK];
    for (size_t i = 0; i < n_leading; i++)
        expected[i] = leading[i];
    expected[n_leading] = p->w.rows;
    return p->has_bias ? tp_buffer_expect(&p->bias, expected, n_leading + 1, error) : 0;
}

/* x, the bias behind the weights if there is one, and the result. */
static int open_products(const struct tp_frame *frame, size_t n_weights, struct tp_products_call *p,
                         struct tp_error *error)
{
    static const enum tp_dtype f32 = TP_F32, bf16 = TP_BF16;
    uint32_t types = tp_types(f32) | tp_types(bf16);
    int rc = tp_frame_count(frame, 1 + n_weights, 2 + n_weights, 1, error);
    if (rc != 0)
        return rc;
    p->has_bias = tp_frame_arguments(frame) == 2 + n_weights;
    rc = tp_frame_argument(frame, 0, "x", types, &p->x, error);
    if (rc == 0 && p->has_bias)
        rc = tp_frame_argument(frame, 1 + n_weights, "bias", types, &p->bias, error);
    return rc == 0 ? tp_frame_result(frame, 0, "y", tp_types(p->x.dtype), &p->y, error) : rc;
}

int tp_open_mxfp4_matmul(const struct tp_frame *frame, struct tp_products_call *ret_call,
                         struct tp_error *error)
{
    struct tp_products_call p = {.has_bias = false};
    struct tp_buffer blocks, scales;
    int rc = open_products(frame, 2, &p, error);
    if (rc == 0)
        rc = tp_frame_argument(frame, 1, "blocks", tp_types(TP_U8), &blocks, error);
    if (rc == 0)
        rc = tp_frame_argument(frame, 2, "scales", tp_types(TP_U8), &scales, error);
    if (rc == 0)
        rc = tp_buffer_expect_mxfp4(&blocks, &scales, 2, error);
    if (rc != 0)
        return rc;
    size_t n_leading = scales.rank - 2;
    p.w = (struct tp_matrix){TP_MATRIX_MXFP4, scales.dims[n_leading],
                             scales.dims[n_leading + 1] * TP_MXFP4_BLOCK_ELEMENTS, blocks.data,
                             scales.data};
    rc = shape_vectors(&p, scales.dims, n_leading, error);
    if (rc == 0)
        rc = shape_bias(&p, scales.dims, n_leading, error);
    if (rc == 0)
        *ret_call = p;
    return rc;
}

int tp_open_dense_matmul(const struct tp_frame *frame, struct tp_products_call *ret_call,
                         struct tp_error *error)
{
    struct tp_products_call p = {.has_bias = false};
    struct tp_buffer w;
    int rc = open_products(frame, 1, &p, error);
    if (rc == 0)
        rc = tp_frame_argument(frame, 1, "w",
                               tp_types(TP_BF16) | tp_types(TP_F16) | tp_types(TP_F32), &w, error);
    if (rc == 0)
        rc = tp_buffer_expect_rank(&w, 2, error);
    if (rc != 0)
        return rc;
    enum tp_matrix_type type = w.dtype == TP_BF16  ? TP_MATRIX_BF16
                               : w.dtype == TP_F16 ? TP_MATRIX_F16
                                                   : TP_MATRIX_F32;
    p.w = (struct tp_matrix){type, w.dims[w.rank - 2], w.dims[w.rank - 1], w.data, NULL};
    rc = shape_vectors(&p, w.dims, w.rank - 2, error);
    if (rc == 0)
        rc = shape_bias(&p, w.dims, w.rank - 2, error);
    if (rc == 0)
        *ret_call = p;
    return rc;
}

/* ---- experts ---- */

static int open_experts(const struct tp_frame *frame, struct tp_experts_call *call,
                        struct tp_error *error)
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
static int expect_expert_shapes(struct tp_experts_call *call, struct tp_error *error)
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
    call->n_tokens = tokens;
    call->n_experts = n_experts;
    call->n_per_token = k;
    call->hidden = hidden;
    call->inner = inner;
    return rc;
}

bool tp_experts_call_is_empty(const struct tp_experts_call *call)
{
    return call->chosen.elements == 0 || call->hidden == 0 || call->inner == 0 ||
           call->n_experts == 0;
}

int tp_open_mxfp4_moe(const struct tp_frame *frame, struct tp_experts_call *ret_call,
                      struct tp_error *error)
{
    struct tp_experts_call call = {.has_bias = false};
    int rc = open_experts(frame, &call, error);
    if (rc == 0)
        rc = expect_expert_shapes(&call, error);
    if (rc == 0)
        *ret_call = call;
    return rc;
}

/* ---- attention ---- */

static int open_attention(const struct tp_frame *frame, struct tp_attention_call *call,
                          struct tp_error *error)
{
    uint32_t floats = tp_types(TP_F32) | tp_types(TP_BF16);
    int64_t window = 0;
    int rc = tp_frame_count(frame, 4, 5, 1, error);
    if (rc != 0)
        return rc;
    call->has_sinks = tp_frame_arguments(frame) == 5;
    rc = tp_frame_argument(frame, 0, "q", floats, &call->q, error);
    if (rc == 0)
        rc = tp_frame_argument(frame, 1, "keys", floats, &call->keys, error);
    if (rc == 0)
        rc =
            tp_frame_argument(frame, 2, "values", tp_types(call->keys.dtype), &call->values, error);
    if (rc == 0)
        rc = tp_frame_argument(frame, 3, "positions", tp_types(TP_I32), &call->positions, error);
    if (rc == 0 && call->has_sinks)
        rc = tp_frame_argument(frame, 4, "sinks", floats, &call->sinks, error);
    if (rc == 0)
        rc = tp_frame_result(frame, 0, "mixed", tp_types(call->q.dtype), &call->y, error);
    if (rc == 0)
        rc = tp_frame_s64(frame, "window", &window, error);
    if (rc == 0)
        rc = tp_frame_f32(frame, "scale", &call->scale, error);
    if (rc == 0 && window < 0)
        rc = tp_error_set(error, -EINVAL, "attribute \"window\": expected 0 or more, found %lld",
                          (long long)window);
    call->window = (size_t)window;
    return rc;
}

/* q gives the batches, queries, heads and their size; keys the capacity and their heads. */
static int expect_attention_shapes(struct tp_attention_call *call, struct tp_error *error)
{
    size_t expected[TP_BUFFER_MAX_RANK], rank = call->q.rank;
    int rc = tp_buffer_expect_rank(&call->q, 3, error);
    if (rc == 0)
        rc = tp_buffer_expect_rank(&call->keys, rank, error);
    if (rc != 0)
        return rc;
    call->n_queries = call->q.dims[rank - 3];
    call->n_heads = call->q.dims[rank - 2];
    call->head_size = call->q.dims[rank - 1];
    call->capacity = call->keys.dims[rank - 3];
    call->n_kv_heads = call->keys.dims[rank - 2];
    call->n_batches = 1;
    for (size_t i = 0; i + 3 < rank; i++)
        call->n_batches *= call->q.dims[i];
    memcpy(expected, call->q.dims, rank * sizeof *expected);
    rc = tp_buffer_expect(&call->y, expected, rank, error);
    if (rc == 0)
        rc = tp_buffer_expect(&call->positions, expected, rank - 2, error);
    expected[rank - 3] = call->capacity;
    expected[rank - 2] = call->n_kv_heads;
    if (rc == 0)
        rc = tp_buffer_expect(&call->keys, expected, rank, error);
    if (rc == 0)
        rc = tp_buffer_expect(&call->values, expected, rank, error);
    if (rc == 0 && call->has_sinks)
        rc = tp_buffer_expect(&call->sinks, &call->n_heads, 1, error);
    if (rc == 0 && (call->n_kv_heads == 0 || call->n_heads % call->n_kv_heads != 0))
        rc = tp_error_set(error, -EINVAL,
                          "argument \"q\": expected a multiple of the caches' %zu heads, found %zu",
                          call->n_kv_heads, call->n_heads);
    return rc;
}

int tp_open_sink_attention(const struct tp_frame *frame, struct tp_attention_call *ret_call,
                           struct tp_error *error)
{
    struct tp_attention_call call = {.has_sinks = false};
    int rc = open_attention(frame, &call, error);
    if (rc == 0)
        rc = expect_attention_shapes(&call, error);
    if (rc == 0)
        *ret_call = call;
    return rc;
}

/* ---- quantising ---- */

/* `values` has the shape of `scales`, but for 32 columns in place of each scale. */
static int expect_columns(const struct tp_buffer *values, const struct tp_buffer *scales,
                          struct tp_error *error)
{
    size_t expected[TP_BUFFER_MAX_RANK];
    memcpy(expected, scales->dims, scales->rank * sizeof *expected);
    expected[scales->rank - 1] *= TP_MXFP4_BLOCK_ELEMENTS;
    return tp_buffer_expect(values, expected, scales->rank, error);
}

static int expect_all(const struct tp_buffer *values, const struct tp_buffer *blocks,
                      const struct tp_buffer *scales, struct tp_error *error)
{
    int rc = tp_buffer_expect_mxfp4(blocks, scales, 1, error);
    return rc == 0 ? expect_columns(values, scales, error) : rc;
}

static uint32_t float_types(void)
{
    return tp_types(TP_F32) | tp_types(TP_F16) | tp_types(TP_BF16);
}

int tp_open_mxfp4_quantize(const struct tp_frame *frame, struct tp_conversion_call *ret_call,
                           struct tp_error *error)
{
    struct tp_conversion_call call;
    int rc = tp_frame_count(frame, 1, 1, 2, error);
    if (rc == 0)
        rc = tp_frame_argument(frame, 0, "x", float_types(), &call.values, error);
    if (rc == 0)
        rc = tp_frame_result(frame, 0, "blocks", tp_types(TP_U8), &call.blocks, error);
    if (rc == 0)
        rc = tp_frame_result(frame, 1, "scales", tp_types(TP_U8), &call.scales, error);
    if (rc == 0)
        rc = expect_all(&call.values, &call.blocks, &call.scales, error);
    if (rc == 0)
        *ret_call = call;
    return rc;
}

int tp_open_mxfp4_dequantize(const struct tp_frame *frame, struct tp_conversion_call *ret_call,
                             struct tp_error *error)
{
    struct tp_conversion_call call;
    int rc = tp_frame_count(frame, 2, 2, 1, error);
    if (rc == 0)
        rc = tp_frame_argument(frame, 0, "blocks", tp_types(TP_U8), &call.blocks, error);
    if (rc == 0)
        rc = tp_frame_argument(frame, 1, "scales", tp_types(TP_U8), &call.scales, error);
    if (rc == 0)
        rc = tp_frame_result(frame, 0, "values", float_types(), &call.values, error);
    if (rc == 0)
        rc = expect_all(&call.values, &call.blocks, &call.scales, error);
    if (rc == 0)
        *ret_call = call;
    return rc;
}
