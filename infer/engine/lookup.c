/* For each length of beginnings there is a table from their hash to the place after the latest such
 * tokens. A slot holds one place, the latest of all that fall on it: what is found is compared, so
 * that a collision costs a draft and nothing else. */
#include "infer/engine/lookup.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Lengths that are looked up, the longest first. One token alone is found nearly always and goes
 * on as before too seldom. */
static const size_t lengths[] = {8, 4, 2};
enum { N_LENGTHS = sizeof lengths / sizeof *lengths, SLOTS_MAX = 1 << 21 };

struct tp_lookup {
    uint32_t *tokens; /* [n] in room for [context] */
    size_t n, context;
    uint32_t *tables[N_LENGTHS]; /* [n_slots] places, 0 for none */
    size_t n_slots;              /* a power of two */
};

int tp_lookup_new(size_t context, struct tp_lookup **ret_lookup)
{
    struct tp_lookup *lookup = calloc(1, sizeof *lookup);
    if (lookup == NULL)
        return -ENOMEM;
    *lookup = (struct tp_lookup){
        .tokens = calloc(context + 1, sizeof *lookup->tokens), .context = context, .n_slots = 64};
    while (lookup->n_slots < context && lookup->n_slots < SLOTS_MAX)
        lookup->n_slots *= 2;
    lookup->n_slots *= 2;
    bool complete = lookup->tokens != NULL;
    for (size_t i = 0; i < N_LENGTHS; i++) {
        lookup->tables[i] = calloc(lookup->n_slots, sizeof *lookup->tables[i]);
        complete = complete && lookup->tables[i] != NULL;
    }
    if (!complete) {
        tp_lookup_free(lookup);
        return -ENOMEM;
    }
    *ret_lookup = lookup;
    return 0;
}

void tp_lookup_free(struct tp_lookup *lookup)
{
    if (lookup == NULL)
        return;
    for (size_t i = 0; i < N_LENGTHS; i++)
        free(lookup->tables[i]);
    free(lookup->tokens);
    free(lookup);
}

/* Where the place after tokens[end - length .. end - 1] is kept; `end` >= length. */
static uint32_t *find_slot(const struct tp_lookup *lookup, size_t i, size_t end)
{
    uint64_t hash = 0xCBF29CE484222325;
    for (size_t at = end - lengths[i]; at < end; at++) {
        hash = (hash ^ lookup->tokens[at]) * 0x9E3779B97F4A7C15;
        hash ^= hash >> 29;
    }
    return &lookup->tables[i][hash & (lookup->n_slots - 1)];
}

void tp_lookup_append(struct tp_lookup *lookup, uint32_t token)
{
    size_t n = lookup->n;
    if (n >= lookup->context || n >= UINT32_MAX)
        return;
    for (size_t i = 0; i < N_LENGTHS; i++) {
        if (n >= lengths[i])
            *find_slot(lookup, i, n) = (uint32_t)n;
    }
    lookup->tokens[lookup->n++] = token;
}

/* How many tokens before `place` equal the last ones, up to `most`. */
static size_t count_agreeing(const struct tp_lookup *lookup, size_t place, size_t most)
{
    const uint32_t *tokens = lookup->tokens;
    size_t n = 0;
    while (n < most && n < place && tokens[place - 1 - n] == tokens[lookup->n - 1 - n])
        n++;
    return n;
}

size_t tp_lookup_draft(const struct tp_lookup *lookup, size_t most, uint32_t *draft)
{
    size_t place = 0, agreeing = 0;
    for (size_t i = 0; i < N_LENGTHS && agreeing == 0; i++) {
        place = lookup->n >= lengths[i] ? *find_slot(lookup, i, lookup->n) : 0;
        agreeing = count_agreeing(lookup, place, 2 * most + lengths[i]);
        if (agreeing < lengths[i])
            agreeing = 0;
    }
    size_t wanted = agreeing / 2 < most ? agreeing / 2 : most, left = lookup->n - place;
    for (size_t i = 0; i < wanted; i++) /* what repeats itself goes on with the draft's own */
        draft[i] = i < left ? lookup->tokens[place + i] : draft[i - left];
    return wanted;
}
