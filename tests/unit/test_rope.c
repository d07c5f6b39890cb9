/* Rotary tables against those of the kit's models, to position 131071: goldens/MODEL/rope.*.npy. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decode/npy.h"
#include "infer/model/rope.h"
#include "tests/unit/read_file.h"

/* The data of an array of 4-byte numbers, for the caller to free. */
static void *read_array(const char *model, const char *name, size_t *ret_n)
{
    char path[256];
    struct tp_npy_header header;
    snprintf(path, sizeof path, "tests/kit/goldens/%s/rope.%s.npy", model, name);
    struct bytes file = read_source_file(path);
    cr_assert_not_null(file.data, "%s", path);
    cr_assert_eq(tp_npy_header_parse(file.data, file.size, &header, NULL), 0, "%s", path);
    void *data = malloc(header.data_bytes);
    memcpy(data, file.data + header.data_offset, header.data_bytes);
    *ret_n = header.data_bytes / 4;
    tp_npy_header_clear(&header);
    free(file.data);
    return data;
}

static void compare(const char *model, const struct tp_rope_config *config)
{
    struct tp_rope rope;
    size_t n_pairs, n_positions, n;
    float *frequencies = read_array(model, "inv_freq", &n_pairs);
    int32_t *positions = read_array(model, "positions", &n_positions);
    float *cosines = read_array(model, "cos", &n), *sines = read_array(model, "sin", &n);
    float *c = calloc(n_pairs, sizeof *c), *s = calloc(n_pairs, sizeof *s);
    cr_assert_eq(n, n_pairs * n_positions);
    cr_assert_eq(tp_rope_new(config, 2 * n_pairs, &rope), 0);
    for (size_t p = 0; p < n_positions; p++) {
        tp_rope_position(&rope, (size_t)positions[p], c, s);
        for (size_t i = 0; i < n_pairs; i++) {
            size_t at = p * n_pairs + i;
            /* a unit in the last place of frequency and angle, and one of our own */
            double angle = (double)positions[p] * (double)frequencies[i];
            bool same = rope.inverse_frequencies[i] == frequencies[i];
            double allowed = 2.5e-7 + (same ? 0 : angle * 2.4e-7 * 1.35);
            cr_expect_leq(fabs((double)c[i] - (double)cosines[at]), allowed, "%s %d %zu", model,
                          positions[p], i);
            cr_expect_leq(fabs((double)s[i] - (double)sines[at]), allowed, "%s %d %zu", model,
                          positions[p], i);
        }
    }
    size_t different = 0;
    for (size_t i = 0; i < n_pairs; i++) {
        cr_expect_leq(fabsf(rope.inverse_frequencies[i] / frequencies[i] - 1), 1.2e-7F);
        different += rope.inverse_frequencies[i] != frequencies[i];
    }
    cr_expect_leq(different, 2);
    tp_rope_clear(&rope);
    free(frequencies);
    free(positions);
    free(cosines);
    free(sines);
    free(c);
    free(s);
}

Test(rope, yarn)
{
    struct tp_rope_config config = {.kind = TP_ROPE_YARN,
                                    .theta = 150000,
                                    .factor = 32,
                                    .original_context = 4096,
                                    .beta_fast = 32,
                                    .beta_slow = 1,
                                    .concentration = 0.1 * log(32) + 1};
    compare("tiny", &config);
}

Test(rope, plain)
{
    struct tp_rope_config config = {.theta = 10000, .factor = 1, .concentration = 1};
    compare("llama", &config);
    compare("mistral", &config);
}
