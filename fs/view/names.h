/* File names of tensors.
 *
 * A tensor "model.norm.weight" is shown as "model_norm_weight.npy". A name that would collide
 * with another, that holds '/' or NUL, or that would exceed 255 bytes becomes
 * "STEM~HASH.npy": STEM with '/' and NUL as '_', cut at a character's boundary; HASH 16
 * hexadecimal digits of the XXH3 of the true name. All the names that collide get one, so
 * that none depends on the others' order.
 */
#ifndef TENSORPORT_FS_VIEW_NAMES_H
#define TENSORPORT_FS_VIEW_NAMES_H

#include <stddef.h>

struct tp_name {
    const char *text; /* may contain any byte */
    size_t length;
};

/* Gives `n` file names, unique among themselves, in the order of `names`; one allocation with
 * the array at its start, freed with free(). -ENOMEM. */
int tp_names_make(const struct tp_name *names, size_t n, char ***ret_file_names);

#endif
