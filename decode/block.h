/* Blocks of a packed file: bitshuffled, then compressed with LZ4; or as they are.
 *
 * Memory to memory; the caller owns all memory but the encoder's. A block decodes only to bytes
 * whose checksum is right, whatever it is decoded from.
 *
 * LZ4's fast method at its ordinary speed: the high-compression one makes normally distributed
 * BF16 0.2 % smaller and takes thirty times as long.
 */
#ifndef TENSORPORT_DECODE_BLOCK_H
#define TENSORPORT_DECODE_BLOCK_H

#include <stddef.h>
#include <stdint.h>

/* XXH3, 64 bits, seed 0: of the bytes as they are before they are packed. So it proves not only
 * what was read but what is delivered, decompression and transposition included, at a cost that
 * is a few percent of theirs. */
uint64_t tp_block_checksum(const void *bytes, size_t length);

/* A thread's working memory, for blocks of up to `block_size` bytes. NULL when out of memory. */
struct tp_block_encoder;
struct tp_block_encoder *tp_block_encoder_new(size_t block_size);
void tp_block_encoder_free(struct tp_block_encoder *encoder);

/* Packs `length` bytes (at least 1), elements of `width` bytes (1, 2, 4, 8; 0: do not shuffle),
 * into `target`, which has room for as many. Returns the bytes it took: `length` if they are
 * stored as they are, because packing saves less than one in 32. */
size_t tp_block_encode(struct tp_block_encoder *encoder, const void *source, size_t length,
                       size_t width, void *target);

/* Unpacks exactly `length` bytes into `target` from `stored_length` (1 to `length`) bytes at
 * `stored`; `scratch` has room for `length` bytes. No two of the three overlap, except that
 * `stored` may be `target` for a block stored as it is. -EBADMSG when the bytes are not a packed
 * block of that length with that checksum; `target` then holds anything. */
int tp_block_decode(const void *stored, size_t stored_length, size_t width, uint64_t checksum,
                    void *scratch, void *target, size_t length);

#endif
