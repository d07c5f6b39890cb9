#include "infer/tokenizer/byte_level.h"

#include <stdint.h>

#include "infer/tokenizer/utf8.h"

/* The byte that a character stands for, or -1. */
static int byte_of(uint32_t code)
{
    if ((code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code <= 0xFF && code != 0xAD))
        return (int)code;
    if (code < 0x100 || code >= 0x100 + 68)
        return -1;
    uint32_t i = code - 0x100; /* 0 to 0x20, 0x7F to 0xA0, 0xAD */
    return i <= 0x20 ? (int)i : i < 67 ? (int)(i - 0x21 + 0x7F) : 0xAD;
}

bool tp_byte_level_to_bytes(char *text, size_t length, size_t *ret_length)
{
    size_t n = 0;
    for (size_t i = 0; i < length; i += tp_utf8_step(text[i])) {
        if (byte_of(tp_utf8_read(text + i)) < 0)
            return false;
    }
    for (size_t i = 0, step; i < length; i += step) {
        step = tp_utf8_step(text[i]);
        int byte = byte_of(tp_utf8_read(text + i));
        text[n++] = (char)byte;
    }
    *ret_length = n;
    return true;
}
