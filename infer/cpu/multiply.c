#include "infer/cpu/multiply.h"

#include <errno.h>

/* Pieces of a product that are shared out: so long that a thread reads memory in long streaks,
 * so short that none waits for another for long. */
enum { FEW_PIECE_BYTES = 96 << 10, MXFP4_ROWS_MULTIPLE = 24, MIN_PIECES_PER_THREAD = 4 };

/* Rows that go together must not fall on the same sets of a cache. */
enum { PACKED_ROW_PADDING = 192 };

struct piece {
    const struct tp_product *product;
    struct tp_rows rows;
    size_t first_vector, n_vectors; /* of the product */
};

struct multiplication {
    const struct tp_kernels *kernels;
    const struct tp_vectors *vectors;
    enum tp_activations activations;
    uint8_t *packed[2]; /* by form: float32, pairs of BF16; NULL if no product wants it */
    size_t packed_stride[2];
    const void **x[2]; /* [vectors->n], by form */
    struct piece *pieces;
    uint8_t *scratch; /* [threads][TP_MANY_SCRATCH_BYTES] */
};

enum { FLOATS, PAIRS };

static int form_of(const struct multiplication *m, const struct tp_product *product)
{
    enum tp_matrix_type type = product->w.type;
    bool in_bf16 = type == TP_MATRIX_BF16 || type == TP_MATRIX_MXFP4 || type == TP_MATRIX_INT8;
    return m->activations == TP_ACTIVATIONS_BF16 && m->kernels->bf16_pairs != NULL && in_bf16
               ? PAIRS
               : FLOATS;
}

static const struct tp_product_kernels *kernels_of(const struct multiplication *m, int form)
{
    if (form == PAIRS)
        return m->kernels->bf16_pairs;
    return m->activations == TP_ACTIVATIONS_BF16 ? &m->kernels->rounded : &m->kernels->f32;
}

static size_t divide_up(size_t a, size_t b)
{
    return a / b + (a % b != 0);
}

/* ---- packing the activations ---- */

static void pack_one(void *context, size_t item, size_t thread)
{
    const struct multiplication *m = context;
    const struct tp_vectors *vectors = m->vectors;
    (void)thread;
    for (int form = FLOATS; form <= PAIRS; form++) {
        if (m->packed[form] != NULL)
            kernels_of(m, form)->pack(vectors->x + item * vectors->stride, vectors->columns,
                                      m->packed[form] + item * m->packed_stride[form]);
    }
}

static bool reserve_packed(struct tp_workspace *workspace, struct multiplication *m, int form)
{
    const struct tp_vectors *vectors = m->vectors;
    size_t blocks = divide_up(vectors->columns, TP_BLOCK_COLUMNS);
    m->packed_stride[form] = blocks * kernels_of(m, form)->block_bytes + PACKED_ROW_PADDING;
    m->packed[form] =
        tp_scratch_reserve(&workspace->packed[form], vectors->n_x, m->packed_stride[form]);
    return m->packed[form] != NULL;
}

static void pack_all(struct tp_workspace *workspace, struct multiplication *m)
{
    enum { PARALLEL_FROM = 8 };
    if (m->vectors->n_x >= PARALLEL_FROM) {
        tp_pool_run(workspace->pool, m->vectors->n_x, pack_one, m);
        return;
    }
    for (size_t i = 0; i < m->vectors->n_x; i++)
        pack_one(m, i, 0);
}

/* ---- sharing out ---- */

/* Whether a piece is gone through for TP_FEW_VECTORS at a time: it comes from memory the first
 * time and from the second cache then. */
static bool in_passes(const struct multiplication *m, const struct tp_product *product)
{
    const struct tp_product_kernels *kernels = kernels_of(m, form_of(m, product));
    return product->n <= (product->w.type == TP_MATRIX_MXFP4 ? kernels->mxfp4_passes_up_to
                                                             : kernels->passes_up_to);
}

/* Runs of rows, so many at a time: see struct tp_rows. Blocks of MXFP4 take so much work that a
 * core reads them fast enough in one. */
static size_t n_runs(const struct tp_product *product)
{
    return product->w.type == TP_MATRIX_MXFP4 ? 1 : TP_RUNS;
}

/* Rows of each run in a piece. */
static size_t rows_of_piece(const struct tp_product *product, size_t run, size_t n_threads)
{
    size_t row_bytes = divide_up(tp_matrix_bytes(&product->w), product->w.rows) + 1;
    size_t by_bytes = divide_up(FEW_PIECE_BYTES, row_bytes * n_runs(product));
    size_t by_threads = divide_up(run, MIN_PIECES_PER_THREAD * n_threads);
    size_t rows = by_bytes < by_threads ? by_bytes : by_threads;
    size_t multiple = n_runs(product) == 1 ? MXFP4_ROWS_MULTIPLE : 1;
    return divide_up(rows, multiple) * multiple;
}

/* Lists the pieces of a product with few vectors, if `pieces` is not NULL; gives their number.
 * Pieces that follow each other go on in the same runs. */
static size_t list_few(const struct tp_product *product, size_t n_threads, struct piece *pieces)
{
    size_t runs = n_runs(product), run = product->w.rows / runs, n = 0;
    size_t rows = run > 0 ? rows_of_piece(product, run, n_threads) : 1;
    for (size_t row = 0; row < run; row += rows, n++) {
        size_t rest = run - row;
        if (pieces != NULL)
            pieces[n] = (struct piece){
                product, {row, rest < rows ? rest : rows, runs > 1 ? run : 0}, 0, product->n};
    }
    size_t listed = runs * run;
    if (listed < product->w.rows) {
        if (pieces != NULL)
            pieces[n] =
                (struct piece){product, {listed, product->w.rows - listed, 0}, 0, product->n};
        n++;
    }
    return n;
}

/* The same for many vectors. Pieces of the same rows follow each other: the weights come from
 * memory once, the vectors are in a cache. */
static size_t list_many(const struct tp_product *product, struct piece *pieces)
{
    size_t runs = divide_up(product->n, TP_MANY_VECTORS), n = 0;
    for (size_t row = 0; row < product->w.rows; row += TP_MANY_ROWS) {
        size_t rest = product->w.rows - row;
        for (size_t run = 0; run < runs; run++, n++) {
            size_t first = product->n * run / runs, end = product->n * (run + 1) / runs;
            if (pieces != NULL)
                pieces[n] = (struct piece){product,
                                           {row, rest < TP_MANY_ROWS ? rest : TP_MANY_ROWS, 0},
                                           first,
                                           end - first};
        }
    }
    return n;
}

/* Of few vectors the weights count, which a piece reads once; of many their number. */
static size_t list_pieces(const struct multiplication *m, const struct tp_product *product,
                          size_t n_threads, struct piece *pieces)
{
    if (product->n == 0 || product->w.rows == 0)
        return 0;
    return in_passes(m, product) ? list_few(product, n_threads, pieces)
                                 : list_many(product, pieces);
}

static void do_piece(void *context, size_t item, size_t thread)
{
    const struct multiplication *m = context;
    const struct piece *piece = &m->pieces[item];
    const struct tp_product *product = piece->product;
    int form = form_of(m, product);
    const struct tp_product_kernels *kernels = kernels_of(m, form);
    const void *const *x = m->x[form] + product->first + piece->first_vector;
    float *y[TP_MANY_VECTORS];

    for (size_t i = 0; i < piece->n_vectors; i++)
        y[i] = product->y + (piece->first_vector + i) * product->y_stride;
    if (!in_passes(m, product)) {
        kernels->many(&product->w, product->bias, piece->rows.first, piece->rows.n, x,
                      piece->n_vectors, y, m->scratch + thread * TP_MANY_SCRATCH_BYTES);
        return;
    }
    for (size_t i = 0; i < piece->n_vectors; i += TP_FEW_VECTORS) {
        size_t rest = piece->n_vectors - i;
        kernels->few(&product->w, product->bias, &piece->rows, x + i,
                     rest < TP_FEW_VECTORS ? rest : TP_FEW_VECTORS, y + i);
    }
}

static bool reserve(struct tp_workspace *workspace, struct multiplication *m, size_t n_pieces,
                    const struct tp_product *products, size_t n)
{
    size_t n_threads = tp_pool_threads(workspace->pool);
    for (size_t i = 0; i < n; i++) {
        int form = form_of(m, &products[i]);
        if (m->packed[form] == NULL && !reserve_packed(workspace, m, form))
            return false;
    }
    const void **x = tp_scratch_reserve(&workspace->vectors, m->vectors->n, 2 * sizeof *x);
    m->pieces = tp_scratch_reserve(&workspace->pieces, n_pieces, sizeof *m->pieces);
    m->scratch = tp_scratch_reserve(&workspace->scratch, n_threads, TP_MANY_SCRATCH_BYTES);
    if (x == NULL || m->pieces == NULL || m->scratch == NULL)
        return false;
    m->x[FLOATS] = x;
    m->x[PAIRS] = x + m->vectors->n;
    return true;
}

static void point_at_packed(struct multiplication *m)
{
    const uint32_t *rows = m->vectors->rows;
    for (int form = FLOATS; form <= PAIRS; form++) {
        for (size_t i = 0; m->packed[form] != NULL && i < m->vectors->n; i++)
            m->x[form][i] = m->packed[form] + (rows != NULL ? rows[i] : i) * m->packed_stride[form];
    }
}

int tp_multiply(struct tp_workspace *workspace, const struct tp_vectors *vectors,
                enum tp_activations activations, const struct tp_product *products, size_t n)
{
    struct multiplication m = {
        .kernels = workspace->kernels, .vectors = vectors, .activations = activations};
    size_t n_threads = tp_pool_threads(workspace->pool), n_pieces = 0;
    for (size_t i = 0; i < n; i++)
        n_pieces += list_pieces(&m, &products[i], n_threads, NULL);
    if (n_pieces == 0)
        return 0;
    if (!reserve(workspace, &m, n_pieces, products, n))
        return -ENOMEM;
    for (size_t i = 0, at = 0; i < n; i++)
        at += list_pieces(&m, &products[i], n_threads, m.pieces + at);
    point_at_packed(&m);
    pack_all(workspace, &m);
    tp_pool_run(workspace->pool, n_pieces, do_piece, &m);
    return 0;
}
