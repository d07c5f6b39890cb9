#include "decode/bitshuffle.h"

#include <string.h>

static void run(tp_bitshuffle_fn *function, const void *source, void *target, size_t length,
                size_t width)
{
    size_t n = length / (8 * width) * 8, whole = n * width;
    if (n > 0)
        function(source, target, n, width);
    if (length > whole)
        memcpy((uint8_t *)target + whole, (const uint8_t *)source + whole, length - whole);
}

void tp_bitshuffle(const struct tp_codecs *codecs, const void *source, void *target, size_t length,
                   size_t width)
{
    run(codecs->bitshuffle, source, target, length, width);
}

void tp_bitunshuffle(const struct tp_codecs *codecs, const void *source, void *target,
                     size_t length, size_t width)
{
    run(codecs->bitunshuffle, source, target, length, width);
}
