/* What comes before and behind the products of arrays, and MXFP4 itself. See kernels.h. */
#include "cuda/layer.cuh"

/* Number `i` of this kernel's threads, and how many there are. */
TP_DEVICE uint64_t thread_number(void)
{
    return (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

TP_DEVICE uint64_t thread_count(void)
{
    return (uint64_t)gridDim.x * blockDim.x;
}

TP_DEVICE float load(const struct tp_numbers *numbers, size_t i)
{
    return tp_load_number((const uint8_t *)numbers->data, i, numbers->bf16);
}

TP_DEVICE void store(const struct tp_numbers *numbers, size_t i, float x)
{
    tp_store_number((uint8_t *)numbers->data, i, numbers->bf16, x);
}

/* ---- numbers ---- */

/* As tp_store_column(), and also where a number is infinite, or larger than any BF16: the parts'
 * sum is never NaN but for NaN. */
TP_DEVICE void store_exactly(const struct tp_columns *columns, size_t vector, uint32_t i, float x)
{
    const uint32_t infinity = 0x7f80, largest = 0x7f7f;
    uint16_t *parts =
        columns->parts + vector * columns->n_parts * columns->stride + tp_column_place(columns, i);
    for (uint32_t part = 0; part < columns->n_parts; part++) {
        uint32_t bits = tp_to_bf16(x);
        bool is_finite = (__float_as_uint(x) & 0x7fffffffu) < 0x7f800000u;
        if (is_finite && (bits & 0x7fffu) == infinity)
            bits = (bits & 0x8000u) | largest;
        parts[(size_t)part * columns->stride] = (uint16_t)bits;
        x = is_finite ? x - tp_from_bf16(bits) : 0.0f;
    }
}

TP_KERNEL(tp_array_columns, struct tp_array_columns, TP_ROW_THREADS)
{
    size_t vector = blockIdx.x;
    uint32_t size = a->columns.size;
    tp_let_next_begin();
    tp_wait_for_previous();
    for (uint32_t i = threadIdx.x; i < a->columns.stride; i += TP_ROW_THREADS)
        store_exactly(&a->columns, vector, i, i < size ? load(&a->x, vector * size + i) : 0.0f);
}

TP_KERNEL(tp_array_convert, struct tp_array_convert, TP_ROW_THREADS)
{
    tp_let_next_begin();
    tp_wait_for_previous();
    for (uint64_t i = thread_number(); i < a->n; i += thread_count())
        store(&a->target, i, load(&a->source, i));
}

/* ---- experts ---- */

TP_DEVICE bool is_expert(int32_t chosen, uint32_t n_experts)
{
    return chosen >= 0 && (uint32_t)chosen < n_experts;
}

/* Zeros behind the numbers of a vector, from the `first` of them on. */
TP_DEVICE void pad(const struct tp_columns *columns, size_t vector, uint32_t first, uint32_t step)
{
    uint16_t *parts = columns->parts + vector * columns->n_parts * columns->stride;
    for (uint32_t part = 0; part < columns->n_parts; part++, parts += columns->stride) {
        for (uint32_t i = columns->size + first; i < columns->stride; i += step)
            parts[i] = 0;
    }
}

/* Whether choice `i` of a token counts: not what is no expert, nor what came before. */
TP_DEVICE bool is_first(const struct tp_array_route *a, uint32_t token, uint32_t i)
{
    const int32_t *chosen = a->choice.chosen + (size_t)token * a->routing.n_per_token;
    bool first = is_expert(chosen[i], a->routing.n_experts);
    for (uint32_t j = 0; j < i; j++)
        first = first && chosen[j] != chosen[i];
    return first;
}

TP_DEVICE void route(const struct tp_array_route *a)
{
    uint32_t k = a->routing.n_per_token, n = a->choice.n_tokens;
    for (uint32_t i = threadIdx.x; i < n * k; i += TP_ROW_THREADS) {
        const uint32_t token = i / k;
        bool counts = is_first(a, token, i % k);
        float weight = 0;
        for (uint32_t j = i; counts && j < (token + 1) * k; j++) {
            if (a->choice.chosen[j] == a->choice.chosen[i])
                weight += a->choice.weights[j];
        }
        a->routing.chosen[i] = counts ? (uint32_t)a->choice.chosen[i] : 0xffffffffu;
        a->routing.weights[i] = weight;
    }
    for (uint32_t i = threadIdx.x; i < a->n_arrived; i += TP_ROW_THREADS)
        a->arrived[i] = 0;
    if (threadIdx.x < TP_FEW)
        a->routing.scales[threadIdx.x] = 1;
    __syncthreads();
    if (threadIdx.x < 32)
        tp_list_active(&a->routing, n);
}

TP_KERNEL(tp_array_route, struct tp_array_route, TP_ROW_THREADS)
{
    uint32_t k = a->routing.n_per_token, n = a->choice.n_tokens, row = blockIdx.x;
    tp_let_next_begin();
    tp_wait_for_previous();
    if (row == 0) {
        route(a);
        return;
    }
    row--;
    if (row < n * k)
        pad(&a->inners, row, threadIdx.x, TP_ROW_THREADS);
    if (row < n * k && is_first(a, row / k, row % k))
        return;
    float *zeros = row < n * k ? a->outputs + (size_t)row * a->hidden
                               : a->x + (size_t)(row - n * k) * a->hidden;
    for (uint32_t i = threadIdx.x; i < a->hidden; i += TP_ROW_THREADS)
        zeros[i] = 0;
}

TP_KERNEL(tp_array_choose, struct tp_array_choose, TP_ROW_THREADS)
{
    uint64_t n = (uint64_t)a->choice.n_tokens * a->slots.n_per_token;
    uint32_t n_experts = a->slots.n_experts;
    tp_let_next_begin();
    tp_wait_for_previous();
    for (uint64_t i = thread_number(); i < n; i += thread_count()) {
        int32_t chosen = a->choice.chosen[i];
        a->slots.chosen[i] = is_expert(chosen, n_experts) ? (uint32_t)chosen : n_experts;
        pad(&a->inners, i, 0, 1);
    }
}

TP_KERNEL(tp_array_mix, struct tp_array_mix, TP_ROW_THREADS)
{
    uint32_t k = a->slots.n_per_token;
    size_t token = blockIdx.x;
    tp_let_next_begin();
    tp_wait_for_previous();
    for (uint32_t i = threadIdx.x; i < a->hidden; i += TP_ROW_THREADS) {
        float sum = 0;
        for (size_t j = token * k; j < (token + 1) * k; j++) {
            if (a->slots.chosen[j] < a->slots.n_experts)
                sum = fmaf(a->weights[j], a->outputs[(size_t)a->slots.of_token[j] * a->hidden + i],
                           sum);
        }
        store(&a->y, token * a->hidden + i, sum);
    }
}

/* ---- attention ---- */

TP_DEVICE bool is_inside(int32_t position, uint32_t capacity)
{
    return position >= 0 && (uint32_t)position < capacity;
}

TP_KERNEL(tp_array_places, struct tp_array_places, TP_ROW_THREADS)
{
    uint64_t n_threads = thread_count();
    tp_let_next_begin();
    tp_wait_for_previous();
    for (uint64_t i = thread_number(); i < a->n; i += n_threads) {
        int32_t position = a->positions[a->first + i];
        a->places[i] = is_inside(position, a->capacity) ? (uint32_t)position : 0;
        a->sequences[i] = (uint32_t)((a->first + i) / a->n_queries);
    }
    for (uint64_t i = thread_number(); i < a->n_arrived; i += n_threads)
        a->arrived[i] = 0;
    if (a->tiles == NULL)
        return;
    uint32_t per_sequence = (a->n_queries + a->tile_max - 1) / a->tile_max;
    uint64_t n_tiles = (uint64_t)a->n / a->n_queries * per_sequence;
    for (uint64_t i = thread_number(); i < n_tiles; i += n_threads) {
        uint32_t before = (uint32_t)(i % per_sequence) * a->tile_max;
        uint32_t left = a->n_queries - before;
        a->tiles[i].first = (uint32_t)(i / per_sequence) * a->n_queries + before;
        a->tiles[i].n = left < a->tile_max ? left : a->tile_max;
    }
}

TP_KERNEL(tp_array_mixed, struct tp_array_mixed, TP_ROW_THREADS)
{
    uint32_t size = a->columns.size;
    size_t query = blockIdx.x;
    tp_let_next_begin();
    tp_wait_for_previous();
    bool inside = is_inside(a->positions[query], a->capacity);
    for (uint32_t i = threadIdx.x; i < size; i += TP_ROW_THREADS)
        store(&a->y, query * size + i, inside ? tp_load_column(&a->columns, query, i) : 0.0f);
}

/* ---- MXFP4 ----
 *
 * A thread has 8 of a block's 32 values, four of them a block. As the codecs for the CPU, they
 * compare and shift bits: see decode/mxfp4_encode_scalar.c and decode/codec_scalar.c. */

enum { BLOCK_THREADS = 4, THREAD_VALUES = 8, FRACTION_BITS = 23, NAN_SCALE = 255 };

/* The bits in float32 of value `i`. */
TP_DEVICE uint32_t bits_of(const struct tp_array_blocks *a, uint64_t i)
{
    if (a->type == TP_ARRAY_F32)
        return ((const uint32_t *)a->values)[i];
    uint32_t bits = ((const uint16_t *)a->values)[i];
    return a->type == TP_ARRAY_BF16 ? bits << 16 : __float_as_uint(tp_from_f16(bits));
}

/* From the largest magnitude's bits. */
TP_DEVICE uint32_t scale_of(uint32_t largest)
{
    const uint32_t infinity = 0x7f800000u;
    if (largest > infinity)
        return NAN_SCALE;
    uint32_t field = largest >> FRACTION_BITS;
    return field > 2 ? field - 2 : 0;
}

/* The number of midpoints below the magnitude; at a midpoint the even code wins. */
TP_DEVICE uint32_t code_of(uint32_t magnitude, uint32_t scale)
{
    const uint32_t midpoints[] = {1, 3, 5, 7, 10, 14, 20}; /* quarters */
    if (magnitude == 0x7f800000u)
        return 7;
    int field = (int)(magnitude >> FRACTION_BITS);
    uint64_t significand = magnitude & ((1u << FRACTION_BITS) - 1);
    if (field > 0)
        significand |= 1u << FRACTION_BITS;
    else
        field = 1;
    int shift = (int)scale - 129 - (field - 150);
    if (shift > FRACTION_BITS)
        return 0;
    uint32_t code = 0;
#pragma unroll
    for (uint32_t i = 0; i < 7; i++) {
        uint64_t midpoint = (uint64_t)midpoints[i] << shift;
        code += significand > midpoint || (significand == midpoint && i % 2 == 1);
    }
    return code;
}

TP_KERNEL(tp_array_quantize, struct tp_array_blocks, TP_ROW_THREADS)
{
    uint64_t n = a->n * BLOCK_THREADS;
    tp_let_next_begin();
    tp_wait_for_previous();
    for (uint64_t first = thread_number() - threadIdx.x; first < n; first += thread_count()) {
        uint64_t piece = first + threadIdx.x;
        uint32_t bits[THREAD_VALUES], largest = 0;
        for (uint32_t i = 0; i < THREAD_VALUES; i++) {
            bits[i] = piece < n ? bits_of(a, piece * THREAD_VALUES + i) : 0;
            uint32_t magnitude = bits[i] & 0x7fffffffu;
            largest = magnitude > largest ? magnitude : largest;
        }
        for (int distance = 1; distance < BLOCK_THREADS; distance *= 2) {
            uint32_t other = __shfl_xor_sync(TP_ALL_LANES, largest, distance);
            largest = other > largest ? other : largest;
        }
        uint32_t scale = scale_of(largest);
        for (uint32_t i = 0; piece < n && i < THREAD_VALUES; i += 2) {
            uint32_t pair = 0;
            for (uint32_t j = 0; scale != NAN_SCALE && j < 2; j++)
                pair |= (code_of(bits[i + j] & 0x7fffffffu, scale) | bits[i + j] >> 31 << 3)
                        << 4 * j;
            a->blocks[piece * (THREAD_VALUES / 2) + i / 2] = (uint8_t)pair;
        }
        if (piece < n && piece % BLOCK_THREADS == 0)
            a->scales[piece / BLOCK_THREADS] = (uint8_t)scale;
    }
}

/* Of a number with two significant bits, which F16 rounds only below its least normal one: to
 * nearest even there. What is too large is infinite. */
TP_DEVICE uint32_t to_f16(float x)
{
    uint32_t bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u;
    float magnitude = __uint_as_float(bits & 0x7fffffffu);
    if (magnitude >= 65520.0f)
        return sign | 0x7c00u;
    if (magnitude < 0x1p-14f) /* the sum has multiples of 2^-24 where a float32 ends */
        return sign | (__float_as_uint(magnitude + 0.5f) - __float_as_uint(0.5f));
    return sign | (__float_as_uint(magnitude) - (112u << 23)) >> 13;
}

TP_KERNEL(tp_array_dequantize, struct tp_array_blocks, TP_ROW_THREADS)
{
    tp_let_next_begin();
    tp_wait_for_previous();
    for (uint64_t i = thread_number(); i < a->n * 32; i += thread_count()) {
        uint32_t pair = a->blocks[i / 2], scale = a->scales[i / 32];
        float value = tp_from_e2m1(i % 2 != 0 ? pair >> 4 : pair & 15) * tp_from_e8m0(scale);
        bool is_nan = scale == NAN_SCALE;
        if (a->type == TP_ARRAY_F32)
            ((uint32_t *)a->values)[i] = is_nan ? 0x7fc00000u : __float_as_uint(value);
        else if (a->type == TP_ARRAY_F16)
            ((uint16_t *)a->values)[i] = (uint16_t)(is_nan ? 0x7e00u : to_f16(value));
        else
            ((uint16_t *)a->values)[i] =
                (uint16_t)(is_nan ? 0x7fc0u : __float_as_uint(value) >> 16);
    }
}
