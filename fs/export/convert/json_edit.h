/* Changes members of a JSON object in its text: whatever is not changed stays as it was, to the
 * byte. A tree could not promise that: numbers lose digits in it, and the author's layout. */
#ifndef TENSORPORT_FS_EXPORT_CONVERT_JSON_EDIT_H
#define TENSORPORT_FS_EXPORT_CONVERT_JSON_EDIT_H

#include <stddef.h>

struct tp_json_text {
    char *bytes; /* from malloc(); replaced by the functions below */
    size_t length;
};

/* A member of the outermost object: "key": value. Offsets in the text. */
struct tp_json_member {
    size_t begin; /* of the key */
    size_t value; /* of the value */
    size_t end;
    size_t previous_end, next_begin; /* of its neighbours; 0: it has none on that side */
};

/* Finds the last member of that name (the one that readers go by). -ENOENT: there is none;
 * -EINVAL: the text is no JSON object. */
int tp_json_edit_find(const struct tp_json_text *text, const char *key,
                      struct tp_json_member *ret_member);

/* Removes every member of that name. 0 (also if there is none), -EINVAL, -ENOMEM. */
int tp_json_edit_remove(struct tp_json_text *text, const char *key);

/* Sets a member in place, or adds it at the end, laid out like the one before it. Key and value
 * are JSON already ("\"bfloat16\""), except that the key has no quotes. -EINVAL, -ENOMEM. */
int tp_json_edit_set(struct tp_json_text *text, const char *key, const char *value);

#endif
