/* A tokenizer for a synthetic checkpoint: byte-level BPE over made-up words, so that what a model
 * of random weights generates can at least be read: " kolu mi benato". Any text can be encoded.
 */
#ifndef TENSORPORT_FS_EXPORT_SYNTH_SYNTH_WORDS_H
#define TENSORPORT_FS_EXPORT_SYNTH_SYNTH_WORDS_H

#include <cjson/cJSON.h>

#include "decode/error.h"
#include "fs/export/synth/synth_config.h"

/* The tree of tokenizer.json, which the caller deletes: the 256 bytes, words up to config->n_text
 * ids as far as there are any, and the special tokens of the architecture behind. -EINVAL when
 * not even the bytes have room; -ENOMEM. */
int tp_synth_words(const struct tp_synth_config *config, cJSON **ret_tokenizer,
                   struct tp_error *error);

#endif
