/* The loops of the CPU backend: one table of functions for each instruction set.
 *
 * Numerical policy.
 *  - Values and sums are float32. Weights are used exactly as stored, MXFP4 and INT8 included;
 *    subnormals are kept.
 *  - A sum over columns always runs in the same order within one table: columns go in blocks of 32
 *    to a fixed set of lanes (even columns of a vector's worth first, then odd ones), each lane
 *    is one chain of multiply-adds from the first column to the last, and the lanes are added by
 *    one fixed tree. So y[row] for a vector has the same bits whether it was computed alone,
 *    among few or among many, by however many threads; and a matrix gives the same bits in any
 *    type that holds its values.
 *  - With activations in BF16 they are rounded to nearest even first. A table that has a product of
 *    BF16 pairs uses it for weights in BF16, MXFP4 and INT8 (it treats subnormal numbers as zero);
 *    everything else multiplies the rounded activations in float32. A weight of INT8, which has up
 *    to 15 significant bits, is rounded to BF16 for it: that adds a twentieth to the squares of
 *    the errors that its 8 bits have made.
 *  - Tables differ from each other in the last bits.
 *
 * No allocation, no threads, no failure here; multiply.h, layers.h and attention.h share the work
 * out. Pointers need no alignment unless said.
 */
#ifndef TENSORPORT_INFER_CPU_KERNELS_H
#define TENSORPORT_INFER_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infer/weights/matrix.h"

enum tp_activations { TP_ACTIVATIONS_F32, TP_ACTIVATIONS_BF16 };

enum {
    TP_BLOCK_COLUMNS = 32, /* what products step by; packed vectors are padded with zeros to it */
    TP_RUNS = 4,           /* of rows, for `few`: see products.inc */
    TP_FEW_VECTORS = 4,    /* for `few`; more are better off with `many` */
    TP_MANY_VECTORS = 128, /* for `many` */
    TP_MANY_ROWS = 48,
    TP_MANY_SCRATCH_BYTES = 1 << 19, /* aligned to 64 */
    TP_KEY_BLOCK = 16,               /* keys that lie side by side in a KV cache */
    TP_KEY_SPLIT = 256,              /* keys that are attended to as one: see attention.h */
};

/* Values of a head lie in a KV cache, and mixed ones come out, with room for whole vectors. */
static inline size_t tp_padded_head(size_t head_size)
{
    return (head_size + 15) / 16 * 16;
}

/* Rows first..first + n - 1; with a stride those of TP_RUNS runs, which are read side by side, the
 * next run's beginning `stride` rows after. */
struct tp_rows {
    size_t first, n, stride;
};

/* Rows of a matrix times vectors packed by the same table. */
struct tp_product_kernels {
    size_t block_bytes; /* of a packed vector, for 32 columns */
    /* Measured: up to so many vectors, `few` again and again over rows that stay in the second
     * cache is faster than `many`; the bits are the same. */
    size_t passes_up_to, mxfp4_passes_up_to;

    /* `x` [columns] into `packed`, aligned to 64. */
    void (*pack)(const float *x, size_t columns, void *packed);

    /* For each of the rows: y[i][row] = W x[i] + bias[row], i < n_vectors. `bias` may be NULL.
     * Vectors lie anywhere, aligned to 64. */
    void (*few)(const struct tp_matrix *w, const float *bias, const struct tp_rows *rows,
                const void *const *x, size_t n_vectors, float *const *y);
    /* Rows first..first + n_rows - 1. */
    void (*many)(const struct tp_matrix *w, const float *bias, size_t first, size_t n_rows,
                 const void *const *x, size_t n_vectors, float *const *y, void *scratch);
};

/* Some query heads of one position that share a KV head, and the keys first..last - 1 of one
 * split. `keys` and `values` are those of this KV head: see kv_cache.h. */
struct tp_attention_part {
    const float *queries; /* [n_heads][head_size] */
    size_t n_heads, head_size;
    float scale;
    bool bf16;          /* keys and values, float32 otherwise */
    const void *keys;   /* [capacity / 16][head_size][16] */
    const void *values; /* [capacity][padded head size] */
    size_t capacity, first, last;
    float *weights; /* scratch [n_heads][TP_KEY_SPLIT], aligned to 64 */
};

/* A softmax in progress: the mean so far is sums / total. */
struct tp_attention_sums {
    float largest; /* score */
    float total;   /* of exp(score - largest) */
};

struct tp_kernels {
    const char *name;                  /* "scalar", "avx2", "avx512" */
    struct tp_product_kernels f32;     /* any weights */
    struct tp_product_kernels rounded; /* any weights; rounds to BF16 when it packs */
    /* Weights in BF16 and MXFP4 by a product of BF16 pairs, or NULL. */
    const struct tp_product_kernels *bf16_pairs;

    /* y[n] = x / sqrt(mean(x^2) + epsilon) * weight; y may be x. */
    void (*rms_norm)(const float *x, const float *weight, size_t n, float epsilon, float *y);

    /* Rotates one head in place, pairs (i, i + head_size / 2); `cosines` and `sines`
     * [head_size / 2]. */
    void (*rotate)(float *head, size_t head_size, const float *cosines, const float *sines);

    /* GPT-OSS: `pairs` [n][gate, up]; y[n] = (clamp(up, +-limit) + 1) * g * sigmoid(alpha * g),
     * g = min(gate, limit). NaN stays NaN. */
    void (*swiglu)(const float *pairs, size_t n, float alpha, float limit, float *y);
    /* Llama: y[n] = gate * sigmoid(gate) * up; y may be either. */
    void (*silu_product)(const float *gate, const float *up, size_t n, float *y);

    void (*add)(float *sum, const float *x, size_t n);                      /* sum += x */
    void (*add_scaled)(float *sum, const float *x, float factor, size_t n); /* sum += factor * x */
    void (*exponentials)(const float *x, size_t n, float *y);               /* y may be x */
    /* y = exp(x - max x) / sum; y may be x. */
    void (*softmax)(const float *x, size_t n, float *y);
    /* The first of the largest; NaN never is, and 0 if there is nothing else. */
    size_t (*argmax)(const float *x, size_t n);

    /* Sets sums[head] and `mixed` [n_heads][padded head size] to those of this part alone. */
    void (*attend)(const struct tp_attention_part *part, struct tp_attention_sums *sums,
                   float *mixed);
    /* Adds a part [n] to what was before it. */
    void (*merge)(struct tp_attention_sums *sums, float *mixed,
                  const struct tp_attention_sums *part_sums, const float *part_mixed, size_t n);
    /* mixed[n] /= total */
    void (*divide)(float *mixed, size_t n, float total);

    /* Makes a row of TP_MATRIX_INT8 of x[columns]; see quantize.inc. All tables make the same one.
     * False, and anything in `row`, when a number is not finite. */
    bool (*quantize)(const float *x, size_t columns, uint8_t *row);
};

/* The best table for this machine, or the one that TENSORPORT_ISA names; see tp_codecs(), which
 * this follows. */
const struct tp_kernels *tp_kernels(void);

/* The table called `name`, or NULL when this machine or this build has none such. */
const struct tp_kernels *tp_kernels_by_name(const char *name);

/* The names of all tables of this build, best first, NULL at the end. */
const char *const *tp_kernels_names(void);

#endif
