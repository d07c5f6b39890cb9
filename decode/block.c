#include "decode/block.h"

#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "decode/bitshuffle.h"

/* Less than one byte in so many saved is not worth the decoding. */
enum { WORTH_IT = 32 };

struct tp_block_encoder {
    void *state; /* LZ4's */
    uint8_t *shuffled;
};

uint64_t tp_block_checksum(const void *bytes, size_t length)
{
    return XXH3_64bits(bytes, length);
}

struct tp_block_encoder *tp_block_encoder_new(size_t block_size)
{
    struct tp_block_encoder *encoder = calloc(1, sizeof *encoder);
    if (encoder == NULL)
        return NULL;
    encoder->state = malloc((size_t)LZ4_sizeofState());
    encoder->shuffled = malloc(block_size);
    if (encoder->state != NULL && encoder->shuffled != NULL)
        return encoder;
    tp_block_encoder_free(encoder);
    return NULL;
}

void tp_block_encoder_free(struct tp_block_encoder *encoder)
{
    if (encoder == NULL)
        return;
    free(encoder->state);
    free(encoder->shuffled);
    free(encoder);
}

size_t tp_block_encode(struct tp_block_encoder *encoder, const void *source, size_t length,
                       size_t width, void *target)
{
    const void *input = source;
    size_t limit = length - (length + WORTH_IT - 1) / WORTH_IT;
    if (width > 0) {
        tp_bitshuffle(tp_codecs(), source, encoder->shuffled, length, width);
        input = encoder->shuffled;
    }
    int packed =
        LZ4_compress_fast_extState(encoder->state, input, target, (int)length, (int)limit, 1);
    if (packed > 0)
        return (size_t)packed;
    memcpy(target, source, length);
    return length;
}

int tp_block_decode(const void *stored, size_t stored_length, size_t width, uint64_t checksum,
                    void *scratch, void *target, size_t length)
{
    if (stored_length == length) {
        if (stored != target)
            memcpy(target, stored, length);
    } else {
        void *output = width > 0 ? scratch : target;
        if (LZ4_decompress_safe(stored, output, (int)stored_length, (int)length) != (int)length)
            return -EBADMSG;
        if (width > 0)
            tp_bitunshuffle(tp_codecs(), scratch, target, length, width);
    }
    return tp_block_checksum(target, length) == checksum ? 0 : -EBADMSG;
}
