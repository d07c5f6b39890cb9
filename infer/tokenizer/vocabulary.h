/* Tokens: bytes to ids and back.
 *
 * All tokens' bytes lie in one arena; ids index a table of places in it, and an open-addressing
 * table, at most half full, leads from bytes to ids. A slot has eight bytes: an id, and 32 bits
 * of the hash that tell nearly all wrong ones without a look into the arena, so that eight slots
 * fit in a cache line and a search touches one line of the table and one of the arena.
 *
 * Immutable once filled; then any number of threads may read.
 */
#ifndef TENSORPORT_INFER_TOKENIZER_VOCABULARY_H
#define TENSORPORT_INFER_TOKENIZER_VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infer/tokenizer/buffer.h"

enum {
    TP_TOKEN_ID_MAX = (1 << 22) - 1, /* no file may make us reserve more than that */
    TP_TOKEN_LENGTH_MAX = 1 << 20,   /* bytes of one token */
};
#define TP_TOKEN_NONE UINT32_MAX

struct tp_vocabulary {
    struct tp_buffer arena;
    struct tp_vocabulary_place {
        uint32_t start, length; /* length TP_TOKEN_NONE: no such token */
    } * places;
    size_t n_places; /* the largest id + 1 */
    size_t places_capacity;
    struct tp_vocabulary_slot {
        uint32_t tag, id; /* id TP_TOKEN_NONE: empty */
    } * slots;
    size_t n_slots; /* a power of two, or 0 */
    size_t n_keys;
    uint64_t seed;
};

void tp_vocabulary_init(struct tp_vocabulary *vocabulary);
void tp_vocabulary_clear(struct tp_vocabulary *vocabulary);

/* Adds a token. -EEXIST if the id or the bytes are taken, -ERANGE if the id, the length or all
 * tokens together are too large, -ENOMEM. */
int tp_vocabulary_add(struct tp_vocabulary *vocabulary, const char *bytes, size_t length,
                      uint32_t id);

/* Gives an id its bytes without a way back from the bytes to the id. The same errors. */
int tp_vocabulary_name(struct tp_vocabulary *vocabulary, const char *bytes, size_t length,
                       uint32_t id);

/* TP_TOKEN_NONE if there is none. */
uint32_t tp_vocabulary_find(const struct tp_vocabulary *vocabulary, const char *bytes,
                            size_t length);

/* The bytes of an id; NULL if it has no token. */
const char *tp_vocabulary_bytes(const struct tp_vocabulary *vocabulary, uint32_t id,
                                size_t *ret_length);

#endif
