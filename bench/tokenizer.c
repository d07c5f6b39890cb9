/* How fast texts become tokens, on one thread.
 *
 *     tokenizer TOKENIZER.json TEXTS SECONDS
 *
 * TEXTS holds texts that each end with a NUL. They are encoded in turn, again and again for about
 * SECONDS. Prints one line of JSON: bytes and seconds of the fastest round, tokens of one round,
 * their CRC-like sum for comparison, and how long opening took.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fs/base/bytes.h"
#include "infer/tokenizer/tokenizer.h"

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* All texts once; the ids of the last one stay in `ids`. */
static int encode_all(const struct tp_tokenizer *tokenizer, const char *texts, size_t length,
                      struct tp_ids *ids, size_t *ret_tokens, uint64_t *ret_sum,
                      struct tp_error *error)
{
    *ret_tokens = 0;
    *ret_sum = 0;
    for (size_t at = 0; at < length;) {
        size_t n = strlen(texts + at);
        ids->n = 0;
        int rc = tp_tokenizer_encode(tokenizer, texts + at, n, TP_ENCODE_BARE, ids, error);
        if (rc < 0)
            return rc;
        for (size_t i = 0; i < ids->n; i++)
            *ret_sum = (*ret_sum * 31 + ids->items[i]) % 1000000007;
        *ret_tokens += ids->n;
        at += n + 1;
    }
    return 0;
}

static int measure(const char *tokenizer_path, const char *texts_path, double seconds,
                   struct tp_error *error)
{
    struct tp_tokenizer *tokenizer;
    struct tp_ids ids = {0};
    char *texts;
    size_t length, tokens = 0;
    uint64_t sum = 0;
    double best = 1e9, start = now();
    int rc = tp_tokenizer_open(tokenizer_path, &tokenizer, error);
    double opening = now() - start;
    if (rc < 0)
        return rc;
    rc = tp_bytes_read_file(AT_FDCWD, texts_path, (size_t)1 << 30, &texts, &length, error);
    if (rc == 0) {
        double end = now() + seconds;
        do {
            start = now();
            rc = encode_all(tokenizer, texts, length, &ids, &tokens, &sum, error);
            best = now() - start < best ? now() - start : best;
        } while (rc == 0 && now() < end);
        free(texts);
    }
    if (rc == 0)
        printf("{\"bytes\": %zu, \"seconds\": %.6f, \"tokens\": %zu, \"sum\": %llu, "
               "\"opening\": %.4f}\n",
               length, best, tokens, (unsigned long long)sum, opening);
    tp_ids_clear(&ids);
    tp_tokenizer_free(tokenizer);
    return rc;
}

int main(int argc, char **argv)
{
    struct tp_error error = {""};
    if (argc != 4) {
        fprintf(stderr, "usage: tokenizer TOKENIZER.json TEXTS SECONDS\n");
        return 2;
    }
    if (measure(argv[1], argv[2], strtod(argv[3], NULL), &error) < 0) {
        fprintf(stderr, "tokenizer: %s\n", error.text);
        return 1;
    }
    return 0;
}
