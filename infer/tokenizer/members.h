/* Members of JSON objects by name, over the strict reader of decode/json.h: one walk through an
 * object finds those that are asked for, without building anything. tokenizer.json of a large
 * model has 28 MB and millions of values; a tree of it would take ten times that.
 *
 * Messages begin with where in the file the member is: "model.unk_token: expected ...".
 */
#ifndef TENSORPORT_INFER_TOKENIZER_MEMBERS_H
#define TENSORPORT_INFER_TOKENIZER_MEMBERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/json.h"

enum { TP_MEMBERS_MAX = 12, TP_MEMBER_PATH_MAX = 192 };

struct tp_members {
    char path[TP_MEMBER_PATH_MAX];         /* of the object; empty for the whole file */
    const char *const *names;              /* NULL at the end */
    struct tp_json values[TP_MEMBERS_MAX]; /* cursors that stand before the value */
    bool present[TP_MEMBERS_MAX];          /* null counts as absent */
    bool is_null[TP_MEMBERS_MAX];
    struct tp_error *error;
};

/* Walks the object that `*object` stands before; the last of equal names counts. The cursor is not
 * moved. All functions here: -EINVAL with a message in the cursor's error. */
int tp_members_read(struct tp_members *members, const struct tp_json *object, const char *path,
                    const char *const *names);

/* The same for a whole text, which has to be one object. */
int tp_members_read_whole(struct tp_members *members, const struct tp_json *text,
                          const char *const *names);

/* "path.name", or "name". */
void tp_members_path(const struct tp_members *members, size_t i, char ret_path[TP_MEMBER_PATH_MAX]);

/* "path.name: expected WHAT, found ..." */
int tp_members_mistake(const struct tp_members *members, size_t i, const char *what);

/* A string, which the caller frees; NUL-terminated, though it may hold NUL. */
int tp_members_text(const struct tp_members *members, size_t i, char **ret_text,
                    size_t *ret_length);
/* One of `choices` (NULL at the end); its index. */
int tp_members_choice(const struct tp_members *members, size_t i, const char *const *choices,
                      size_t *ret_index);
/* `otherwise` if it is absent. */
int tp_members_flag(const struct tp_members *members, size_t i, bool otherwise, bool *ret_flag);
int tp_members_number(const struct tp_members *members, size_t i, uint64_t *ret_number);

#endif
