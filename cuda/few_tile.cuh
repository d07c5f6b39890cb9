/* A tile of 16 rows of a matrix times up to 8 tokens, by a block: each warp takes every eighth
 * piece of the rows, and the warps' sums are added in order.
 *
 * A tile is 8 units of two rows, a and b, that belong together; lane 4 g + t has those of unit g.
 * On tensor cores rows a are the upper half of the operand and rows b the lower one, so that a
 * lane's results hold both rows of its unit. The 8 columns of the other operand are
 *
 *     one group:     part p of token i at column i * n_parts + p: two tokens of three parts, or
 *                    eight of one
 *     three groups:  part p of token i at column i of the p-th product
 *
 * A column's sum does not depend on the others, so both give the same bits: a token's result does
 * not depend on how many there are. */
#ifndef TENSORPORT_CUDA_FEW_TILE_CUH
#define TENSORPORT_CUDA_FEW_TILE_CUH

#include "cuda/gpu.cuh"
#include "cuda/kernels.h"
#include "cuda/numbers.cuh"

enum { TP_FEW_WARPS = TP_FEW_THREADS / 32, TP_TILE_SUMS = TP_TILE_ROWS * TP_FEW };

/* A row, or nothing where a tile goes beyond the matrix. */
struct tp_row {
    const uint8_t *values; /* NULL: zeros */
    const uint8_t *scales;
};

TP_DEVICE struct tp_row tp_row_at(const struct tp_gpu_matrix *w, size_t row, bool exists)
{
    struct tp_row r = {NULL, NULL};
    if (exists) {
        r.values = (const uint8_t *)w->values + row * tp_row_bytes(w);
        r.scales = w->type == TP_MATRIX_MXFP4 ? w->scales + row * (w->columns / 32) : NULL;
    }
    return r;
}

/* Which vectors the tokens' columns are: a vector's number, or none. */
struct tp_vectors_of_tokens {
    const uint32_t *list;  /* [n]; NULL: token i has vector i */
    const uint16_t *slots; /* [TP_FEW] or NULL: token i has vector i * n_per_token + slots[i] */
    uint32_t n, n_per_token;
};

TP_DEVICE int tp_vector_of(const struct tp_vectors_of_tokens *vectors, uint32_t token)
{
    if (token >= vectors->n)
        return -1;
    if (vectors->slots != NULL) {
        uint32_t slot = vectors->slots[token];
        return slot == TP_NO_SLOT ? -1 : (int)(token * vectors->n_per_token + slot);
    }
    return vectors->list != NULL ? (int)vectors->list[token] : (int)token;
}

/* The column that lane 4 g + t loads of a group, or NULL for zeros. */
template <int GROUPS>
TP_DEVICE const uint16_t *tp_column_of(const struct tp_columns *columns,
                                       const struct tp_vectors_of_tokens *vectors, int group,
                                       uint32_t g)
{
    uint32_t token = GROUPS == 1 ? g / columns->n_parts : g;
    uint32_t part = GROUPS == 1 ? g % columns->n_parts : (uint32_t)group;
    int vector = tp_vector_of(vectors, token);
    if (vector < 0)
        return NULL;
    return columns->parts + ((size_t)vector * columns->n_parts + part) * columns->stride;
}

TP_DEVICE uint4 tp_load_or_zero(const void *address, bool exists)
{
    return exists ? tp_load_once(address) : make_uint4(0, 0, 0, 0);
}

TP_DEVICE uint4 tp_load_column_words(const uint16_t *column, uint32_t at)
{
    return column != NULL ? *(const uint4 *)(column + at) : make_uint4(0, 0, 0, 0);
}

/* ---- BF16: a step is 32 columns, 16 bytes of a row for each of the four lanes ----
 *
 * Here and below the loads of some steps come first, then their products: what is on its way from
 * memory decides the speed. */

struct tp_bf16_weights {
    static constexpr bool on_tensor_cores = true;

    template <int GROUPS>
    static TP_DEVICE_MEMBER void multiply(const struct tp_gpu_matrix *w, const struct tp_row *a,
                                          const struct tp_row *b, const uint16_t *const *column,
                                          const struct tp_columns *, uint32_t warp, uint32_t t,
                                          float sums[GROUPS][4])
    {
        enum { STEP = 32, AHEAD = 4 };
        for (uint32_t first = warp * STEP; first < w->columns;
             first += AHEAD * TP_FEW_WARPS * STEP) {
            uint4 upper[AHEAD], lower[AHEAD];
#pragma unroll
            for (uint32_t i = 0; i < AHEAD; i++) {
                uint32_t at = first + i * TP_FEW_WARPS * STEP + 8 * t;
                bool exists = at < w->columns; /* which is a multiple of 8 */
                upper[i] = tp_load_or_zero(a->values + 2 * (size_t)at, exists && a->values != NULL);
                lower[i] = tp_load_or_zero(b->values + 2 * (size_t)at, exists && b->values != NULL);
            }
#pragma unroll
            for (uint32_t i = 0; i < AHEAD; i++) {
                uint32_t at = first + i * TP_FEW_WARPS * STEP;
                if (at >= w->columns)
                    break;
                const uint32_t k0[4] = {upper[i].x, lower[i].x, upper[i].y, lower[i].y};
                const uint32_t k1[4] = {upper[i].z, lower[i].z, upper[i].w, lower[i].w};
#pragma unroll
                for (int group = 0; group < GROUPS; group++) {
                    uint4 x = tp_load_column_words(column[group], at + 8 * t);
                    const uint32_t x0[2] = {x.x, x.y}, x1[2] = {x.z, x.w};
                    tp_multiply_tiles(sums[group], k0, x0);
                    tp_multiply_tiles(sums[group], k1, x1);
                }
            }
        }
    }
};

/* ---- MXFP4: a step is 128 columns, a block of 32 for each of the four lanes ---- */

/* 2^(scale - 127 + 126), twice: what a nibble's bits in a BF16's lack, and the scale, which is at
 * most TP_SCALE_MAX, or NaN. */
TP_DEVICE void tp_make_factor(uint32_t scale, uint32_t *ret_factor)
{
    uint32_t bits = scale == 255 ? 0x7fc0u : (scale + 126) << 7;
    *ret_factor = bits << 16 | bits;
}

/* The same for any scale, in two steps: where nobody has looked at the scales before. A product
 * that is too large for a BF16 is infinite. */
struct tp_wide_factor {
    uint32_t first, second;
};

TP_DEVICE void tp_make_factor(uint32_t scale, struct tp_wide_factor *ret_factor)
{
    bool is_large = scale > TP_SCALE_MAX && scale != 255;
    uint32_t bits = is_large ? (scale - 1) << 7 : 127u << 7;
    tp_make_factor(is_large ? (uint32_t)TP_SCALE_MAX : scale, &ret_factor->first);
    ret_factor->second = bits << 16 | bits;
}

/* Nibbles 3 and 7 of a word as a pair of BF16: sign, and the three bits below it where the lowest
 * bits of the exponent and the highest of the mantissa are. So it is e2m1 * 2^-126, denormals and
 * all. */
TP_DEVICE uint32_t tp_unpack_nibbles(uint32_t word, uint32_t factor)
{
    return tp_multiply_bf16_pairs((word & 0x80008000u) | (word >> 6 & 0x01c001c0u), factor);
}

TP_DEVICE uint32_t tp_unpack_nibbles(uint32_t word, struct tp_wide_factor factor)
{
    return tp_multiply_bf16_pairs(tp_unpack_nibbles(word, factor.first), factor.second);
}

template <class FACTOR> struct tp_mxfp4_weights_by {
    static constexpr bool on_tensor_cores = true;

    template <int GROUPS>
    static TP_DEVICE_MEMBER void multiply(const struct tp_gpu_matrix *w, const struct tp_row *a,
                                          const struct tp_row *b, const uint16_t *const *column,
                                          const struct tp_columns *, uint32_t warp, uint32_t t,
                                          float sums[GROUPS][4])
    {
        enum { STEP = 4, AHEAD = 3 }; /* in blocks */
        uint32_t n_blocks = w->columns / 32;
        for (uint32_t first = warp * STEP; first < n_blocks; first += AHEAD * TP_FEW_WARPS * STEP) {
            uint4 upper[AHEAD], lower[AHEAD];
            uint32_t upper_scale[AHEAD], lower_scale[AHEAD];
#pragma unroll
            for (uint32_t i = 0; i < AHEAD; i++) {
                uint32_t block = first + i * TP_FEW_WARPS * STEP + t;
                bool upper_exists = block < n_blocks && a->values != NULL;
                bool lower_exists = block < n_blocks && b->values != NULL;
                upper[i] = tp_load_or_zero(a->values + 16 * (size_t)block, upper_exists);
                lower[i] = tp_load_or_zero(b->values + 16 * (size_t)block, lower_exists);
                upper_scale[i] = upper_exists ? a->scales[block] : 0;
                lower_scale[i] = lower_exists ? b->scales[block] : 0;
            }
#pragma unroll
            for (uint32_t i = 0; i < AHEAD; i++) {
                uint32_t block = first + i * TP_FEW_WARPS * STEP;
                if (block >= n_blocks)
                    break;
                FACTOR upper_factor, lower_factor;
                tp_make_factor(upper_scale[i], &upper_factor);
                tp_make_factor(lower_scale[i], &lower_factor);
                multiply_block<GROUPS>(&upper[i], &lower[i], upper_factor, lower_factor, column,
                                       (block + t) * 32, sums);
            }
        }
    }

    /* Zeros where a block does not exist, whatever the factor: then columns are not read either,
     * for there may be none. */
    template <int GROUPS>
    static TP_DEVICE_MEMBER void
    multiply_block(const uint4 *upper, const uint4 *lower, FACTOR upper_factor, FACTOR lower_factor,
                   const uint16_t *const *column, uint32_t at, float sums[GROUPS][4])
    {
        const uint32_t upper_words[4] = {upper->x, upper->y, upper->z, upper->w};
        const uint32_t lower_words[4] = {lower->x, lower->y, lower->z, lower->w};
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t u = upper_words[i], l = lower_words[i];
            const uint32_t k0[4] = {
                tp_unpack_nibbles(u << 12, upper_factor), tp_unpack_nibbles(l << 12, lower_factor),
                tp_unpack_nibbles(u << 8, upper_factor), tp_unpack_nibbles(l << 8, lower_factor)};
            const uint32_t k1[4] = {
                tp_unpack_nibbles(u << 4, upper_factor), tp_unpack_nibbles(l << 4, lower_factor),
                tp_unpack_nibbles(u, upper_factor), tp_unpack_nibbles(l, lower_factor)};
#pragma unroll
            for (int group = 0; group < GROUPS; group++) {
                uint4 x = tp_load_column_words(column[group], at + i * 8);
                const uint32_t x0[2] = {x.x, x.y}, x1[2] = {x.z, x.w};
                tp_multiply_tiles(sums[group], k0, x0);
                tp_multiply_tiles(sums[group], k1, x1);
            }
        }
    }
};

typedef tp_mxfp4_weights_by<uint32_t> tp_mxfp4_weights;
typedef tp_mxfp4_weights_by<struct tp_wide_factor> tp_wide_mxfp4_weights;

/* ---- any type, without tensor cores: lane 4 g + t sums for tokens 2 t and 2 t + 1 ---- */

struct tp_any_weights {
    static constexpr bool on_tensor_cores = false;

    template <int GROUPS>
    static TP_DEVICE_MEMBER void multiply(const struct tp_gpu_matrix *w, const struct tp_row *a,
                                          const struct tp_row *b, const uint16_t *const *column,
                                          const struct tp_columns *columns, uint32_t warp, uint32_t,
                                          float sums[GROUPS][4])
    {
        for (uint32_t i = warp; i < w->columns; i += TP_FEW_WARPS) {
            float upper = a->values != NULL ? tp_weight(w, a->values, a->scales, i) : 0.0f;
            float lower = b->values != NULL ? tp_weight(w, b->values, b->scales, i) : 0.0f;
            for (int j = 0; j < 2; j++) {
                struct tp_columns one = *columns;
                float x = 0;
                one.parts = (uint16_t *)column[j];
                if (one.parts != NULL)
                    x = tp_load_column(&one, 0, i);
                sums[0][j] = fmaf(upper, x, sums[0][j]);
                sums[0][2 + j] = fmaf(lower, x, sums[0][2 + j]);
            }
        }
    }
};

/* ---- a tile ---- */

/* What a kernel of few tokens does with its shared memory first: [TP_FEW_WARPS][groups][16][8]. */
TP_DEVICE float *tp_tile_sums(void)
{
    return (float *)(void *)TP_SHARED();
}

/* Rows a and b of unit g, those of this thread's lane, times the tokens' vectors. Afterwards, and
 * until the block's next barrier but one, tp_tile_value() has the results. */
template <class WEIGHTS, int GROUPS>
TP_DEVICE void tp_multiply_tile(const struct tp_gpu_matrix *w, struct tp_row a, struct tp_row b,
                                const struct tp_columns *columns,
                                const struct tp_vectors_of_tokens *vectors)
{
    uint32_t warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const uint16_t *column[GROUPS > 2 ? GROUPS : 2];
    float sums[GROUPS][4] = {};
    if (WEIGHTS::on_tensor_cores) {
        for (int group = 0; group < GROUPS; group++)
            column[group] = tp_column_of<GROUPS>(columns, vectors, group, g);
    } else {
        for (uint32_t j = 0; j < 2; j++) {
            int vector = tp_vector_of(vectors, 2 * t + j);
            column[j] = vector < 0
                            ? NULL
                            : columns->parts + (size_t)vector * columns->n_parts * columns->stride;
        }
    }
    WEIGHTS::template multiply<GROUPS>(w, &a, &b, column, columns, warp, t, sums);
    float *target = tp_tile_sums() + (size_t)warp * GROUPS * TP_TILE_SUMS;
    __syncthreads();
    for (int group = 0; group < GROUPS; group++, target += TP_TILE_SUMS) {
        target[g * TP_FEW + 2 * t] = sums[group][0];
        target[g * TP_FEW + 2 * t + 1] = sums[group][1];
        target[(8 + g) * TP_FEW + 2 * t] = sums[group][2];
        target[(8 + g) * TP_FEW + 2 * t + 1] = sums[group][3];
    }
    __syncthreads();
}

/* Row 0..15 of the tile (a's, then b's) times a token's vector. */
template <class WEIGHTS, int GROUPS>
TP_DEVICE float tp_tile_value(const struct tp_columns *columns, uint32_t row, uint32_t token)
{
    uint32_t n_parts = WEIGHTS::on_tensor_cores ? columns->n_parts : 1;
    float value = 0;
    for (uint32_t part = n_parts; part-- > 0;) { /* the small ones first */
        uint32_t group = GROUPS == 1 ? 0 : part;
        uint32_t column = GROUPS == 1 ? token * n_parts + part : token;
        const float *sums = tp_tile_sums() + group * TP_TILE_SUMS + row * TP_FEW + column;
        float sum = 0;
        for (uint32_t warp = 0; warp < TP_FEW_WARPS; warp++)
            sum += sums[(size_t)warp * GROUPS * TP_TILE_SUMS];
        value += sum;
    }
    return value;
}

/* Whether this block is the last of `n` to come here; all threads of it get the same answer, and
 * the last block sees what the others wrote before. The counter is 0 again afterwards. `flag` is a
 * word of shared memory. */
TP_DEVICE bool tp_arrive_last(uint32_t *counter, uint32_t n, uint32_t *flag)
{
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        *flag = atomicAdd(counter, 1u) == n - 1;
        if (*flag != 0)
            *counter = 0;
    }
    __syncthreads();
    bool last = *flag != 0;
    if (last)
        __threadfence();
    return last;
}

TP_DEVICE float tp_warp_sum(float x)
{
    for (int distance = 16; distance > 0; distance /= 2)
        x += __shfl_xor_sync(TP_ALL_LANES, x, distance);
    return x;
}

/* 1 / sqrt(mean of squares + epsilon) of each token, a warp each: scales[TP_FEW], of this warp's
 * token there at once, of the others after a barrier. */
TP_DEVICE void tp_norm_scales(const struct tp_squares *squares, uint32_t n_tokens, float *scales)
{
    uint32_t token = threadIdx.x / 32, lane = threadIdx.x % 32;
    float sum = 0;
    if (token >= n_tokens)
        return;
    for (uint32_t i = lane; i < squares->n_sums; i += 32)
        sum += tp_load_shared_by_blocks(&squares->sums[(size_t)i * TP_FEW + token]);
    sum = tp_warp_sum(sum);
    if (lane == 0)
        scales[token] = 1.0f / sqrtf(sum / (float)squares->size + squares->epsilon);
}

/* Weights of a tile into the second cache, while what they are multiplied with is still computed.
 */
TP_DEVICE void tp_prefetch_rows(const struct tp_gpu_matrix *w, const struct tp_row *a,
                                const struct tp_row *b)
{
    enum { LINE = 128 };
    uint32_t warp = threadIdx.x / 32, t = threadIdx.x % 4;
    const uint8_t *row = t == 0 ? a->values : t == 1 ? b->values : NULL;
    for (size_t at = (size_t)warp * LINE; row != NULL && at < tp_row_bytes(w);
         at += TP_FEW_WARPS * LINE)
        tp_prefetch(row + at);
}

#endif
