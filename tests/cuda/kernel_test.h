/* What the tests of kernels share. A kernel is launched by itself, through cuda/device.h, on memory
 * that holds what the test says, and judged by sums in double. The same programs run in the harness
 * and on a device. */
#ifndef TENSORPORT_TESTS_CUDA_KERNEL_TEST_H
#define TENSORPORT_TESTS_CUDA_KERNEL_TEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cuda/device.h"
#include "cuda/kernels.h"

struct kernel_test {
    const char *name;
    void (*run)(void);
    unsigned flags;
};
enum {
    NEEDS_TILES = 1, /* is left out, and said to be, on a device without */
    IS_LARGE = 2,    /* of a real model's shapes: for a device, when it is asked for */
};

/* Each file's, ended by one without a name. */
extern const struct kernel_test product_tests[], mlp_tests[], output_tests[], attention_tests[],
    choosing_tests[], many_row_tests[], many_product_tests[], many_attention_tests[], array_tests[];

/* ---- what a test says ---- */

/* The test fails unless `holds`; the first such message is told. */
void expect(bool holds, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* |found - expected| <= tolerance * size, or both NaN, or both the same infinity. */
void expect_near(double found, double expected, double size, double tolerance, const char *what,
                 size_t i, size_t j);

/* ---- memory; all of it is freed after the test ---- */

void *on_host(size_t n, size_t bytes); /* zeros */
void *on_device(const void *source, size_t bytes);
void *zeros_on_device(size_t bytes);
void *from_device(const void *source, size_t bytes); /* on the host */

const struct tp_device_facts *device_facts(void);

/* Blocks of a stage of few tokens that run at the same time, as the backend starts them. */
unsigned blocks_at_once(void);

/* gpt-oss-20b, for tests of its shapes; of fewer experts where all would take the host too long. */
enum {
    LARGE_HIDDEN = 2880,
    LARGE_INNER = 2880,
    LARGE_VOCABULARY = 201088,
    LARGE_HEADS = 64,
    LARGE_KV_HEADS = 8,
    LARGE_HEAD_SIZE = 64,
    LARGE_QUERY = LARGE_HEADS * LARGE_HEAD_SIZE,
    LARGE_WINDOW = 128,
    LARGE_EXPERTS = 32,
    LARGE_EXPERTS_TRIED = 8,
    LARGE_EXPERTS_PER_TOKEN = 4,
};

/* A launch of the kernel with that many blocks (0: as many as there are tiles of work, at most what
 * the backend would start), and then a wait. */
void launch(tp_kernel_fn *kernel, const void *arguments, size_t bytes, unsigned blocks,
            unsigned threads, size_t shared_bytes);
void launch_grid(tp_kernel_fn *kernel, const void *arguments, size_t bytes, const unsigned grid[3],
                 unsigned threads, size_t shared_bytes);

/* ---- numbers ---- */

uint32_t random_below(uint32_t n);
float random_float(void);       /* -1..1 */
float *random_floats(size_t n); /* on the host */
float rounded_to_bf16(float x); /* to nearest even */
float from_bf16(uint16_t bits);
uint16_t to_bf16(float x);

/* ---- matrices ---- */

struct weights {
    struct tp_gpu_matrix gpu; /* the first of them */
    float *values;            /* [n][rows][columns]: what they stand for */
};

/* `scales` [n_scales]: which MXFP4 draws from; NULL: 118 to 128. */
struct weights make_weights(enum tp_matrix_type type, size_t n, size_t rows, size_t columns,
                            const uint8_t *scales, size_t n_scales);

/* Row `row` times x, and the sum of the products' sizes. */
double multiply_row(const struct weights *w, size_t row, const float *x, double *ret_size);

/* ---- columns and squares ---- */

/* Those of x[n][size] on the device; x is rounded to what one part holds. */
struct tp_columns make_columns(float *x, size_t n, size_t size, uint32_t n_parts, bool shuffled);
struct tp_columns empty_columns(size_t n, size_t size, uint32_t n_parts, bool shuffled);

/* What they hold; their padding must be zeros still. */
float *read_columns(const struct tp_columns *columns, size_t n);

/* How near they come to a number. */
double column_tolerance(const struct tp_columns *columns);

/* Of x[n][size], in several sums; ret_scales[n] (on the host) are what they give. */
struct tp_squares make_squares(const float *x, size_t n, size_t size, double *ret_scales);

/* The same for a step of many: one sum for each. */
struct tp_squares make_token_squares(const float *x, size_t n, size_t size, double *ret_scales);

/* ---- experts ---- */

/* A choice for each token, drawn, and scales of norms up to `norm`. Arrays of it are on the device;
 * copies on the host. */
struct choice {
    struct tp_routing routing;
    uint32_t *chosen; /* [n][k] */
    float *weights;   /* [n][k] */
    float *scales;    /* [TP_FEW] */
    uint32_t n_active;
};
struct choice choose(size_t n, size_t n_experts, size_t k, float norm);

/* Memory for one. */
struct tp_routing empty_routing(size_t n_experts, size_t k);

/* Many tokens sorted by expert. Arrays of `slots` are on the device; copies on the host. */
struct sorted {
    struct tp_slots slots;
    uint32_t *chosen; /* [n][k] */
    float *weights;   /* [n][k] */
    uint32_t *first;  /* [n_experts + 1] */
    uint32_t *tokens, *of_token;
};

/* `counts` [n_experts], with k = 1: how many tokens each expert has. NULL: drawn; the first expert
 * has all tokens if they have several, the last one none if it can be. */
struct sorted sort_tokens(size_t n, size_t n_experts, size_t k, const uint32_t *counts);

/* ---- variants of a stage ---- */

/* Kernels of a stage: on tensor cores for one and three groups of columns, and for any type. */
struct variants {
    tp_kernel_fn *bf16_1, *bf16_3, *any, *mxfp4_1, *mxfp4_3;
};

/* The one for these weights; *ret_groups as tp_few_shared_bytes() wants it. `tiles`: on tensor
 * cores, if there are any for it. */
tp_kernel_fn *variant_for(const struct variants *variants, const struct tp_gpu_matrix *w,
                          uint32_t n_parts, size_t n, bool tiles, uint32_t *ret_groups);

/* Whether columns for it are shuffled. */
bool is_shuffled(const struct tp_gpu_matrix *w, bool tiles);

#endif
