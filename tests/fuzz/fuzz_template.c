/* Any bytes as a template: what is accepted writes a conversation. */
#include <stdlib.h>
#include <string.h>

#include "infer/chat/template.h"
#include "tests/fuzz/kit_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct tp_tokenizer *tokenizer = kit_harmony()->tokenizer;
    struct tp_template *template;
    struct tp_conversation conversation = {0};
    struct tp_ids ids = {0};
    struct tp_error error = {""};
    int rc = tp_template_parse((const char *)data, size, &template, &error);
    require((rc == 0) == (error.text[0] == '\0'));
    if (rc < 0)
        return 0;
    require(tp_conversation_add(&conversation, TP_ROLE_SYSTEM, "be", 2, NULL) == 0);
    require(tp_conversation_add(&conversation, TP_ROLE_USER, " hi ", 4, NULL) == 0);
    rc = tp_template_write(template, tokenizer, &conversation, true, &ids, &error);
    require(rc == 0 || error.text[0] != '\0');
    (void)tp_template_stops(template, tokenizer, &ids, &error);
    tp_ids_clear(&ids);
    tp_conversation_clear(&conversation);
    tp_template_free(template);
    return 0;
}
