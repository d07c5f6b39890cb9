#include "infer/tokenizer/vocabulary.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "infer/tokenizer/hash.h"

uint64_t tp_hash_seed(void)
{
    uint64_t seed = 0x2545F4914F6CDD1Du; /* if the system has no random numbers yet */
    ssize_t n = getrandom(&seed, sizeof seed, GRND_NONBLOCK);
    return n == (ssize_t)sizeof seed ? seed : 0x2545F4914F6CDD1Du;
}

void tp_vocabulary_init(struct tp_vocabulary *vocabulary)
{
    *vocabulary = (struct tp_vocabulary){.seed = tp_hash_seed()};
}

void tp_vocabulary_clear(struct tp_vocabulary *vocabulary)
{
    tp_buffer_clear(&vocabulary->arena);
    free(vocabulary->places);
    free(vocabulary->slots);
    *vocabulary = (struct tp_vocabulary){0};
}

static bool has_bytes(const struct tp_vocabulary *vocabulary, uint32_t id, const char *bytes,
                      size_t length)
{
    struct tp_vocabulary_place place = vocabulary->places[id];
    return place.length == length &&
           memcmp(vocabulary->arena.bytes + place.start, bytes, length) == 0;
}

/* The slot of these bytes, or the empty one where they would go. */
static struct tp_vocabulary_slot *find_slot(const struct tp_vocabulary *vocabulary,
                                            const char *bytes, size_t length, uint64_t hash)
{
    size_t mask = vocabulary->n_slots - 1;
    uint32_t tag = (uint32_t)(hash >> 32);
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        struct tp_vocabulary_slot *slot = &vocabulary->slots[i];
        if (slot->id == TP_TOKEN_NONE ||
            (slot->tag == tag && has_bytes(vocabulary, slot->id, bytes, length)))
            return slot;
    }
}

/* Doubles the table. */
static int grow_slots(struct tp_vocabulary *vocabulary)
{
    struct tp_vocabulary grown = *vocabulary;
    grown.n_slots = vocabulary->n_slots == 0 ? 1024 : vocabulary->n_slots * 2;
    grown.slots = malloc(grown.n_slots * sizeof *grown.slots);
    if (grown.slots == NULL)
        return -ENOMEM;
    memset(grown.slots, 0xFF, grown.n_slots * sizeof *grown.slots);
    for (size_t i = 0; i < vocabulary->n_slots; i++) {
        struct tp_vocabulary_slot slot = vocabulary->slots[i];
        if (slot.id == TP_TOKEN_NONE)
            continue;
        struct tp_vocabulary_place place = grown.places[slot.id];
        const char *bytes = grown.arena.bytes + place.start;
        uint64_t hash = tp_hash_bytes(bytes, place.length, grown.seed);
        *find_slot(&grown, bytes, place.length, hash) = slot;
    }
    free(vocabulary->slots);
    *vocabulary = grown;
    return 0;
}

static int reserve_place(struct tp_vocabulary *vocabulary, uint32_t id)
{
    if (id < vocabulary->places_capacity)
        return 0;
    size_t capacity = vocabulary->places_capacity * 2;
    if (capacity <= id)
        capacity = (size_t)id + 1024;
    struct tp_vocabulary_place *places =
        realloc(vocabulary->places, capacity * sizeof *vocabulary->places);
    if (places == NULL)
        return -ENOMEM;
    memset(places + vocabulary->places_capacity, 0xFF,
           (capacity - vocabulary->places_capacity) * sizeof *places);
    vocabulary->places = places;
    vocabulary->places_capacity = capacity;
    return 0;
}

int tp_vocabulary_name(struct tp_vocabulary *vocabulary, const char *bytes, size_t length,
                       uint32_t id)
{
    if (id > TP_TOKEN_ID_MAX || length > TP_TOKEN_LENGTH_MAX ||
        vocabulary->arena.length + length > UINT32_MAX)
        return -ERANGE;
    int rc = reserve_place(vocabulary, id);
    if (rc < 0)
        return rc;
    struct tp_vocabulary_place *place = &vocabulary->places[id];
    if (place->length != TP_TOKEN_NONE)
        return -EEXIST;
    uint32_t start = (uint32_t)vocabulary->arena.length;
    rc = tp_buffer_append(&vocabulary->arena, bytes, length);
    if (rc < 0)
        return rc;
    *place = (struct tp_vocabulary_place){start, (uint32_t)length};
    if (vocabulary->n_places <= id)
        vocabulary->n_places = (size_t)id + 1;
    return 0;
}

int tp_vocabulary_add(struct tp_vocabulary *vocabulary, const char *bytes, size_t length,
                      uint32_t id)
{
    int rc = 0;
    if (vocabulary->n_keys >= vocabulary->n_slots / 2)
        rc = grow_slots(vocabulary);
    if (rc < 0)
        return rc;
    uint64_t hash = tp_hash_bytes(bytes, length, vocabulary->seed);
    struct tp_vocabulary_slot *slot = find_slot(vocabulary, bytes, length, hash);
    if (slot->id != TP_TOKEN_NONE)
        return -EEXIST;
    rc = tp_vocabulary_name(vocabulary, bytes, length, id);
    if (rc < 0)
        return rc;
    *slot = (struct tp_vocabulary_slot){(uint32_t)(hash >> 32), id};
    vocabulary->n_keys++;
    return 0;
}

uint32_t tp_vocabulary_find(const struct tp_vocabulary *vocabulary, const char *bytes,
                            size_t length)
{
    if (vocabulary->n_slots == 0)
        return TP_TOKEN_NONE;
    uint64_t hash = tp_hash_bytes(bytes, length, vocabulary->seed);
    return find_slot(vocabulary, bytes, length, hash)->id;
}

const char *tp_vocabulary_bytes(const struct tp_vocabulary *vocabulary, uint32_t id,
                                size_t *ret_length)
{
    if (id >= vocabulary->n_places || vocabulary->places[id].length == TP_TOKEN_NONE)
        return NULL;
    *ret_length = vocabulary->places[id].length;
    return vocabulary->arena.bytes + vocabulary->places[id].start;
}
