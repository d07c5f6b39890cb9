/* Any bytes as a conversation, tools and all: what is accepted becomes a prompt whose control
 * tokens are ours, two or more for each message. */
#include <stdlib.h>
#include <string.h>

#include "infer/chat/harmony.h"
#include "tests/fuzz/kit_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct tp_harmony *harmony = kit_harmony();
    const struct tp_harmony_options options = {NULL, NULL, true};
    struct tp_conversation conversation = {0};
    struct tp_ids ids = {0};
    struct tp_error error = {""};
    int rc = tp_conversation_read(&conversation, (const char *)data, size, &error);
    require((rc == 0) == (error.text[0] == '\0'));
    if (rc == 0)
        rc = tp_harmony_write(harmony, &conversation, &options, &ids, &error);
    if (rc == 0) {
        size_t starts = 0, ends = 0;
        for (size_t i = 0; i < ids.n; i++) {
            starts += ids.items[i] == harmony->start;
            ends += ids.items[i] == harmony->end || ids.items[i] == harmony->call;
        }
        require(starts == ends + 1 && ends <= conversation.n);
    }
    tp_ids_clear(&ids);
    tp_conversation_clear(&conversation);
    return 0;
}
