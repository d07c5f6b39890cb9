#include "fs/export/synth/synth_fill.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "decode/codec.h"
#include "fs/export/synth/synth_random.h"

enum {
    CHUNK_BYTES = 1 << 20,
    RANDOM_WORDS = 1 << 11,       /* 16 KiB: stays in the first cache beside the table */
    HEAD_STEP_ELEMENTS = 4 << 20, /* the kit draws the numbers of about so many at a time */
    HEAD_CHUNK_ELEMENTS = CHUNK_BYTES / 4,
};

struct tp_synth_filler {
    float unit[TP_NORMAL_TABLE_SIZE]; /* standard normal */
    float floats[TP_NORMAL_TABLE_SIZE];
    union { /* the samples in the type of the tensor */
        uint16_t narrow[TP_NORMAL_TABLE_SIZE];
        uint32_t wide[TP_NORMAL_TABLE_SIZE];
        uint8_t bytes[TP_SCALE_TABLE_SIZE];
    } table;
    union {
        uint64_t words[RANDOM_WORDS];
        uint16_t halves[4 * RANDOM_WORDS];
        uint8_t bytes[8 * RANDOM_WORDS];
    } random;
    union {
        uint64_t words[CHUNK_BYTES / 8];
        uint32_t wide[CHUNK_BYTES / 4];
        uint16_t narrow[CHUNK_BYTES / 2];
        uint8_t bytes[CHUNK_BYTES];
    } chunk;
};

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

struct tp_synth_filler *tp_synth_filler_new(void)
{
    struct tp_synth_filler *filler = malloc(sizeof *filler);
    if (filler != NULL)
        tp_random_normal_table(filler->unit);
    return filler;
}

void tp_synth_filler_free(struct tp_synth_filler *filler)
{
    free(filler);
}

/* Rounds to BF16, F16 or F32. */
static void round_floats(const float *source, void *target, size_t n, enum tp_dtype dtype)
{
    const struct tp_codecs *codecs = tp_codecs();

    if (dtype == TP_F32)
        memcpy(target, source, n * sizeof *source);
    else if (dtype == TP_F16)
        codecs->convert[TP_F32][TP_TARGET_F16](source, target, n);
    else
        codecs->convert[TP_F32][TP_TARGET_BF16](source, target, n);
}

static void widen_floats(const void *source, float *target, size_t n, enum tp_dtype dtype)
{
    if (dtype == TP_F32)
        memcpy(target, source, n * sizeof *target);
    else
        tp_codecs()->convert[dtype][TP_TARGET_F32](source, target, n);
}

static int fill_codes(struct tp_synth_filler *filler, struct tp_random *random, uint64_t n,
                      const struct tp_synth_sink *sink)
{
    int rc = 0;
    while (n > 0 && rc == 0) {
        size_t part = (size_t)smaller(n, CHUNK_BYTES);
        tp_random_fill(random, filler->chunk.words, (part + 7) / 8);
        rc = sink->append(sink->context, filler->chunk.bytes, part);
        n -= part;
    }
    return rc;
}

static int fill_scales(struct tp_synth_filler *filler, struct tp_random *random, uint64_t n,
                       double deviation, const struct tp_synth_sink *sink)
{
    int rc = 0;
    tp_random_scale_table(deviation, filler->table.bytes);
    while (n > 0 && rc == 0) {
        size_t part = (size_t)smaller(n, CHUNK_BYTES);
        tp_random_fill(random, filler->chunk.words, (part + 7) / 8);
        for (size_t i = 0; i < part; i++)
            filler->chunk.bytes[i] = filler->table.bytes[filler->chunk.bytes[i]];
        rc = sink->append(sink->context, filler->chunk.bytes, part);
        n -= part;
    }
    return rc;
}

static void look_up_narrow(const uint16_t *table, const uint16_t *indices, uint16_t *target,
                           size_t n)
{
    for (size_t i = 0; i < n; i++)
        target[i] = table[indices[i]];
}

static void look_up_wide(const uint32_t *table, const uint16_t *indices, uint32_t *target, size_t n)
{
    for (size_t i = 0; i < n; i++)
        target[i] = table[indices[i]];
}

static void make_table(struct tp_synth_filler *filler, const struct tp_synth_tensor *tensor)
{
    float deviation = (float)tensor->deviation, mean = (float)tensor->mean;
    for (size_t i = 0; i < TP_NORMAL_TABLE_SIZE; i++)
        filler->floats[i] = filler->unit[i] * deviation + mean;
    round_floats(filler->floats, &filler->table, TP_NORMAL_TABLE_SIZE, tensor->dtype);
}

/* The next `n` samples, which begin with a whole random word, into the chunk. */
static void draw_samples(struct tp_synth_filler *filler, struct tp_random *random, size_t n,
                         size_t width)
{
    for (size_t at = 0; at < n; at += 4 * RANDOM_WORDS) {
        size_t part = (size_t)smaller(n - at, 4 * RANDOM_WORDS);
        tp_random_fill(random, filler->random.words, (part + 3) / 4);
        if (width == sizeof(uint16_t))
            look_up_narrow(filler->table.narrow, filler->random.halves, filler->chunk.narrow + at,
                           part);
        else
            look_up_wide(filler->table.wide, filler->random.halves, filler->chunk.wide + at, part);
    }
}

static int fill_normal(struct tp_synth_filler *filler, struct tp_random *random,
                       const struct tp_synth_tensor *tensor, const struct tp_synth_sink *sink)
{
    size_t width = tp_dtype_size(tensor->dtype);
    uint64_t n = tensor->bytes / width;
    int rc = 0;
    make_table(filler, tensor);
    while (n > 0 && rc == 0) {
        size_t part = (size_t)smaller(n, CHUNK_BYTES / width);
        draw_samples(filler, random, part, width);
        rc = sink->append(sink->context, filler->chunk.bytes, part * width);
        n -= part;
    }
    return rc;
}

/* State of making lm_head.weight, some rows at a time. */
struct head {
    struct tp_synth_filler *filler;
    const struct tp_synth_weights *weights;
    enum tp_dtype dtype;
    size_t width;     /* elements of a row */
    float *rows;      /* [chunk of rows][width] */
    float *embedding; /* [width] */
    void *narrow;     /* [chunk of rows][width] of dtype; its first row also takes embeddings */
    const struct tp_synth_sink *sink;
};

static void draw_noise(struct head *head, struct tp_random *random, size_t n)
{
    struct tp_synth_filler *filler = head->filler;
    for (size_t at = 0; at < n; at += 4 * RANDOM_WORDS) {
        size_t part = (size_t)smaller(n - at, 4 * RANDOM_WORDS);
        tp_random_fill(random, filler->random.words, (part + 3) / 4);
        for (size_t i = 0; i < part; i++)
            head->rows[at + i] = filler->unit[filler->random.halves[i]];
    }
}

/* row [width] += weight * embedding of `token` */
static int add_embedding(struct head *head, float *row, uint64_t token, float weight)
{
    size_t bytes = head->width * tp_dtype_size(head->dtype);
    int rc = head->sink->read_embedding(head->sink->context, token * bytes, head->narrow, bytes);
    if (rc < 0)
        return rc;
    widen_floats(head->narrow, head->embedding, head->width, head->dtype);
    for (size_t i = 0; i < head->width; i++)
        row[i] += weight * head->embedding[i];
    return 0;
}

static int make_head_rows(struct head *head, struct tp_random *random, uint64_t first, size_t n)
{
    const struct tp_synth_weights *weights = head->weights;
    float sigma = (float)weights->head.sigma;

    draw_noise(head, random, n * head->width);
    for (size_t i = 0; i < n && first + i < weights->n_text; i++) {
        for (unsigned k = 1; k <= 2; k++) {
            int rc = add_embedding(head, head->rows + i * head->width,
                                   tp_synth_predecessor(weights, first + i, k),
                                   (float)weights->head.weights[k - 1]);
            if (rc < 0)
                return rc;
        }
    }
    for (size_t i = 0; i < n * head->width; i++)
        head->rows[i] *= sigma;
    round_floats(head->rows, head->narrow, n * head->width, head->dtype);
    return head->sink->append(head->sink->context, head->narrow,
                              n * head->width * tp_dtype_size(head->dtype));
}

/* The kit draws the noise of `step` rows at a time and drops what is left of the last random
 * word, so that each step begins with a whole one; within a step a multiple of four rows does. */
static int make_head(struct head *head, struct tp_random *random, uint64_t n_rows, uint64_t step,
                     uint64_t chunk)
{
    int rc = 0;
    for (uint64_t begin = 0; begin < n_rows && rc == 0; begin += step) {
        uint64_t end = smaller(begin + step, n_rows);
        for (uint64_t at = begin; at < end && rc == 0; at += chunk)
            rc = make_head_rows(head, random, at, (size_t)smaller(chunk, end - at));
    }
    return rc;
}

static int fill_head(struct tp_synth_filler *filler, const struct tp_synth_weights *weights,
                     const struct tp_synth_tensor *tensor, struct tp_random *random,
                     const struct tp_synth_sink *sink)
{
    size_t width = (size_t)tensor->shape[1];
    uint64_t step = width < HEAD_STEP_ELEMENTS ? HEAD_STEP_ELEMENTS / width : 1;
    uint64_t chunk = width < HEAD_CHUNK_ELEMENTS / 4 ? HEAD_CHUNK_ELEMENTS / width / 4 * 4 : 4;
    size_t n = (size_t)smaller(chunk, step) * width;
    struct head head = {
        .filler = filler,
        .weights = weights,
        .dtype = tensor->dtype,
        .width = width,
        .rows = calloc(n, sizeof(float)),
        .embedding = calloc(width, sizeof(float)),
        .narrow = calloc(n, tp_dtype_size(tensor->dtype)),
        .sink = sink,
    };
    int rc = -ENOMEM;
    if (head.rows != NULL && head.embedding != NULL && head.narrow != NULL)
        rc = make_head(&head, random, tensor->shape[0], step, chunk);
    free(head.rows);
    free(head.embedding);
    free(head.narrow);
    return rc;
}

int tp_synth_fill(struct tp_synth_filler *filler, const struct tp_synth_weights *weights,
                  const struct tp_synth_tensor *tensor, uint64_t seed,
                  const struct tp_synth_sink *sink)
{
    struct tp_random random;
    tp_random_init(&random, seed, tensor->name);
    switch (tensor->fill) {
    case TP_SYNTH_NORMAL:
        return fill_normal(filler, &random, tensor, sink);
    case TP_SYNTH_CODES:
        return fill_codes(filler, &random, tensor->bytes, sink);
    case TP_SYNTH_SCALES:
        return fill_scales(filler, &random, tensor->bytes, tensor->deviation, sink);
    case TP_SYNTH_HEAD:
        return fill_head(filler, weights, tensor, &random, sink);
    }
    return -EINVAL;
}
