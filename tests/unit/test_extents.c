/* The list of ranges read, against a bitmap of the file. */
#include <criterion/criterion.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "fs/view/extents.h"

enum { SIZE = 256, ROUNDS = 3000 };

struct model {
    struct tp_extents extents;
    bool bits[SIZE];
    bool overflowed; /* more ranges were needed than there is room for */
};

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static size_t count_runs(const struct model *model)
{
    size_t n = 0;
    for (size_t i = 0; i < SIZE; i++)
        n += model->bits[i] && (i == 0 || !model->bits[i - 1]);
    return n;
}

static bool all_set(const struct model *model, uint64_t begin, uint64_t end)
{
    for (uint64_t i = begin; i < end; i++) {
        if (!model->bits[i])
            return false;
    }
    return true;
}

/* Sorted, apart from each other, and nothing that was not read. Until the list overflows,
 * nothing that was read is missing either. */
static void check(const struct model *model)
{
    const struct tp_extents *extents = &model->extents;
    size_t bytes = 0;
    cr_assert_leq(extents->n, TP_EXTENTS_MAX);
    for (size_t i = 0; i < extents->n; i++) {
        const struct tp_extent *range = &extents->ranges[i];
        cr_assert_lt(range->begin, range->end);
        cr_assert(i == 0 || extents->ranges[i - 1].end < range->begin);
        cr_assert(all_set(model, range->begin, range->end));
        bytes += range->end - range->begin;
    }
    if (!model->overflowed) {
        size_t expected = 0;
        for (size_t i = 0; i < SIZE; i++)
            expected += model->bits[i];
        cr_assert_eq(bytes, expected);
        cr_assert_eq(extents->n, count_runs(model));
    }
    for (uint64_t size = 0; size <= SIZE; size++) {
        bool covered = tp_extents_cover(extents, size);
        cr_assert(!covered || all_set(model, 0, size), "size %d", (int)size);
        cr_assert(model->overflowed || covered == all_set(model, 0, size), "size %d", (int)size);
    }
}

static void add(struct model *model, uint64_t begin, uint64_t end)
{
    for (uint64_t i = begin; i < end; i++)
        model->bits[i] = true;
    tp_extents_add(&model->extents, begin, end);
    model->overflowed |= count_runs(model) > TP_EXTENTS_MAX;
    check(model);
}

Test(extents, of_nothing)
{
    struct model model = {0};
    check(&model);
    cr_assert(tp_extents_cover(&model.extents, 0));
    cr_assert(!tp_extents_cover(&model.extents, 1));
    tp_extents_add(&model.extents, 5, 5);
    tp_extents_add(&model.extents, 6, 5);
    cr_assert_eq(model.extents.n, 0);
}

Test(extents, neighbours_become_one)
{
    struct model model = {0};
    add(&model, 10, 20);
    add(&model, 30, 40);
    add(&model, 20, 30);
    cr_assert_eq(model.extents.n, 1);
    add(&model, 0, 10);
    cr_assert(tp_extents_cover(&model.extents, 40));
}

Test(extents, one_range_swallows_many)
{
    struct model model = {0};
    for (uint64_t i = 0; i < TP_EXTENTS_MAX; i++)
        add(&model, 10 * i + 1, 10 * i + 5);
    cr_assert_eq(model.extents.n, TP_EXTENTS_MAX);
    add(&model, 3, 155);
    cr_assert_eq(model.extents.n, 1);
    cr_assert_eq(model.extents.ranges[0].begin, 1);
    cr_assert_eq(model.extents.ranges[0].end, 155);
}

Test(extents, full_list_forgets_the_shortest)
{
    struct model model = {0};
    for (uint64_t i = 0; i < TP_EXTENTS_MAX; i++)
        add(&model, 10 * i, 10 * i + (i == 7 ? 1 : 4));
    add(&model, 200, 205);
    cr_assert_eq(model.extents.n, TP_EXTENTS_MAX);
    for (size_t i = 0; i < model.extents.n; i++)
        cr_assert_neq(model.extents.ranges[i].begin, 70);
    add(&model, 0, SIZE);
    cr_assert(tp_extents_cover(&model.extents, SIZE));
}

Test(extents, hold_at_the_ends_of_64_bits)
{
    struct tp_extents extents = {0};
    tp_extents_add(&extents, UINT64_MAX - 1, UINT64_MAX);
    tp_extents_add(&extents, 0, UINT64_MAX - 1);
    cr_assert_eq(extents.n, 1);
    cr_assert(tp_extents_cover(&extents, UINT64_MAX));
}

Test(extents, random_ranges_agree_with_a_bitmap)
{
    uint64_t random = 1;
    size_t overflows = 0;
    for (int round = 0; round < ROUNDS; round++) {
        struct model model = {0};
        size_t n = next_random(&random) % 40, longest = 1 + next_random(&random) % 40;
        for (size_t i = 0; i < n; i++) {
            uint64_t begin = next_random(&random) % SIZE;
            uint64_t end = begin + next_random(&random) % (longest + 1);
            add(&model, begin, end < SIZE ? end : SIZE);
        }
        overflows += model.overflowed;
    }
    cr_assert(overflows > 100 && overflows < ROUNDS - 100, "%zu", overflows);
}

/* What a file read from end to end looks like: requests of one length, a few of them on their
 * way at a time and answered in any order, by several readers. */
Test(extents, file_read_in_full_is_covered)
{
    uint64_t random = 2;
    for (int round = 0; round < ROUNDS; round++) {
        struct model model = {0};
        uint64_t window[TP_EXTENTS_MAX], next = 0;
        size_t n = 0, room = 1 + next_random(&random) % TP_EXTENTS_MAX;
        uint64_t step = 1 + next_random(&random) % 16;
        while (next < SIZE || n > 0) {
            while (n < room && next < SIZE) {
                window[n++] = next;
                next += step;
            }
            size_t i = next_random(&random) % n;
            uint64_t end = window[i] + step;
            tp_extents_add(&model.extents, window[i], end < SIZE ? end : SIZE);
            window[i] = window[--n];
        }
        cr_assert(tp_extents_cover(&model.extents, SIZE));
    }
}
