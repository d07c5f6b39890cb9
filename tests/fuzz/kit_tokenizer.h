/* The kit's smallest tokenizer with harmony's tokens, opened once. */
#ifndef TENSORPORT_TESTS_FUZZ_KIT_TOKENIZER_H
#define TENSORPORT_TESTS_FUZZ_KIT_TOKENIZER_H

#include <stdio.h>
#include <stdlib.h>

#include "infer/chat/harmony.h"

static inline const struct tp_harmony *kit_harmony(void)
{
    static struct tp_harmony harmony;
    const char *root = getenv("TP_TEST_SRCDIR");
    char path[4096];
    struct tp_tokenizer *tokenizer;
    struct tp_error error;
    if (harmony.tokenizer != NULL)
        return &harmony;
    snprintf(path, sizeof path, "%s/tests/kit/tokenizer/tiny", root != NULL ? root : ".");
    if (tp_tokenizer_open(path, &tokenizer, &error) < 0 ||
        tp_harmony_init(&harmony, tokenizer, &error) < 0) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
    return &harmony;
}

#endif
