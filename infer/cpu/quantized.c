#include "infer/cpu/quantized.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "infer/cpu/layers.h"

enum { ROWS_OF_PIECE = 16, HUGE_PAGE_BYTES = 2 << 20 };

/* The dense matrices of a layer, and their names in a checkpoint. */
static const struct {
    size_t offset; /* in struct tp_model_layer */
    const char *name;
} dense[] = {
    {offsetof(struct tp_model_layer, q), "self_attn.q_proj"},
    {offsetof(struct tp_model_layer, k), "self_attn.k_proj"},
    {offsetof(struct tp_model_layer, v), "self_attn.v_proj"},
    {offsetof(struct tp_model_layer, o), "self_attn.o_proj"},
    {offsetof(struct tp_model_layer, gate), "mlp.gate_proj"},
    {offsetof(struct tp_model_layer, up), "mlp.up_proj"},
    {offsetof(struct tp_model_layer, down), "mlp.down_proj"},
};

enum { N_DENSE = sizeof dense / sizeof dense[0], NAME_BYTES = 96 };

/* The `i`-th dense matrix of the copy: the layers' in order, some of which are empty, then the
 * head. NULL behind the last one. */
static struct tp_matrix *dense_matrix(struct tp_model *model, size_t i)
{
    size_t layer = i / N_DENSE;
    if (layer < model->config.n_layers)
        return (struct tp_matrix *)((char *)&model->layers[layer] + dense[i % N_DENSE].offset);
    return i == model->config.n_layers * N_DENSE ? &model->head : NULL;
}

static void name_matrix(const struct tp_model *model, size_t i, char name[NAME_BYTES])
{
    if (i / N_DENSE < model->config.n_layers)
        snprintf(name, NAME_BYTES, "model.layers.%zu.%s.weight", i / N_DENSE,
                 dense[i % N_DENSE].name);
    else
        snprintf(name, NAME_BYTES, "%s.weight",
                 model->config.tied ? "model.embed_tokens" : "lm_head");
}

/* ---- one matrix ---- */

struct quantizing {
    const struct tp_kernels *kernels;
    const struct tp_matrix *source;
    uint8_t *target;
    float *rows; /* [threads][stride] */
    size_t stride;
    atomic_bool not_finite;
};

static void quantize_piece(void *context, size_t item, size_t thread)
{
    struct quantizing *q = context;
    size_t end =
        (item + 1) * ROWS_OF_PIECE < q->source->rows ? (item + 1) * ROWS_OF_PIECE : q->source->rows;
    size_t columns = q->source->columns;
    float *x = q->rows + thread * q->stride;
    for (size_t row = item * ROWS_OF_PIECE; row < end; row++) {
        tp_matrix_row(q->source, row, x);
        if (!q->kernels->quantize(x, columns, q->target + row * tp_int8_row_bytes(columns)))
            atomic_store(&q->not_finite, true);
    }
}

/* Puts `matrix` to `target`. */
static int quantize_matrix(struct tp_workspace *workspace, struct tp_matrix *matrix,
                           uint8_t *target)
{
    enum { FLOATS_OF_LINE = 16 };
    struct tp_matrix source = *matrix;
    struct quantizing q = {.kernels = workspace->kernels, .source = &source, .target = target};
    q.stride = (source.columns + FLOATS_OF_LINE - 1) / FLOATS_OF_LINE * FLOATS_OF_LINE;
    q.rows = tp_scratch_reserve(&workspace->scratch, tp_pool_threads(workspace->pool),
                                q.stride * sizeof *q.rows);
    if (q.rows == NULL)
        return -ENOMEM;
    tp_pool_run(workspace->pool, (source.rows + ROWS_OF_PIECE - 1) / ROWS_OF_PIECE, quantize_piece,
                &q);
    if (atomic_load(&q.not_finite))
        return -EDOM;
    *matrix = (struct tp_matrix){TP_MATRIX_INT8, source.rows, source.columns, target, NULL};
    return 0;
}

/* ---- all of them ---- */

static size_t bytes_as_int8(const struct tp_matrix *matrix)
{
    return matrix->values != NULL ? matrix->rows * tp_int8_row_bytes(matrix->columns) : 0;
}

/* Copies what is changed, and has memory for what it is changed to. The sizes cannot overflow: each
 * weight lies in memory already, in two bytes at least. */
static int prepare(struct tp_quantized *quantized, const struct tp_model *model)
{
    size_t n_layers = model->config.n_layers, bytes = HUGE_PAGE_BYTES;
    struct tp_matrix *matrix;
    quantized->model = *model;
    quantized->model.layers = calloc(n_layers, sizeof *model->layers);
    if (quantized->model.layers == NULL)
        return -ENOMEM;
    memcpy(quantized->model.layers, model->layers, n_layers * sizeof *model->layers);
    for (size_t i = 0; (matrix = dense_matrix(&quantized->model, i)) != NULL; i++)
        bytes += bytes_as_int8(matrix);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -ENOMEM;
    madvise(memory, bytes, MADV_HUGEPAGE); /* without, only slower */
    quantized->memory = memory;
    quantized->bytes = bytes;
    return 0;
}

static int fail(const struct tp_model *model, size_t i, int rc, struct tp_error *error)
{
    char name[NAME_BYTES];
    name_matrix(model, i, name);
    if (rc == -EDOM)
        return tp_error_set(error, rc,
                            "tensor \"%s\": expected finite weights for --dense int8, found NaN "
                            "or infinity; leave --dense int8 away",
                            name);
    return tp_error_set(error, rc, "tensor \"%s\": out of memory for --dense int8", name);
}

int tp_quantized_init(struct tp_quantized *quantized, const struct tp_model *model,
                      struct tp_workspace *workspace, struct tp_error *error)
{
    struct tp_matrix *matrix;
    int rc = prepare(quantized, model);
    if (rc < 0)
        return tp_error_set(error, rc, "out of memory for --dense int8");
    uint8_t *target = quantized->memory;
    for (size_t i = 0; (matrix = dense_matrix(&quantized->model, i)) != NULL; i++) {
        size_t bytes = bytes_as_int8(matrix);
        rc = bytes > 0 ? quantize_matrix(workspace, matrix, target) : 0;
        if (rc < 0)
            return fail(model, i, rc, error);
        target += bytes;
    }
    return 0;
}

void tp_quantized_clear(struct tp_quantized *quantized)
{
    if (quantized->memory != NULL)
        munmap(quantized->memory, quantized->bytes);
    free(quantized->model.layers);
    *quantized = (struct tp_quantized){.memory = NULL};
}
