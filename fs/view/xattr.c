/* Extended attributes of tensors: what manifest.json says of them, for getfattr. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/view/tree.h"

#define PREFIX "user.tensorport."

const char tp_xattr_names[] = PREFIX "name\0" PREFIX "dtype\0" PREFIX "shape\0" PREFIX
                                     "source_dtype\0" PREFIX "source_file\0" PREFIX "source_offset";
const size_t tp_xattr_names_length = sizeof tp_xattr_names;

static int copy(const char *text, size_t length, char **ret_value, size_t *ret_length)
{
    char *value = malloc(length + 1);
    if (value == NULL)
        return -ENOMEM;
    memcpy(value, text, length);
    *ret_value = value;
    *ret_length = length;
    return 0;
}

/* "[2, 3]" */
static int write_shape(const struct tp_view_tensor *tensor, char **ret_value, size_t *ret_length)
{
    char *text = malloc(22 * tensor->rank + 3); /* 20 digits, a comma and a space */
    if (text == NULL)
        return -ENOMEM;
    int at = sprintf(text, "[");
    for (size_t i = 0; i < tensor->rank; i++)
        at += sprintf(text + at, "%s%" PRIu64, i == 0 ? "" : ", ", tensor->shape[i]);
    at += sprintf(text + at, "]");
    *ret_value = text;
    *ret_length = (size_t)at;
    return 0;
}

int tp_tree_xattr(struct tp_tree *tree, uint64_t inode, const char *name, char **ret_value,
                  size_t *ret_length)
{
    const struct tp_view_file *file;
    if (tp_tree_file(tree, inode, &file) < 0 || file->tensor == NULL ||
        strncmp(name, PREFIX, sizeof PREFIX - 1) != 0)
        return -ENODATA;
    const struct tp_view_tensor *tensor = file->tensor;
    const struct tp_tensor *stored = tensor->pair != NULL ? tensor->pair->blocks : tensor->stored;
    const char *text = NULL;
    char number[24];
    name += sizeof PREFIX - 1;
    if (strcmp(name, "name") == 0)
        return copy(tensor->name, tensor->name_length, ret_value, ret_length);
    if (strcmp(name, "shape") == 0)
        return write_shape(tensor, ret_value, ret_length);
    if (strcmp(name, "dtype") == 0)
        text = tensor->dtype_name;
    else if (strcmp(name, "source_dtype") == 0)
        text = tensor->pair != NULL ? "MXFP4" : tp_dtype_name(stored->dtype);
    else if (strcmp(name, "source_file") == 0)
        text = stored->shard->name;
    else if (strcmp(name, "source_offset") == 0 &&
             snprintf(number, sizeof number, "%" PRIu64, stored->offset) > 0)
        text = number;
    return text == NULL ? -ENODATA : copy(text, strlen(text), ret_value, ret_length);
}
