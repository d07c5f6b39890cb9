#include "infer/tokenizer/utf8.h"

#include <string.h>

static const char replacement[] = "\xEF\xBF\xBD";

/* How many bytes at `text` belong to one character as far as they are there: *ret_whole is how
 * many it needs. At least 1 for what cannot begin a character, with *ret_whole 0. */
static size_t longest_beginning(const char *text, size_t length, size_t *ret_whole)
{
    const unsigned char *t = (const unsigned char *)text;
    size_t whole = t[0] < 0x80 ? 1 : t[0] < 0xE0 ? 2 : t[0] < 0xF0 ? 3 : 4;
    *ret_whole = 0;
    if ((t[0] >= 0x80 && t[0] < 0xC2) || t[0] > 0xF4)
        return 1;
    unsigned char low = t[0] == 0xE0 ? 0xA0 : t[0] == 0xF0 ? 0x90 : 0x80;
    unsigned char high = t[0] == 0xED ? 0x9F : t[0] == 0xF4 ? 0x8F : 0xBF;
    for (size_t i = 1; i < whole; i++) {
        if (i == length) {
            *ret_whole = whole;
            return i;
        }
        if (t[i] < low || t[i] > high)
            return i;
        low = 0x80;
        high = 0xBF;
    }
    *ret_whole = whole;
    return whole;
}

size_t tp_utf8_character(const char *text, size_t length)
{
    size_t whole, n = longest_beginning(text, length, &whole);
    return n == whole ? n : 0;
}

size_t tp_utf8_valid(const char *text, size_t length)
{
    size_t at = 0;
    while (at < length) {
        uint64_t eight;
        if (length - at >= sizeof eight) {
            memcpy(&eight, text + at, sizeof eight);
            if ((eight & 0x8080808080808080u) == 0) {
                at += sizeof eight;
                continue;
            }
        }
        size_t n = tp_utf8_character(text + at, length - at);
        if (n == 0)
            return at;
        at += n;
    }
    return length;
}

size_t tp_utf8_write(uint32_t code, char target[4])
{
    if (code < 0x80) {
        target[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        target[0] = (char)(0xC0 | (code >> 6));
        target[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        target[0] = (char)(0xE0 | (code >> 12));
        target[1] = (char)(0x80 | ((code >> 6) & 0x3F));
        target[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    target[0] = (char)(0xF0 | (code >> 18));
    target[1] = (char)(0x80 | ((code >> 12) & 0x3F));
    target[2] = (char)(0x80 | ((code >> 6) & 0x3F));
    target[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}

uint32_t tp_utf8_read(const char *text)
{
    const unsigned char *t = (const unsigned char *)text;
    switch (tp_utf8_step(text[0])) {
    case 1:
        return t[0];
    case 2:
        return (t[0] & 0x1Fu) << 6 | (t[1] & 0x3Fu);
    case 3:
        return (t[0] & 0x0Fu) << 12 | (t[1] & 0x3Fu) << 6 | (t[2] & 0x3Fu);
    default:
        return (t[0] & 0x07u) << 18 | (t[1] & 0x3Fu) << 12 | (t[2] & 0x3Fu) << 6 | (t[3] & 0x3Fu);
    }
}

/* Takes one character, or one fault, from `text`; 0 if all of it is a beginning. */
static int repair_step(const char *text, size_t length, struct tp_buffer *out, size_t *ret_taken)
{
    size_t whole, n = longest_beginning(text, length, &whole);
    *ret_taken = n == whole || whole == 0 ? n : 0;
    if (*ret_taken == 0)
        return 0;
    return n == whole ? tp_buffer_append(out, text, n) : tp_buffer_append_text(out, replacement);
}

int tp_utf8_repair_feed(struct tp_utf8_repair *repair, const char *bytes, size_t length,
                        struct tp_buffer *out)
{
    size_t at = 0, taken;
    int rc = 0;
    while (rc == 0 && at < length) {
        if (repair->n_waiting == 0) {
            size_t valid = tp_utf8_valid(bytes + at, length - at);
            rc = tp_buffer_append(out, bytes + at, valid);
            at += valid;
            if (rc < 0 || at == length)
                return rc;
        }
        repair->waiting[repair->n_waiting++] = bytes[at++];
        rc = repair_step(repair->waiting, repair->n_waiting, out, &taken);
        repair->n_waiting -= taken;
        if (taken > 0 && repair->n_waiting > 0) { /* the last byte ended a broken character */
            repair->n_waiting = 0;
            at--;
        }
    }
    return rc;
}

int tp_utf8_repair_finish(struct tp_utf8_repair *repair, struct tp_buffer *out)
{
    bool cut = repair->n_waiting > 0;
    repair->n_waiting = 0;
    return cut ? tp_buffer_append_text(out, replacement) : 0;
}
