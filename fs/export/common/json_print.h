/* Prints cJSON trees the way Python's json.dumps(value, indent=2, ensure_ascii=False) does.
 *
 * The files of published checkpoints are written by Python, and tools compare them; cJSON's
 * own printer indents by tabs and has one kind of number. Here a cJSON number is an integer
 * when it is whole; a number that must read otherwise (32.0, 1e-05) is a raw item.
 */
#ifndef TENSORPORT_FS_EXPORT_COMMON_JSON_PRINT_H
#define TENSORPORT_FS_EXPORT_COMMON_JSON_PRINT_H

#include <stddef.h>

#include <cjson/cJSON.h>

enum { TP_JSON_REAL_SIZE = 64 };

/* The text of a tree, a newline at its end; the caller frees it. NULL when out of memory. */
char *tp_json_print(const cJSON *tree);

/* Python's repr() of a finite number: the fewest digits that read back as the same number,
 * and always a point or an exponent. */
void tp_json_real_text(double number, char ret_text[TP_JSON_REAL_SIZE]);

#endif
