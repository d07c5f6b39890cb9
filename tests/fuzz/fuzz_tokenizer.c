/* Any bytes as tokenizer.json: what is accepted turns text into its own ids, and they are decoded
 * into UTF-8. */
#include <stdlib.h>
#include <string.h>

#include "infer/tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

static void use(const struct tp_tokenizer *tokenizer, unsigned flags)
{
    static const char text[] =
        "a  b <s> W\xC3\xB6rld's \xE6\x97\xA5 123\n\n\0x aaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    struct tp_ids ids = {0};
    struct tp_buffer out = {0};
    struct tp_error error = {""};
    int rc = tp_tokenizer_encode(tokenizer, text, sizeof text - 1, flags, &ids, &error);
    require((rc == 0) == (error.text[0] == '\0'));
    for (size_t i = 0; rc == 0 && i < ids.n; i++)
        require(tp_tokenizer_has(tokenizer, ids.items[i]));
    require(tp_tokenizer_decode(tokenizer, ids.items, ids.n, 0, &out) == 0);
    require(out.length == 0 || tp_utf8_valid(out.bytes, out.length) == out.length);
    tp_ids_clear(&ids);
    tp_buffer_clear(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tp_tokenizer *tokenizer;
    struct tp_error error = {""};
    int rc = tp_tokenizer_parse((const char *)data, size, &tokenizer, &error);
    require((rc == 0) == (error.text[0] == '\0'));
    if (rc == 0) {
        use(tokenizer, 0);
        use(tokenizer, TP_ENCODE_ORDINARY | TP_ENCODE_BARE | TP_ENCODE_CONTINUED);
        tp_tokenizer_free(tokenizer);
    }
    return 0;
}
