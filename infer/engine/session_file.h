/* Sessions in files: a text in progress goes on where it was, with the same bits.
 *
 *     offset  bytes  (all numbers little-endian)
 *          0      8  "\x89TPSESS\n"
 *          8      4  version: 1
 *         12      4  bytes of a key's or value's number: 4, float32, or 2, BF16
 *         16     16  fingerprint of the model (model/fingerprint.h)
 *         32      8  n: tokens
 *         40      8  m: bytes of the note
 *         48      8  layers
 *         56      8  XXH3-64 of the bytes before
 *         64    4 n  tokens
 *                8 l  of each layer, the first position that it has: 0 but for windows
 *                     of each layer, its positions from there to n - 1, as struct tp_backend_kind
 *                     describes them outside a backend
 *                m    the note
 *                16   XXH3-128 of everything before, canonical (big-endian)
 *
 * The note is whoever saves it to say: chat keeps its messages there. The file has exactly that
 * length. It may come from anywhere: nothing in it is believed before it was checked, and a session
 * is replaced only when all of it was.
 */
#ifndef TENSORPORT_INFER_ENGINE_SESSION_FILE_H
#define TENSORPORT_INFER_ENGINE_SESSION_FILE_H

#include <stddef.h>

#include "decode/error.h"
#include "infer/engine/session.h"
#include "infer/model/model.h"

enum { TP_SESSION_NOTE_MAX = 1 << 28 /* bytes */ };

/* Writes `path`, which becomes the file when all of it is on the disk: until then an older one
 * stays. Only its owner may read it. `model` is the session's. A negative errno, with a message. */
int tp_session_save(const struct tp_session *session, const struct tp_model *model,
                    const void *note, size_t note_length, const char *path, struct tp_error *error);

/* Gives the session the tokens, keys and values of the file, and the caller its note, to be freed
 * (NUL-terminated beyond its length). -EINVAL for a damaged file, another model's, another
 * --kv-type's; -ENOSPC if the session's context is too short; the session is as before then. All
 * with a message that begins with the path. */
int tp_session_load(struct tp_session *session, const struct tp_model *model, const char *path,
                    char **ret_note, size_t *ret_note_length, struct tp_error *error);

#endif
