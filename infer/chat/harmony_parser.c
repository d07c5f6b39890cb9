#include "infer/chat/harmony_parser.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *const tp_harmony_end_names[] = {"end", "call", "return", "cut", NULL};

/* A header longer than that is none. */
enum { HEADER_MAX = 1024 };

enum state { BETWEEN, HEADER, CONTENT };

struct tp_harmony_parser {
    const struct tp_harmony *harmony;
    tp_harmony_handler *handle;
    void *context;
    enum state state;
    char *given_role; /* of a header that begins without one; NULL if it has one */
    struct tp_buffer header_text;
    struct tp_harmony_header header;
    struct tp_decoder decoder;
    struct tp_buffer text; /* a piece that is about to be handed on */
};

static void clear_header(struct tp_harmony_header *header)
{
    free(header->role);
    free(header->channel);
    free(header->recipient);
    free(header->content_type);
    *header = (struct tp_harmony_header){0};
}

int tp_harmony_parser_new(const struct tp_harmony *harmony, const char *role,
                          tp_harmony_handler *handle, void *context,
                          struct tp_harmony_parser **ret_parser)
{
    struct tp_harmony_parser *parser = calloc(1, sizeof *parser);
    if (parser == NULL)
        return -ENOMEM;
    parser->harmony = harmony;
    parser->handle = handle;
    parser->context = context;
    parser->decoder.tokenizer = harmony->tokenizer;
    parser->state = role != NULL ? HEADER : BETWEEN;
    parser->given_role = role != NULL ? strdup(role) : NULL;
    if (role != NULL && parser->given_role == NULL) {
        free(parser);
        return -ENOMEM;
    }
    *ret_parser = parser;
    return 0;
}

void tp_harmony_parser_free(struct tp_harmony_parser *parser)
{
    if (parser == NULL)
        return;
    free(parser->given_role);
    clear_header(&parser->header);
    tp_buffer_clear(&parser->header_text);
    tp_buffer_clear(&parser->text);
    free(parser);
}

/* ---- headers */

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static int keep(const char *text, size_t length, char **target)
{
    free(*target);
    *target = strndup(text, length);
    return *target == NULL ? -ENOMEM : 0;
}

/* Takes "<|channel|>NAME" out of the text. */
static int take_channel(struct tp_buffer *text, struct tp_harmony_header *header)
{
    static const char mark[] = "<|channel|>";
    char *at = memmem(text->bytes, text->length, mark, sizeof mark - 1);
    if (at == NULL)
        return 0;
    const char *end = text->bytes + text->length, *name = at + sizeof mark - 1, *after = name;
    while (after < end && !is_blank(*after) && *after != '<')
        after++;
    header->malformed |= after == name;
    int rc = after > name ? keep(name, (size_t)(after - name), &header->channel) : 0;
    memmove(at, after, (size_t)(end - after));
    text->length -= (size_t)(after - at);
    return rc;
}

struct word {
    const char *text;
    size_t length;
};

/* The next word; "<|constrain|>" begins one. False at the end. */
static bool next_word(const struct tp_buffer *text, size_t *at, struct word *ret_word)
{
    static const char constrain[] = "<|constrain|>";
    size_t n = sizeof constrain - 1;
    while (*at < text->length && is_blank(text->bytes[*at]))
        (*at)++;
    size_t begin = *at;
    while (*at < text->length && !is_blank(text->bytes[*at]) &&
           (*at == begin || text->length - *at < n || memcmp(text->bytes + *at, constrain, n) != 0))
        (*at)++;
    *ret_word = (struct word){text->bytes + begin, *at - begin};
    return *at > begin;
}

static bool begins_with(const struct word *word, const char *text)
{
    return word->length >= strlen(text) && memcmp(word->text, text, strlen(text)) == 0;
}

static int take_recipient(const struct word *word, struct tp_harmony_header *header)
{
    size_t skip = begins_with(word, "to=") ? 3 : 0;
    return keep(word->text + skip, word->length - skip, &header->recipient);
}

/* "[role] [recipient] [content type]": the last word is the type, unless it says "to=" or stands
 * alone and is no constraint. What is more than that is left over: where it begins. */
static int parse_words(const struct tp_buffer *text, const char *given_role,
                       struct tp_harmony_header *header, size_t *ret_left)
{
    enum { WORDS_MAX = 4 };
    struct word words[WORDS_MAX], word;
    size_t n = 0, at = 0;
    int rc = 0;
    *ret_left = text->length;
    if (given_role != NULL) {
        rc = keep(given_role, strlen(given_role), &header->role);
    } else if (next_word(text, &at, &word)) {
        rc = keep(word.text, word.length, &header->role);
    } else {
        header->malformed = true;
    }
    while (rc == 0 && next_word(text, &at, &word)) {
        bool repeats_role = n == 0 && given_role != NULL && word.length == strlen(given_role) &&
                            begins_with(&word, given_role);
        if (repeats_role)
            continue;
        if (n == 2) {
            header->malformed = true;
            *ret_left = (size_t)(words[0].text - text->bytes);
            return 0;
        }
        words[n++] = word;
    }
    if (rc < 0 || n == 0)
        return rc;
    const struct word *last = &words[n - 1];
    if (begins_with(last, "to=") || (n == 1 && !begins_with(last, "<|constrain|>"))) {
        header->malformed |= n == 2;
        if (n == 2) {
            *ret_left = (size_t)(words[0].text - text->bytes);
            return 0;
        }
        return take_recipient(last, header);
    }
    rc = keep(last->text, last->length, &header->content_type);
    return rc < 0 || n == 1 ? rc : take_recipient(&words[0], header);
}

/* ---- events */

static int send(struct tp_harmony_parser *parser, enum tp_harmony_event_kind kind, const char *text,
                size_t length, enum tp_harmony_end end)
{
    const struct tp_harmony_event event = {kind, &parser->header, text, length, end};
    return parser->handle(parser->context, &event);
}

static int send_text(struct tp_harmony_parser *parser)
{
    int rc = parser->text.length == 0 ? 0
                                      : send(parser, TP_HARMONY_TEXT, parser->text.bytes,
                                             parser->text.length, TP_HARMONY_END);
    parser->text.length = 0;
    return rc;
}

/* Decodes a token into the text, or into the header's. */
static int decode(struct tp_harmony_parser *parser, uint32_t id, struct tp_buffer *target)
{
    return tp_decoder_feed(&parser->decoder, id, target);
}

static void start_header(struct tp_harmony_parser *parser)
{
    parser->state = HEADER;
    parser->header_text.length = 0;
    parser->decoder = (struct tp_decoder){.tokenizer = parser->harmony->tokenizer};
    free(parser->given_role);
    parser->given_role = NULL;
}

/* The header is over: its message begins, with what of the header is none as its first text. If
 * `whole`, all but the channel is text. */
static int start_content(struct tp_harmony_parser *parser, bool whole)
{
    struct tp_buffer *text = &parser->header_text;
    size_t left = 0;
    clear_header(&parser->header);
    int rc = tp_buffer_reserve(text, 1); /* an empty header is a text, too */
    if (rc == 0)
        rc = tp_decoder_finish(&parser->decoder, text);
    if (rc == 0)
        rc = take_channel(text, &parser->header);
    if (rc == 0 && !whole)
        rc = parse_words(text, parser->given_role, &parser->header, &left);
    parser->header.malformed |= whole;
    if (rc == 0 && parser->header.role == NULL) { /* who else would write without saying so */
        const char *role = parser->given_role != NULL ? parser->given_role : "assistant";
        rc = keep(role, strlen(role), &parser->header.role);
    }
    parser->decoder = (struct tp_decoder){.tokenizer = parser->harmony->tokenizer};
    parser->state = CONTENT;
    if (rc == 0)
        rc = send(parser, TP_HARMONY_MESSAGE, "", 0, TP_HARMONY_END);
    if (rc == 0 && left < text->length)
        rc = send(parser, TP_HARMONY_TEXT, text->bytes + left, text->length - left, TP_HARMONY_END);
    text->length = 0;
    return rc;
}

static int end_content(struct tp_harmony_parser *parser, enum tp_harmony_end end)
{
    int rc = tp_decoder_finish(&parser->decoder, &parser->text);
    if (rc == 0)
        rc = send_text(parser);
    parser->state = BETWEEN;
    return rc < 0 ? rc : send(parser, TP_HARMONY_ENDED, "", 0, end);
}

/* A header that ends without a message is text. */
static int end_header(struct tp_harmony_parser *parser, enum tp_harmony_end end)
{
    bool empty = parser->header_text.length == 0 && parser->decoder.repair.n_waiting == 0;
    parser->state = BETWEEN;
    if (empty)
        return 0;
    int rc = start_content(parser, true);
    return rc < 0 ? rc : end_content(parser, end);
}

/* ---- tokens */

static bool is_stop(const struct tp_harmony *harmony, uint32_t id, enum tp_harmony_end *ret_end)
{
    if (id == harmony->end)
        *ret_end = TP_HARMONY_END;
    else if (id == harmony->call)
        *ret_end = TP_HARMONY_CALL;
    else if (id == harmony->done || id == harmony->end_of_text)
        *ret_end = TP_HARMONY_RETURN;
    else
        return false;
    return true;
}

static int feed_header(struct tp_harmony_parser *parser, uint32_t id)
{
    if (id == parser->harmony->message)
        return start_content(parser, false);
    int rc = decode(parser, id, &parser->header_text);
    return rc == 0 && parser->header_text.length > HEADER_MAX ? start_content(parser, true) : rc;
}

static int feed_content(struct tp_harmony_parser *parser, uint32_t id)
{
    int rc = decode(parser, id, &parser->text);
    return rc < 0 ? rc : send_text(parser);
}

/* Text where a message should begin. */
static int feed_between(struct tp_harmony_parser *parser, uint32_t id)
{
    start_header(parser);
    int rc = start_content(parser, true);
    return rc < 0 ? rc : feed_content(parser, id);
}

int tp_harmony_parser_feed(struct tp_harmony_parser *parser, uint32_t id)
{
    enum tp_harmony_end end = TP_HARMONY_CUT;
    bool stop = is_stop(parser->harmony, id, &end);
    if (stop || id == parser->harmony->start) {
        int rc = 0;
        if (parser->state == CONTENT)
            rc = end_content(parser, end);
        else if (parser->state == HEADER)
            rc = end_header(parser, end);
        if (!stop)
            start_header(parser);
        return rc;
    }
    switch (parser->state) {
    case HEADER:
        return feed_header(parser, id);
    case CONTENT:
        return feed_content(parser, id);
    case BETWEEN:
        break;
    }
    return feed_between(parser, id);
}

int tp_harmony_parser_finish(struct tp_harmony_parser *parser)
{
    if (parser->state == CONTENT)
        return end_content(parser, TP_HARMONY_CUT);
    return parser->state == HEADER ? end_header(parser, TP_HARMONY_CUT) : 0;
}
