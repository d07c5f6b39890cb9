/* Text to token ids and back, as a model's tokenizer.json says.
 *
 * Understood are BPE models: byte-level ones (GPT-2, GPT-OSS, Llama 3) and those after
 * SentencePiece with bytes as fallback (Llama 2, Mistral). What a file asks for beyond that is
 * refused when it is read, with the field, what was expected and what was found. Results equal
 * those of Hugging Face's tokenizers and tiktoken, token for token.
 *
 * The file is untrusted. A tokenizer is immutable once it is open: any number of threads may use
 * it at the same time.
 */
#ifndef TENSORPORT_INFER_TOKENIZER_TOKENIZER_H
#define TENSORPORT_INFER_TOKENIZER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "infer/tokenizer/buffer.h"
#include "infer/tokenizer/utf8.h"

struct tp_tokenizer;

enum {
    TP_TOKENIZER_FILE_MAX = 1 << 28, /* bytes of tokenizer.json */
    TP_ENCODE_LENGTH_MAX = 1 << 29,  /* bytes of one text */
};

enum tp_encode_flags {
    TP_ENCODE_ORDINARY = 1, /* special tokens written in the text are text: for what others wrote */
    TP_ENCODE_BARE = 2,     /* without what the file puts around a text, such as <s> */
    TP_ENCODE_CONTINUED =
        4, /* the text is not the beginning: no mark that only the first word has */
};

enum tp_decode_flags {
    TP_DECODE_BYTES = 1,        /* the tokens' bytes as they are, even if they are not UTF-8 */
    TP_DECODE_SKIP_SPECIAL = 2, /* special tokens give nothing */
};

/* `path` is a tokenizer.json or a folder with one. A negative errno with the path in front. */
int tp_tokenizer_open(const char *path, struct tp_tokenizer **ret_tokenizer,
                      struct tp_error *error);
/* The same from memory. */
int tp_tokenizer_parse(const char *json, size_t length, struct tp_tokenizer **ret_tokenizer,
                       struct tp_error *error);
void tp_tokenizer_free(struct tp_tokenizer *tokenizer);

/* The largest id + 1. Not every id below has a token. */
size_t tp_tokenizer_size(const struct tp_tokenizer *tokenizer);

/* The token of this very content; added tokens come first. False if there is none. */
bool tp_tokenizer_find(const struct tp_tokenizer *tokenizer, const char *content, uint32_t *ret_id);
/* The next special token written out in `text` at or after `from`: where, and which. False if there
 * is none, or no memory to look. */
bool tp_tokenizer_find_special(const struct tp_tokenizer *tokenizer, const char *text,
                               size_t length, size_t from, size_t *ret_begin, size_t *ret_end,
                               uint32_t *ret_id);
bool tp_tokenizer_has(const struct tp_tokenizer *tokenizer, uint32_t id);
bool tp_tokenizer_is_special(const struct tp_tokenizer *tokenizer, uint32_t id);

/* Appends the ids of a text. -EILSEQ if it is not UTF-8, with the offset of the first byte that is
 * wrong; -EFBIG if it is too long; -ELOOP if the file's expression cannot cope with it; -ENOMEM.
 * After an error `ids` may have more items than before. */
int tp_tokenizer_encode(const struct tp_tokenizer *tokenizer, const char *text, size_t length,
                        unsigned flags, struct tp_ids *ids, struct tp_error *error);

/* Ids to text as they come: each character as soon as it is whole, U+FFFD for what cannot become
 * one. An id without a token gives nothing: a model's vocabulary may be larger than its file's.
 * Start with {.tokenizer = ..., .flags = ...}; `flags` are of enum tp_decode_flags. */
struct tp_decoder {
    const struct tp_tokenizer *tokenizer;
    unsigned flags;
    bool started;
    size_t stripped; /* characters taken from the front so far */
    struct tp_utf8_repair repair;
};

/* Append to `out`. -ENOMEM. */
int tp_decoder_feed(struct tp_decoder *decoder, uint32_t id, struct tp_buffer *out);
/* The last id has been fed. */
int tp_decoder_finish(struct tp_decoder *decoder, struct tp_buffer *out);

/* All at once. */
int tp_tokenizer_decode(const struct tp_tokenizer *tokenizer, const uint32_t *ids, size_t n,
                        unsigned flags, struct tp_buffer *out);

#endif
