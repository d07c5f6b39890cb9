/* A tile of 128 rows of a matrix times 64 vectors, by a block of 8 warps: four by two of them, each
 * 32 rows times 32 vectors. Both operands come through shared memory by asynchronous copies, 64
 * columns at a time, some steps ahead; MXFP4 stays packed until a warp has its numbers in
 * registers.
 *
 * Rows are in units of two, a and b, as in few_tile.cuh, so that a lane ends with both. A row of
 * shared memory is 8 chunks of 16 bytes, 64 numbers in BF16; chunks change places in every other
 * row, so that the lanes of a load meet different banks. */
#ifndef TENSORPORT_CUDA_MANY_TILE_CUH
#define TENSORPORT_CUDA_MANY_TILE_CUH

#include "cuda/few_tile.cuh"

enum {
    TP_MANY_STEP = 64, /* columns */
    TP_MANY_CHUNK = 8, /* numbers in BF16 of 16 bytes */
    TP_MANY_CHUNKS = TP_MANY_STEP / TP_MANY_CHUNK,
    TP_MANY_ROW_BYTES = TP_MANY_STEP * 2,
    TP_MANY_UNITS = TP_MANY_ROWS / 2,
    TP_MANY_VECTOR_BYTES = TP_MANY_VECTORS * TP_MANY_ROW_BYTES, /* of a part */
};

/* Row 0..127 of a tile's shared memory: the unit and which of its rows. */
TP_DEVICE uint32_t tp_many_unit(uint32_t row)
{
    return row / 16 * 8 + row % 8;
}

TP_DEVICE bool tp_many_is_lower(uint32_t row)
{
    return (row / 8 & 1) != 0;
}

/* ---- BF16: a lane has 8 columns of each 32 ---- */

struct tp_bf16_many {
    typedef uint32_t factor_type;                       /* none */
    static constexpr uint32_t m_tiles = 2, n_tiles = 4; /* of a warp: 16 rows, 8 vectors */
    static constexpr uint32_t row_bytes = TP_MANY_ROW_BYTES;
    static constexpr uint32_t chunks_per_thread = TP_MANY_ROWS * TP_MANY_CHUNKS / TP_MANY_THREADS;

    /* Where chunk `chunk` of a row or vector lies in it. */
    static TP_DEVICE_MEMBER uint32_t place(uint32_t row, uint32_t chunk)
    {
        return chunk ^ (row & 1) << 2;
    }

    static TP_DEVICE_MEMBER void copy(const struct tp_gpu_matrix *w, const struct tp_row *rows,
                                      uint32_t step, uint8_t *shared)
    {
        for (uint32_t i = 0; i < chunks_per_thread; i++) {
            uint32_t id = threadIdx.x + i * TP_MANY_THREADS;
            uint32_t row = id / TP_MANY_CHUNKS, chunk = id % TP_MANY_CHUNKS;
            uint32_t column = step * TP_MANY_STEP + chunk * TP_MANY_CHUNK;
            bool exists = rows[i].values != NULL && column < w->columns;
            const void *source =
                exists ? (const void *)(rows[i].values + 2 * (size_t)column) : w->values;
            tp_copy_async(shared + row * row_bytes + place(row, chunk) * 16, source,
                          exists ? 16 : 0);
        }
    }

    /* Which row thread `i`th chunk is of. */
    static TP_DEVICE_MEMBER uint32_t row_of(uint32_t i)
    {
        return (threadIdx.x + i * TP_MANY_THREADS) / TP_MANY_CHUNKS;
    }

    /* Operands of the two products over 32 columns, `half` 0 or 1: k0 and k1 as in few_tile.cuh. */
    static TP_DEVICE_MEMBER void unpack(const uint8_t *shared, uint32_t row, uint32_t half,
                                        uint32_t t, uint32_t, uint32_t, uint32_t k0[4],
                                        uint32_t k1[4])
    {
        uint32_t chunk = half * 4 + t;
        uint4 a = *(const uint4 *)(const void *)(shared + row * row_bytes + place(row, chunk) * 16);
        uint4 b = *(const uint4 *)(const void *)(shared + (row + 8) * row_bytes +
                                                 place(row + 8, chunk) * 16);
        k0[0] = a.x, k0[1] = b.x, k0[2] = a.y, k0[3] = b.y;
        k1[0] = a.z, k1[1] = b.z, k1[2] = a.w, k1[3] = b.w;
    }

    /* The chunk of a vector that goes with it. */
    static TP_DEVICE_MEMBER uint32_t vector_chunk(uint32_t half, uint32_t t)
    {
        return half * 4 + t;
    }

    static TP_DEVICE_MEMBER uint32_t factor(const struct tp_gpu_matrix *, const struct tp_row *,
                                            uint32_t, uint32_t)
    {
        return 0;
    }
};

/* ---- MXFP4: a lane has 16 columns of the 64, half a block ---- */

template <class FACTOR> struct tp_mxfp4_many_by {
    typedef FACTOR factor_type;
    static constexpr uint32_t m_tiles = 1, n_tiles = 8;
    static constexpr uint32_t row_bytes = TP_MANY_STEP / 2;
    static constexpr uint32_t chunks_per_thread = TP_MANY_ROWS * 2 / TP_MANY_THREADS;

    static TP_DEVICE_MEMBER uint32_t place(uint32_t row, uint32_t chunk)
    {
        return chunk ^ (row & 1);
    }

    static TP_DEVICE_MEMBER void copy(const struct tp_gpu_matrix *w, const struct tp_row *rows,
                                      uint32_t step, uint8_t *shared)
    {
        for (uint32_t i = 0; i < chunks_per_thread; i++) {
            uint32_t id = threadIdx.x + i * TP_MANY_THREADS, row = id / 2, chunk = id % 2;
            uint32_t block = step * 2 + chunk;
            bool exists = rows[i].values != NULL && block < w->columns / 32;
            const void *source =
                exists ? (const void *)(rows[i].values + 16 * (size_t)block) : w->values;
            tp_copy_async(shared + row * row_bytes + chunk * 16, source, exists ? 16 : 0);
        }
    }

    static TP_DEVICE_MEMBER uint32_t row_of(uint32_t i)
    {
        return (threadIdx.x + i * TP_MANY_THREADS) / 2;
    }

    /* `half` is the word of the lane's two: 8 columns of it. */
    static TP_DEVICE_MEMBER void unpack(const uint8_t *shared, uint32_t row, uint32_t half,
                                        uint32_t t, FACTOR upper_factor, FACTOR lower_factor,
                                        uint32_t k0[4], uint32_t k1[4])
    {
        uint32_t u = *(const uint32_t *)(const void *)(shared + row * row_bytes + t * 8 + half * 4);
        uint32_t l =
            *(const uint32_t *)(const void *)(shared + (row + 8) * row_bytes + t * 8 + half * 4);
        k0[0] = tp_unpack_nibbles(u << 12, upper_factor);
        k0[1] = tp_unpack_nibbles(l << 12, lower_factor);
        k0[2] = tp_unpack_nibbles(u << 8, upper_factor);
        k0[3] = tp_unpack_nibbles(l << 8, lower_factor);
        k1[0] = tp_unpack_nibbles(u << 4, upper_factor);
        k1[1] = tp_unpack_nibbles(l << 4, lower_factor);
        k1[2] = tp_unpack_nibbles(u, upper_factor);
        k1[3] = tp_unpack_nibbles(l, lower_factor);
    }

    static TP_DEVICE_MEMBER uint32_t vector_chunk(uint32_t half, uint32_t t)
    {
        return 2 * t + half;
    }

    /* Of the block that lane t has half of. */
    static TP_DEVICE_MEMBER FACTOR factor(const struct tp_gpu_matrix *w, const struct tp_row *row,
                                          uint32_t step, uint32_t t)
    {
        uint32_t block = step * 2 + t / 2;
        FACTOR factor = {};
        if (row->values != NULL && block < w->columns / 32)
            tp_make_factor(row->scales[block], &factor);
        return factor;
    }
};

typedef tp_mxfp4_many_by<uint32_t> tp_mxfp4_many;
typedef tp_mxfp4_many_by<struct tp_wide_factor> tp_wide_mxfp4_many;

/* ---- both operands of a step ---- */

/* Steps that are in shared memory at the same time, and the bytes of each. Three parts take more of
 * it: with two steps it is less than any GPU has. */
template <class WEIGHTS, int PARTS> struct tp_many_layout {
    static constexpr int stages = PARTS == 1 ? 3 : 2;
    static constexpr size_t stage_bytes =
        (size_t)TP_MANY_ROWS * WEIGHTS::row_bytes + (size_t)PARTS * TP_MANY_VECTOR_BYTES;
};

/* Rows of the tile that this thread copies, or has scales of; vectors that it copies. */
template <class WEIGHTS> struct tp_many_sources {
    struct tp_row rows[WEIGHTS::chunks_per_thread];
    struct tp_row upper[WEIGHTS::m_tiles], lower[WEIGHTS::m_tiles];
    int vectors[TP_MANY_VECTORS * TP_MANY_CHUNKS / TP_MANY_THREADS];
};

template <class WEIGHTS, int PARTS>
TP_DEVICE void tp_many_copy(const struct tp_gpu_matrix *w, const struct tp_columns *columns,
                            const struct tp_many_sources<WEIGHTS> *sources, uint32_t step,
                            uint8_t *shared)
{
    enum { PER_THREAD = TP_MANY_VECTORS * TP_MANY_CHUNKS / TP_MANY_THREADS };
    WEIGHTS::copy(w, sources->rows, step, shared);
    shared += TP_MANY_ROWS * WEIGHTS::row_bytes;
    uint32_t chunk = threadIdx.x % TP_MANY_CHUNKS;
#pragma unroll
    for (uint32_t part = 0; part < PARTS; part++, shared += TP_MANY_VECTOR_BYTES) {
        for (uint32_t i = 0; i < PER_THREAD; i++) {
            uint32_t row = threadIdx.x / TP_MANY_CHUNKS + i * (TP_MANY_THREADS / TP_MANY_CHUNKS);
            int vector = sources->vectors[i];
            size_t at =
                ((size_t)(vector < 0 ? 0 : vector) * columns->n_parts + part) * columns->stride +
                step * TP_MANY_STEP + chunk * TP_MANY_CHUNK;
            tp_copy_async(shared + row * TP_MANY_ROW_BYTES + WEIGHTS::place(row, chunk) * 16,
                          columns->parts + at, vector < 0 ? 0 : 16);
        }
    }
}

/* The first row and the first vector of this thread's warp. */
template <class WEIGHTS> TP_DEVICE uint32_t tp_many_first_row(void)
{
    return threadIdx.x / 32 % (TP_MANY_ROWS / 16 / WEIGHTS::m_tiles) * 16 * WEIGHTS::m_tiles;
}

template <class WEIGHTS> TP_DEVICE uint32_t tp_many_first_vector(void)
{
    return threadIdx.x / 32 / (TP_MANY_ROWS / 16 / WEIGHTS::m_tiles) * 8 * WEIGHTS::n_tiles;
}

/* Sums of a warp, as tp_multiply_tiles() has them. */
template <class WEIGHTS> struct tp_many_sums {
    float tiles[WEIGHTS::m_tiles][WEIGHTS::n_tiles][4];
};

template <class WEIGHTS, int PARTS>
TP_DEVICE void tp_many_multiply(const uint8_t *shared,
                                const typename WEIGHTS::factor_type factors[WEIGHTS::m_tiles][2],
                                tp_many_sums<WEIGHTS> *sums)
{
    uint32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    uint32_t first_row = tp_many_first_row<WEIGHTS>();
    uint32_t first_vector = tp_many_first_vector<WEIGHTS>();
    const uint8_t *vectors = shared + TP_MANY_ROWS * WEIGHTS::row_bytes;
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t k0[WEIGHTS::m_tiles][4], k1[WEIGHTS::m_tiles][4];
        uint32_t chunk = WEIGHTS::vector_chunk(half, t);
#pragma unroll
        for (uint32_t m = 0; m < WEIGHTS::m_tiles; m++)
            WEIGHTS::unpack(shared, first_row + m * 16 + g, half, t, factors[m][0], factors[m][1],
                            k0[m], k1[m]);
#pragma unroll
        for (uint32_t i = 0; i < PARTS; i++) {
            uint32_t part = PARTS - 1 - i; /* the small ones first */
#pragma unroll
            for (uint32_t n = 0; n < WEIGHTS::n_tiles; n++) {
                uint32_t row = first_vector + n * 8 + g;
                uint4 x = *(const uint4 *)(const void *)(vectors + part * TP_MANY_VECTOR_BYTES +
                                                         row * TP_MANY_ROW_BYTES +
                                                         WEIGHTS::place(row, chunk) * 16);
                const uint32_t x0[2] = {x.x, x.y}, x1[2] = {x.z, x.w};
#pragma unroll
                for (uint32_t m = 0; m < WEIGHTS::m_tiles; m++) {
                    tp_multiply_tiles(sums->tiles[m][n], k0[m], x0);
                    tp_multiply_tiles(sums->tiles[m][n], k1[m], x1);
                }
            }
        }
    }
}

/* ---- a tile ---- */

/* The product of a tile of `task`, which has
 *
 *     uint32_t n_units;                        of the matrix
 *     const struct tp_gpu_matrix *matrix(unit) whose type and columns all have in common
 *     struct tp_row row(unit, is_lower)        of a unit below n_units
 *     int vector(j)                            of column j = 0..63 of the tile; -1: none
 *     void finish(unit, j, a, b)               takes the results of an existing unit and vector
 *
 * `first_unit` is the tile's first; the columns have PARTS parts. */
template <class WEIGHTS, int PARTS, class TASK>
TP_DEVICE void tp_many_product(const TASK &task, uint32_t first_unit,
                               const struct tp_columns *columns)
{
    const struct tp_gpu_matrix *w = task.matrix(first_unit);
    uint32_t n_steps = (w->columns + TP_MANY_STEP - 1) / TP_MANY_STEP;
    uint32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    uint32_t first_row = tp_many_first_row<WEIGHTS>();
    constexpr int STAGES = tp_many_layout<WEIGHTS, PARTS>::stages;
    constexpr size_t stage_bytes = tp_many_layout<WEIGHTS, PARTS>::stage_bytes;
    struct tp_many_sources<WEIGHTS> sources;
    tp_many_sums<WEIGHTS> sums = {};
    struct tp_row none = {NULL, NULL};

    for (uint32_t i = 0; i < WEIGHTS::chunks_per_thread; i++) {
        uint32_t row = WEIGHTS::row_of(i), unit = first_unit + tp_many_unit(row);
        sources.rows[i] = unit < task.n_units ? task.row(unit, tp_many_is_lower(row)) : none;
    }
    for (uint32_t m = 0; m < WEIGHTS::m_tiles; m++) {
        uint32_t unit = first_unit + tp_many_unit(first_row + m * 16 + g);
        sources.upper[m] = unit < task.n_units ? task.row(unit, false) : none;
        sources.lower[m] = unit < task.n_units ? task.row(unit, true) : none;
    }
    for (uint32_t i = 0; i < TP_MANY_VECTORS * TP_MANY_CHUNKS / TP_MANY_THREADS; i++)
        sources.vectors[i] =
            task.vector(threadIdx.x / TP_MANY_CHUNKS + i * (TP_MANY_THREADS / TP_MANY_CHUNKS));

    uint8_t *shared = TP_SHARED();
    for (uint32_t step = 0; step < STAGES - 1; step++) {
        if (step < n_steps)
            tp_many_copy<WEIGHTS, PARTS>(w, columns, &sources, step, shared + step * stage_bytes);
        tp_copy_commit();
    }
    typename WEIGHTS::factor_type next_factors[WEIGHTS::m_tiles][2], factors[WEIGHTS::m_tiles][2];
    for (uint32_t m = 0; m < WEIGHTS::m_tiles; m++) {
        next_factors[m][0] = WEIGHTS::factor(w, &sources.upper[m], 0, t);
        next_factors[m][1] = WEIGHTS::factor(w, &sources.lower[m], 0, t);
    }
    for (uint32_t step = 0; step < n_steps; step++) {
        tp_copy_wait<STAGES - 2>();
        __syncthreads();
        uint32_t ahead = step + STAGES - 1;
        if (ahead < n_steps)
            tp_many_copy<WEIGHTS, PARTS>(w, columns, &sources, ahead,
                                         shared + ahead % STAGES * stage_bytes);
        tp_copy_commit();
        for (uint32_t m = 0; m < WEIGHTS::m_tiles; m++) {
            factors[m][0] = next_factors[m][0];
            factors[m][1] = next_factors[m][1];
            next_factors[m][0] = WEIGHTS::factor(w, &sources.upper[m], step + 1, t);
            next_factors[m][1] = WEIGHTS::factor(w, &sources.lower[m], step + 1, t);
        }
        tp_many_multiply<WEIGHTS, PARTS>(shared + step % STAGES * stage_bytes, factors, &sums);
    }
    tp_copy_wait<0>();

#pragma unroll
    for (uint32_t m = 0; m < WEIGHTS::m_tiles; m++) {
        uint32_t unit = first_unit + tp_many_unit(first_row + m * 16 + g);
#pragma unroll
        for (uint32_t n = 0; n < WEIGHTS::n_tiles; n++) {
            for (uint32_t i = 0; i < 2; i++) {
                uint32_t j = tp_many_first_vector<WEIGHTS>() + n * 8 + 2 * t + i;
                if (unit < task.n_units && task.vector(j) >= 0)
                    task.finish(unit, j, sums.tiles[m][n][i], sums.tiles[m][n][2 + i]);
            }
        }
    }
}

#endif
