/* Keys and values outside their sequence: what a file of a session holds. */
#include "infer/cpu/sequence.h"

#include <stdio.h>

#include "tests/unit/test_infer.h"

enum { LAYERS = 3, HEADS = 2, HEAD_SIZE = 20, POSITION = 2 * HEADS * HEAD_SIZE };

static size_t windows[LAYERS] = {0, 24, 40};

static const struct tp_model_config config = {
    .n_layers = LAYERS, .n_kv_heads = HEADS, .head_dim = HEAD_SIZE, .windows = windows};

static struct tp_sequence *new_sequence(size_t context, size_t step_max, bool bf16)
{
    struct tp_sequence *sequence;
    cr_assert_eq(tp_sequence_new(&config, context, step_max, bf16, &sequence, NULL), 0);
    return sequence;
}

/* Positions up to `length`, each with numbers of its own. */
static void fill(struct tp_sequence *sequence, size_t length)
{
    for (; sequence->held.length < length; sequence->held.length++) {
        for (size_t layer = 0; layer < LAYERS; layer++) {
            float *x = random_floats(POSITION, 1000 * sequence->held.length + layer);
            tp_kv_cache_store(&sequence->caches[layer], sequence->held.length, x, x + POSITION / 2);
            free(x);
        }
    }
}

static uint8_t *export_layer(const struct tp_sequence *sequence, size_t layer, size_t first)
{
    size_t n = sequence->held.length - first;
    uint8_t *bytes = malloc(n * POSITION * tp_sequence_width(sequence) + 1);
    cr_assert_not_null(bytes);
    cr_assert_eq(tp_sequence_export(sequence, layer, first, n, bytes), 0);
    return bytes;
}

static void expect_same(const struct tp_sequence *a, const struct tp_sequence *b, size_t layer,
                        size_t first)
{
    uint8_t *left = export_layer(a, layer, first), *right = export_layer(b, layer, first);
    cr_assert_arr_eq(left, right, (a->held.length - first) * POSITION * tp_sequence_width(a));
    free(left);
    free(right);
}

/* All that `from` has, into `to`; the result of resuming. */
static int transfer(const struct tp_sequence *from, struct tp_sequence *to, const size_t *missing)
{
    size_t firsts[LAYERS];
    for (size_t layer = 0; layer < LAYERS; layer++) {
        firsts[layer] = tp_held_first(&from->held, layer) + (missing != NULL ? missing[layer] : 0);
        uint8_t *bytes = export_layer(from, layer, firsts[layer]);
        size_t n = from->held.length - firsts[layer];
        size_t half = n / 2;
        cr_assert_eq(tp_sequence_import(to, layer, firsts[layer], half, bytes), 0);
        cr_assert_eq(tp_sequence_import(to, layer, firsts[layer] + half, n - half,
                                        bytes + half * POSITION * tp_sequence_width(from)),
                     0);
        free(bytes);
    }
    return tp_held_resume(&to->held, firsts, from->held.length);
}

Test(sequence, what_is_exported_is_what_was_stored)
{
    struct tp_sequence *sequence = new_sequence(100, 8, false);
    fill(sequence, 30);
    float *expected = random_floats(POSITION, 1000 * 17 + 2), found[POSITION];
    cr_assert_eq(tp_sequence_export(sequence, 2, 17, 1, found), 0);
    cr_assert_arr_eq(found, expected, sizeof found);
    free(expected);
    tp_sequence_free(sequence);
}

Test(sequence, comes_back_with_the_same_bits)
{
    static const size_t lengths[] = {1, 23, 24, 25, 48, 49, 90, 199, 200};
    for (size_t i = 0; i < 2 * sizeof lengths / sizeof *lengths; i++) {
        bool bf16 = i % 2 == 1;
        struct tp_sequence *from = new_sequence(200, 8, bf16);
        fill(from, lengths[i / 2]);
        /* Rings of other sizes, and none. */
        static const size_t steps[] = {1, 8, 60, 500};
        for (size_t k = 0; k < 4; k++) {
            struct tp_sequence *to = new_sequence(k == 3 ? 300 : 200, steps[k], bf16);
            cr_assert_eq(transfer(from, to, NULL), 0);
            cr_assert_eq(to->held.length, from->held.length);
            for (size_t layer = 0; layer < LAYERS; layer++) {
                size_t first = tp_held_first(&to->held, layer);
                cr_assert_geq(first, tp_held_first(&from->held, layer));
                expect_same(from, to, layer, first);
            }
            tp_sequence_free(to);
        }
        tp_sequence_free(from);
    }
}

/* It can be cut where the one that it came from could be, and no further. */
Test(sequence, remembers_what_it_never_had)
{
    for (size_t length = 1; length < 150; length++) {
        struct tp_sequence *from = new_sequence(200, 8, false);
        struct tp_sequence *to = new_sequence(200, 100, false);
        fill(from, 150);
        cr_assert_eq(transfer(from, to, NULL), 0);
        int rc = tp_held_cut(&from->held, length);
        cr_assert_eq(tp_held_cut(&to->held, length), rc, "%zu", length);
        cr_assert_eq(tp_held_cut(&to->held, 0), 0);
        for (size_t layer = 0; layer < LAYERS; layer++)
            cr_assert_eq(tp_held_first(&to->held, layer), 0);
        tp_sequence_free(from);
        tp_sequence_free(to);
    }
}

/* What rings dropped before a cut is gone after it, too. */
Test(sequence, comes_back_after_a_cut)
{
    struct tp_sequence *from = new_sequence(200, 8, false);
    struct tp_sequence *to = new_sequence(200, 8, false);
    fill(from, 150);
    cr_assert_eq(tp_held_cut(&from->held, 145), 0);
    cr_assert_eq(transfer(from, to, NULL), 0);
    for (size_t layer = 0; layer < LAYERS; layer++) {
        cr_assert_eq(tp_held_first(&to->held, layer), tp_held_first(&from->held, layer));
        expect_same(from, to, layer, tp_held_first(&to->held, layer));
    }
    fill(from, 190);
    fill(to, 190);
    for (size_t layer = 0; layer < LAYERS; layer++)
        expect_same(from, to, layer, tp_held_first(&from->held, layer));
    tp_sequence_free(from);
    tp_sequence_free(to);
}

Test(sequence, does_not_resume_without_what_it_needs)
{
    struct tp_sequence *from = new_sequence(200, 8, false);
    fill(from, 150);
    /* A window of 24 sees 23 positions before the next: 127 and later. */
    const size_t has[] = {0, 127 - tp_held_first(&from->held, 1),
                          111 - tp_held_first(&from->held, 2)};
    for (size_t layer = 0; layer <= LAYERS; layer++) {
        struct tp_sequence *to = new_sequence(200, 100, false);
        size_t missing[LAYERS] = {has[0], has[1], has[2]};
        if (layer < LAYERS)
            missing[layer]++;
        cr_assert_eq(transfer(from, to, missing), layer < LAYERS ? -ERANGE : 0);
        cr_assert_eq(to->held.length, layer < LAYERS ? 0 : 150);
        tp_sequence_free(to);
    }
    tp_sequence_free(from);
}
