/* File names of tensors: plain where they can be, unique and safe always, and the same
 * whatever the order of the tensors. */
#include <criterion/criterion.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "fs/view/names.h"

#define NAME(text)                                                                                 \
    {                                                                                              \
        (text), sizeof(text) - 1                                                                   \
    }

static char **make(const struct tp_name *names, size_t n)
{
    char **made;
    cr_assert_eq(tp_names_make(names, n, &made), 0);
    return made;
}

/* The file name of a tensor that is alone. */
static void check_one(const char *text, size_t length, const char *expected)
{
    struct tp_name name = {text, length};
    char **made = make(&name, 1);
    cr_expect_str_eq(made[0], expected);
    free(made);
}

/* "STEM~HASH.npy" for a name, written independently of names.c. */
static void write_hashed(const char *stem, struct tp_name name, uint64_t round, char *target)
{
    snprintf(stpcpy(target, stem), sizeof "~0123456789abcdef.npy", "~%016llx.npy",
             (unsigned long long)XXH3_64bits_withSeed(name.text, name.length, round));
}

static void check_hashed(const char *text, size_t length, const char *stem)
{
    char expected[2 * NAME_MAX];
    write_hashed(stem, (struct tp_name){text, length}, 0, expected);
    check_one(text, length, expected);
}

Test(names, plain_ones_have_dots_replaced)
{
    check_one("model.norm.weight", 17, "model_norm_weight.npy");
    check_one("a", 1, "a.npy");
    check_one("no_dots-at all", 14, "no_dots-at all.npy");
    check_one("", 0, ".npy");
    check_one("\n\t\\~", 4, "\n\t\\~.npy");
    check_one("\xE5\xB1\xA4.\xF0\x9F\x98\x80", 8, "\xE5\xB1\xA4_\xF0\x9F\x98\x80.npy");
}

Test(names, dot_and_dot_dot_are_harmless)
{
    check_one(".", 1, "_.npy");
    check_one("..", 2, "__.npy");
    check_one(".hidden", 7, "_hidden.npy");
}

Test(names, slash_and_nul_give_a_hashed_name)
{
    check_hashed("a/b", 3, "a_b");
    check_hashed("../../etc/passwd", 16, "______etc_passwd");
    check_hashed("/", 1, "_");
    check_hashed("a\0b.c", 5, "a_b_c");
    check_hashed("\0", 1, "_");
}

Test(names, nothing_to_name)
{
    free(make(NULL, 0));
}

/* ---- length ---- */

enum { PLAIN_MAX = NAME_MAX - 4, STEM_MAX = NAME_MAX - 4 - 17 };

Test(names, longest_plain_name_fills_255_bytes)
{
    char name[NAME_MAX + 2], expected[NAME_MAX + 2];
    memset(name, 'n', sizeof name);
    memset(expected, 'n', PLAIN_MAX);
    strcpy(expected + PLAIN_MAX, ".npy");
    cr_assert_eq(strlen(expected), NAME_MAX);
    check_one(name, PLAIN_MAX, expected);
    memset(expected, 'n', STEM_MAX);
    expected[STEM_MAX] = '\0';
    check_hashed(name, PLAIN_MAX + 1, expected);
    check_hashed(name, NAME_MAX + 1, expected);
}

Test(names, of_a_megabyte)
{
    enum { LENGTH = 1 << 20 };
    char *name = malloc(LENGTH);
    memset(name, '.', LENGTH);
    char stem[STEM_MAX + 1];
    memset(stem, '_', STEM_MAX);
    stem[STEM_MAX] = '\0';
    check_hashed(name, LENGTH, stem);
    free(name);
}

/* Cuts a name of `width`-byte characters, shifted by `lead` single bytes: whole characters only. */
static void check_cut(const char *character, size_t width, size_t lead)
{
    char name[2 * NAME_MAX], stem[2 * NAME_MAX];
    size_t length = lead;
    memset(name, 'x', lead);
    while (length + width < sizeof name) {
        memcpy(name + length, character, width);
        length += width;
    }
    size_t kept = lead + (STEM_MAX - lead) / width * width;
    memcpy(stem, name, kept);
    stem[kept] = '\0';
    check_hashed(name, length, stem);
}

Test(names, are_never_cut_inside_a_character)
{
    for (size_t lead = 0; lead < 8; lead++) {
        check_cut("\xC3\xA9", 2, lead);
        check_cut("\xE5\xB1\xA4", 3, lead);
        check_cut("\xF0\x9F\x98\x80", 4, lead);
    }
}

/* ---- collisions ---- */

Test(names, all_that_collide_are_hashed)
{
    const struct tp_name names[] = {NAME("a.b"), NAME("a_b"), NAME("a.c"), NAME("b.a")};
    char **made = make(names, 4), expected[64];
    write_hashed("a_b", names[0], 0, expected);
    cr_expect_str_eq(made[0], expected);
    write_hashed("a_b", names[1], 0, expected);
    cr_expect_str_eq(made[1], expected);
    cr_expect_str_eq(made[2], "a_c.npy");
    cr_expect_str_eq(made[3], "b_a.npy");
    free(made);
}

Test(names, that_differ_in_their_ends_only_stay_apart)
{
    char left[400], right[400];
    memset(left, 'w', sizeof left);
    memset(right, 'w', sizeof right);
    right[399] = 'v';
    const struct tp_name names[] = {{left, 400}, {right, 400}, {left, 399}};
    char **made = make(names, 3);
    cr_expect_str_neq(made[0], made[1]);
    cr_expect_str_neq(made[0], made[2]);
    cr_expect_str_neq(made[1], made[2]);
    free(made);
}

/* A tensor that is called what another's hashed name is. */
Test(names, an_adversary_cannot_make_two_equal)
{
    struct tp_name names[] = {NAME("a.b"), NAME("a_b"), {0}, {0}};
    char first[64], second[64];
    write_hashed("a_b", names[0], 0, first);
    first[strlen(first) - 4] = '\0';
    names[2] = (struct tp_name){first, strlen(first)};
    write_hashed("a_b", names[0], 1, second);
    second[strlen(second) - 4] = '\0';
    names[3] = (struct tp_name){second, strlen(second)};
    char **made = make(names, 4);
    for (size_t i = 0; i < 4; i++) {
        for (size_t j = 0; j < i; j++)
            cr_expect_str_neq(made[i], made[j]);
    }
    free(made);
}

/* ---- properties of many ---- */

enum { N = 3000, LENGTH_MAX = 6, ROUNDS = 20 };

struct many {
    struct tp_name names[N];
    char text[N][LENGTH_MAX];
    uint64_t random;
};

static uint64_t next_random(struct many *many)
{
    many->random = many->random * 6364136223846793005u + 1442695040888963407u;
    return many->random >> 33;
}

static int compare_names(const void *a, const void *b)
{
    const struct tp_name *left = a, *right = b;
    size_t shorter = left->length < right->length ? left->length : right->length;
    int order = memcmp(left->text, right->text, shorter);
    return order != 0 ? order : (left->length > right->length) - (left->length < right->length);
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Short names over few characters, so that most collide; distinct, as tensors' are. */
static size_t draw(struct many *many)
{
    static const char alphabet[] = {'a', '.', '_', '/', '\0', '~'};
    size_t n = 0;
    for (size_t i = 0; i < N; i++) {
        size_t length = next_random(many) % (LENGTH_MAX + 1);
        for (size_t j = 0; j < length; j++)
            many->text[i][j] = alphabet[next_random(many) % sizeof alphabet];
        many->names[i] = (struct tp_name){many->text[i], length};
    }
    qsort(many->names, N, sizeof *many->names, compare_names);
    for (size_t i = 0; i < N; i++) {
        if (n == 0 || compare_names(&many->names[n - 1], &many->names[i]) != 0)
            many->names[n++] = many->names[i];
    }
    return n;
}

static void shuffle(struct many *many, struct tp_name *names, size_t n)
{
    for (size_t i = n; i > 1; i--) {
        size_t j = next_random(many) % i;
        struct tp_name swapped = names[i - 1];
        names[i - 1] = names[j];
        names[j] = swapped;
    }
}

static void check_safe_and_unique(char **made, size_t n)
{
    char **sorted = malloc(n * sizeof *sorted);
    memcpy(sorted, made, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare_strings);
    for (size_t i = 0; i < n; i++) {
        size_t length = strlen(sorted[i]);
        cr_assert(length >= 4 && length <= NAME_MAX);
        cr_assert_str_eq(sorted[i] + length - 4, ".npy");
        cr_assert_null(strchr(sorted[i], '/'));
        cr_assert(i == 0 || strcmp(sorted[i - 1], sorted[i]) != 0, "%s twice", sorted[i]);
    }
    free(sorted);
}

Test(names, are_unique_and_do_not_depend_on_the_order)
{
    static struct many many;
    many.random = 1;
    for (int round = 0; round < ROUNDS; round++) {
        size_t n = draw(&many);
        char **made = make(many.names, n);
        check_safe_and_unique(made, n);
        struct tp_name *shuffled = malloc(n * sizeof *shuffled);
        memcpy(shuffled, many.names, n * sizeof *shuffled);
        shuffle(&many, shuffled, n);
        char **again = make(shuffled, n);
        for (size_t i = 0; i < n; i++) { /* many.names is sorted */
            const struct tp_name *found =
                bsearch(&shuffled[i], many.names, n, sizeof *found, compare_names);
            cr_assert_str_eq(again[i], made[found - many.names]);
        }
        free(again);
        free(shuffled);
        free(made);
    }
}

/* Plain wherever possible: only names that are unsafe or not alone carry a hash. */
Test(names, are_hashed_only_where_they_must_be)
{
    static struct many many;
    many.random = 2;
    size_t n = draw(&many);
    char **made = make(many.names, n);
    for (size_t i = 0; i < n; i++) {
        const struct tp_name *name = &many.names[i];
        bool must = memchr(name->text, '/', name->length) != NULL ||
                    memchr(name->text, '\0', name->length) != NULL;
        for (size_t j = 0; !must && j < n; j++) {
            must = j != i && many.names[j].length == name->length;
            for (size_t k = 0; must && k < name->length; k++) {
                char a = name->text[k], b = many.names[j].text[k];
                must = (a == '.' ? '_' : a) == (b == '.' ? '_' : b);
            }
        }
        cr_assert_eq(strlen(made[i]) == name->length + 4, !must, "%s", made[i]);
    }
    free(made);
}
