/* Numbers as weights and columns hold them. */
#ifndef TENSORPORT_CUDA_NUMBERS_CUH
#define TENSORPORT_CUDA_NUMBERS_CUH

#include "cuda/gpu.cuh"
#include "cuda/kernels.h"

TP_DEVICE float tp_from_bf16(uint32_t bits)
{
    return __uint_as_float(bits << 16);
}

/* To nearest even; NaN stays one. */
TP_DEVICE uint32_t tp_to_bf16(float x)
{
    uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return bits >> 16 | 0x40u;
    return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

TP_DEVICE float tp_from_f16(uint32_t bits)
{
    uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, mantissa = bits & 0x3ffu;
    if (exponent == 31)
        return __uint_as_float(sign | 0x7f800000u | mantissa << 13);
    if (exponent == 0)
        return __uint_as_float(sign | __float_as_uint((float)mantissa * 0x1p-24f));
    return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* 2^exponent, by its bits; 0 below 2^-149, infinity above 2^127. */
TP_DEVICE float tp_power_of_two(int exponent)
{
    if (exponent > 127)
        return __uint_as_float(0x7f800000u);
    if (exponent >= -126)
        return __uint_as_float((uint32_t)(exponent + 127) << 23);
    return exponent >= -149 ? __uint_as_float(1u << (exponent + 149)) : 0.0f;
}

/* E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives. */
TP_DEVICE float tp_from_e2m1(uint32_t nibble)
{
    uint32_t magnitude = nibble & 7;
    float value = magnitude < 2
                      ? 0.5f * (float)magnitude
                      : (float)(2 + (magnitude & 1)) * tp_power_of_two((int)(magnitude >> 1) - 2);
    return (nibble & 8) != 0 ? -value : value;
}

TP_DEVICE float tp_from_e8m0(uint32_t scale)
{
    return scale == 255 ? __uint_as_float(0x7fc00000u) : tp_power_of_two((int)scale - 127);
}

/* One weight, exactly, of any type but INT8. */
TP_DEVICE float tp_weight(const struct tp_gpu_matrix *w, const void *values, const uint8_t *scales,
                          uint32_t column)
{
    switch (w->type) {
    case TP_MATRIX_F32:
        return ((const float *)values)[column];
    case TP_MATRIX_BF16:
        return tp_from_bf16(((const uint16_t *)values)[column]);
    case TP_MATRIX_F16:
        return tp_from_f16(((const uint16_t *)values)[column]);
    case TP_MATRIX_MXFP4: {
        uint32_t pair = ((const uint8_t *)values)[column / 2];
        return tp_from_e2m1((column & 1) != 0 ? pair >> 4 : pair & 15) *
               tp_from_e8m0(scales[column / 32]);
    }
    default:
        return 0.0f;
    }
}

/* Bytes of a row. */
TP_DEVICE size_t tp_row_bytes(const struct tp_gpu_matrix *w)
{
    switch (w->type) {
    case TP_MATRIX_F32:
        return (size_t)w->columns * 4;
    case TP_MATRIX_MXFP4:
        return (size_t)w->columns / 2;
    default:
        return (size_t)w->columns * 2;
    }
}

/* ---- columns ---- */

/* Where number `i` of a vector stands. */
TP_DEVICE uint32_t tp_column_place(const struct tp_columns *columns, uint32_t i)
{
    uint32_t j = i & 7;
    return columns->shuffled ? (i & ~7u) + (j < 4 ? 2 * j : 2 * j - 7) : i;
}

TP_DEVICE void tp_store_column(const struct tp_columns *columns, size_t vector, uint32_t i, float x)
{
    uint16_t *parts =
        columns->parts + vector * columns->n_parts * columns->stride + tp_column_place(columns, i);
    for (uint32_t part = 0; part < columns->n_parts; part++) {
        uint32_t bits = tp_to_bf16(x);
        parts[(size_t)part * columns->stride] = (uint16_t)bits;
        x -= tp_from_bf16(bits);
    }
}

TP_DEVICE float tp_load_column(const struct tp_columns *columns, size_t vector, uint32_t i)
{
    const uint16_t *parts =
        columns->parts + vector * columns->n_parts * columns->stride + tp_column_place(columns, i);
    float x = 0;
    for (uint32_t part = columns->n_parts; part-- > 0;)
        x += tp_from_bf16(parts[(size_t)part * columns->stride]);
    return x;
}

/* ---- the cache ---- */

/* Of one KV head: number i of slot s is s * stride + i. */
struct tp_cache_place {
    uint8_t *keys, *values;
    uint32_t capacity, stride;
};

TP_DEVICE struct tp_cache_place tp_find_cache(const struct tp_gpu_cache *cache, uint32_t sequence,
                                              uint32_t head)
{
    size_t width = cache->bf16 ? 2 : 4, size = cache->head_size * width;
    size_t position = cache->n_heads * size;
    struct tp_cache_place place;
    if (cache->keys != NULL) {
        size_t before = position * cache->capacity * sequence + head * size;
        place.keys = (uint8_t *)cache->keys + before;
        place.values = (uint8_t *)cache->values + before;
        place.capacity = cache->capacity;
        place.stride = cache->n_heads * cache->head_size;
        return place;
    }
    struct tp_gpu_sequence s = cache->sequences[sequence];
    uint32_t ring = cache->ring_capacity < s.capacity ? cache->ring_capacity : s.capacity;
    place.capacity = cache->is_ring ? ring : s.capacity;
    place.keys =
        s.memory +
        2 * position *
            ((size_t)cache->rings_before * ring + (size_t)cache->whole_before * s.capacity) +
        size * head * place.capacity;
    place.values = place.keys + position * place.capacity;
    place.stride = cache->head_size;
    return place;
}

/* Number i of keys or values. */
TP_DEVICE float tp_load_number(const uint8_t *numbers, size_t i, bool bf16)
{
    return bf16 ? tp_from_bf16(((const uint16_t *)(const void *)numbers)[i])
                : ((const float *)(const void *)numbers)[i];
}

#endif
