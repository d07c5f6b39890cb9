/* The texts that `tpinfer bench` feeds: random ones, or those of a file. */
#ifndef TENSORPORT_INFER_CLI_BENCH_PROMPTS_H
#define TENSORPORT_INFER_CLI_BENCH_PROMPTS_H

#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "infer/tokenizer/tokenizer.h"

/* Token ids of `n` texts. Starts as zeros. */
struct tp_bench_prompts {
    size_t n;
    uint32_t **tokens; /* [n][lengths[i]] */
    size_t *lengths;   /* [n] */
};

/* `n` texts of `length` tokens, at most the vocabulary's. -ENOMEM with a message. */
int tp_bench_prompts_random(uint64_t seed, size_t vocabulary, size_t n, size_t length,
                            struct tp_bench_prompts *ret_prompts, struct tp_error *error);

/* Position `position` of random text `text`. */
uint32_t tp_bench_random_token(uint64_t seed, size_t vocabulary, size_t text, size_t position);

/* The prompts of a file: the lines that are not empty; of a file whose name ends in .jsonl each
 * line is a JSON string, or an object with a string "prompt" or "text". -EINVAL and the like with
 * file, line, expected and found. */
int tp_bench_prompts_read(const char *path, const struct tp_tokenizer *tokenizer, size_t vocabulary,
                          struct tp_bench_prompts *ret_prompts, struct tp_error *error);

void tp_bench_prompts_clear(struct tp_bench_prompts *prompts);

#endif
