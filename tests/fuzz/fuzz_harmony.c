/* Any tokens as a model's output: messages begin, have text in UTF-8, and end, in this order. Each
 * two bytes are an id; the first byte of all says whether a header is open. */
#include <stdlib.h>
#include <string.h>

#include "infer/chat/harmony_parser.h"
#include "tests/fuzz/kit_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

static int check_event(void *context, const struct tp_harmony_event *event)
{
    bool *open = context;
    require(event->header->role != NULL);
    require((event->kind == TP_HARMONY_MESSAGE) == !*open);
    if (event->kind == TP_HARMONY_TEXT)
        require(event->length > 0 && tp_utf8_valid(event->text, event->length) == event->length);
    *open = event->kind != TP_HARMONY_ENDED;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tp_harmony_parser *parser;
    bool open = false;
    const char *role = size > 0 && data[0] % 2 == 1 ? "assistant" : NULL;
    require(tp_harmony_parser_new(kit_harmony(), role, check_event, &open, &parser) == 0);
    for (size_t i = 1; i + 1 < size; i += 2)
        require(tp_harmony_parser_feed(parser, (uint32_t)(data[i] << 8 | data[i + 1])) == 0);
    require(tp_harmony_parser_finish(parser) == 0 && !open);
    tp_harmony_parser_free(parser);
    return 0;
}
