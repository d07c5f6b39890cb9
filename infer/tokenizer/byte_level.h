/* The printable character that stands for each byte in the vocabulary of a byte-level model
 * (GPT-2): itself for the printable ones of Latin-1, and U+0100, U+0101, ... for the other 68, in
 * order. */
#ifndef TENSORPORT_INFER_TOKENIZER_BYTE_LEVEL_H
#define TENSORPORT_INFER_TOKENIZER_BYTE_LEVEL_H

#include <stdbool.h>
#include <stddef.h>

/* Replaces valid UTF-8 made of such characters by their bytes, in place; the new length. False,
 * and nothing changed, if another character is among them. */
bool tp_byte_level_to_bytes(char *text, size_t length, size_t *ret_length);

#endif
