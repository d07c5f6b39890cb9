#include "infer/tokenizer/unicode_new.h"

#include <string.h>

#include "infer/tokenizer/utf8.h"

enum category { LU, LL, LM, LO, HAN, M, ND, NO, P, S };

/* What stands for a category, in three bytes and in four. */
static const char *const stand_ins[][2] = {
    [LU] = {"\xEA\x99\x80", "\xF0\x90\x90\x80"},  /* U+A640, U+10400 */
    [LL] = {"\xEA\x99\x81", "\xF0\x90\x90\xA8"},  /* U+A641, U+10428 */
    [LM] = {"\xEA\x9C\x97", "\xF0\x96\xAD\x80"},  /* U+A717, U+16B40 */
    [LO] = {"\xE0\xA4\x84", "\xF0\x90\x80\x80"},  /* U+0904, U+10000 */
    [HAN] = {"\xE4\xB8\x80", "\xF0\xA0\x80\x80"}, /* U+4E00, U+20000 */
    [M] = {"\xE0\xA4\x81", "\xF0\x90\x87\xBD"},   /* U+0901, U+101FD */
    [ND] = {"\xE0\xA5\xA6", "\xF0\x90\x92\xA0"},  /* U+0966, U+104A0 */
    [NO] = {"\xE2\x91\xA0", "\xF0\x90\x84\x87"},  /* U+2460, U+10107 */
    [P] = {"\xE2\x80\xA0", "\xF0\x90\x84\x80"},   /* U+2020, U+10100 */
    [S] = {"\xE2\x98\x80", "\xF0\x9D\x84\x80"},   /* U+2600, U+1D100 */
};

/* What Unicode 15.0, 15.1 and 16.0 added to letters, marks, numbers, punctuation and symbols. */
static const struct range {
    uint32_t first, last;
    enum category category;
} ranges[] = {
    {0x0897, 0x0897, M},     {0x0CF3, 0x0CF3, M},     {0x0ECE, 0x0ECE, M},
    {0x1B4E, 0x1B4F, P},     {0x1B7F, 0x1B7F, P},     {0x1C89, 0x1C89, LU},
    {0x1C8A, 0x1C8A, LL},    {0x2427, 0x2429, S},     {0x2FFC, 0x2FFF, S},
    {0x31E4, 0x31E5, S},     {0x31EF, 0x31EF, S},     {0xA7CB, 0xA7CC, LU},
    {0xA7CD, 0xA7CD, LL},    {0xA7DA, 0xA7DA, LU},    {0xA7DB, 0xA7DB, LL},
    {0xA7DC, 0xA7DC, LU},    {0x105C0, 0x105F3, LO},  {0x10D40, 0x10D49, ND},
    {0x10D4A, 0x10D4D, LO},  {0x10D4E, 0x10D4E, LM},  {0x10D4F, 0x10D4F, LO},
    {0x10D50, 0x10D65, LU},  {0x10D69, 0x10D6D, M},   {0x10D6E, 0x10D6E, P},
    {0x10D6F, 0x10D6F, LM},  {0x10D70, 0x10D85, LL},  {0x10D8E, 0x10D8F, S},
    {0x10EC2, 0x10EC4, LO},  {0x10EFC, 0x10EFF, M},   {0x1123F, 0x11240, LO},
    {0x11241, 0x11241, M},   {0x11380, 0x11389, LO},  {0x1138B, 0x1138B, LO},
    {0x1138E, 0x1138E, LO},  {0x11390, 0x113B5, LO},  {0x113B7, 0x113B7, LO},
    {0x113B8, 0x113C0, M},   {0x113C2, 0x113C2, M},   {0x113C5, 0x113C5, M},
    {0x113C7, 0x113CA, M},   {0x113CC, 0x113D0, M},   {0x113D1, 0x113D1, LO},
    {0x113D2, 0x113D2, M},   {0x113D3, 0x113D3, LO},  {0x113D4, 0x113D5, P},
    {0x113D7, 0x113D8, P},   {0x113E1, 0x113E2, M},   {0x116D0, 0x116E3, ND},
    {0x11B00, 0x11B09, P},   {0x11BC0, 0x11BE0, LO},  {0x11BE1, 0x11BE1, P},
    {0x11BF0, 0x11BF9, ND},  {0x11F00, 0x11F01, M},   {0x11F02, 0x11F02, LO},
    {0x11F03, 0x11F03, M},   {0x11F04, 0x11F10, LO},  {0x11F12, 0x11F33, LO},
    {0x11F34, 0x11F3A, M},   {0x11F3E, 0x11F42, M},   {0x11F43, 0x11F4F, P},
    {0x11F50, 0x11F59, ND},  {0x11F5A, 0x11F5A, M},   {0x1342F, 0x1342F, LO},
    {0x13440, 0x13440, M},   {0x13441, 0x13446, LO},  {0x13447, 0x13455, M},
    {0x13460, 0x143FA, LO},  {0x16100, 0x1611D, LO},  {0x1611E, 0x1612F, M},
    {0x16130, 0x16139, ND},  {0x16D40, 0x16D42, LM},  {0x16D43, 0x16D6A, LO},
    {0x16D6B, 0x16D6C, LM},  {0x16D6D, 0x16D6F, P},   {0x16D70, 0x16D79, ND},
    {0x18CFF, 0x18CFF, LO},  {0x1B132, 0x1B132, LO},  {0x1B155, 0x1B155, LO},
    {0x1CC00, 0x1CCEF, S},   {0x1CCF0, 0x1CCF9, ND},  {0x1CD00, 0x1CEB3, S},
    {0x1D2C0, 0x1D2D3, NO},  {0x1DF25, 0x1DF2A, LL},  {0x1E030, 0x1E06D, LM},
    {0x1E08F, 0x1E08F, M},   {0x1E4D0, 0x1E4EA, LO},  {0x1E4EB, 0x1E4EB, LM},
    {0x1E4EC, 0x1E4EF, M},   {0x1E4F0, 0x1E4F9, ND},  {0x1E5D0, 0x1E5ED, LO},
    {0x1E5EE, 0x1E5EF, M},   {0x1E5F0, 0x1E5F0, LO},  {0x1E5F1, 0x1E5FA, ND},
    {0x1E5FF, 0x1E5FF, P},   {0x1F6DC, 0x1F6DC, S},   {0x1F774, 0x1F776, S},
    {0x1F77B, 0x1F77F, S},   {0x1F7D9, 0x1F7D9, S},   {0x1F8B2, 0x1F8BB, S},
    {0x1F8C0, 0x1F8C1, S},   {0x1FA75, 0x1FA77, S},   {0x1FA87, 0x1FA89, S},
    {0x1FA8F, 0x1FA8F, S},   {0x1FAAD, 0x1FAAF, S},   {0x1FABB, 0x1FABF, S},
    {0x1FAC6, 0x1FAC6, S},   {0x1FACE, 0x1FACF, S},   {0x1FADA, 0x1FADC, S},
    {0x1FADF, 0x1FADF, S},   {0x1FAE8, 0x1FAE9, S},   {0x1FAF7, 0x1FAF8, S},
    {0x1FBCB, 0x1FBEF, S},   {0x2B739, 0x2B739, HAN}, {0x2EBF0, 0x2EE5D, HAN},
    {0x31350, 0x323AF, HAN},
};
enum { N_RANGES = sizeof ranges / sizeof *ranges, FIRST_LEAD = 0xE0 };

static const struct range *find_range(uint32_t code)
{
    size_t low = 0, high = N_RANGES;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (ranges[middle].last < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < N_RANGES && ranges[low].first <= code ? &ranges[low] : NULL;
}

/* The next new character at or after `at`, or `length`. */
static size_t find_new(const char *text, size_t length, size_t at, const struct range **ret_range)
{
    while (at < length) {
        uint64_t eight;
        if (length - at >= sizeof eight) {
            memcpy(&eight, text + at, sizeof eight);
            if ((eight & 0x8080808080808080u) == 0) {
                at += sizeof eight;
                continue;
            }
        }
        if ((unsigned char)text[at] >= FIRST_LEAD) {
            *ret_range = find_range(tp_utf8_read(text + at));
            if (*ret_range != NULL)
                return at;
        }
        at += tp_utf8_step(text[at]);
    }
    return length;
}

int tp_unicode_substitute(const char *text, size_t length, struct tp_buffer *copy,
                          const char **ret_text)
{
    const struct range *range = NULL;
    size_t at = find_new(text, length, 0, &range);
    *ret_text = text;
    if (at == length)
        return 0;
    copy->length = 0;
    int rc = tp_buffer_append(copy, text, length);
    if (rc < 0)
        return rc;
    while (at < length) {
        size_t n = tp_utf8_step(text[at]);
        memcpy(copy->bytes + at, stand_ins[range->category][n - 3], n);
        at = find_new(text, length, at + n, &range);
    }
    *ret_text = copy->bytes;
    return 0;
}
