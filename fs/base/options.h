/* Command lines in the GNU manner, over getopt_long.
 *
 * One table describes a program: it parses, and --help is printed from it, so that the two
 * cannot differ. A mistake is one line that says what to do. --help and --version are part
 * of every table.
 */
#ifndef TENSORPORT_FS_BASE_OPTIONS_H
#define TENSORPORT_FS_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"

struct tp_option {
    const char *name;     /* long name without its dashes; NULL ends a table */
    char short_name;      /* 0 for none */
    const char *argument; /* what --help calls its value; NULL for a switch. "[=N]": the value may
                             be left out, and stands behind '=' */
    const char *help;
};

struct tp_program {
    const char *name;      /* "tensorport synth" */
    const char *arguments; /* "OUTPUT" */
    const char *summary;   /* one sentence */
    const struct tp_option *options;
    const char *notes; /* printed at the end of --help; NULL for none */
};

/* Called for each option; `value` is NULL for a switch and for a value that was left out. Returns
 * 0, or -EINVAL with a message (without the option's name: that is put in front). */
typedef int tp_option_handler(void *context, const struct tp_option *option, const char *value,
                              struct tp_error *error);

enum tp_options_result {
    TP_OPTIONS_RUN,  /* go on; *ret_argc and *ret_argv hold the arguments that are no options */
    TP_OPTIONS_DONE, /* --help or --version has been printed: exit 0 */
};

/* Parses argv[1..]. Arguments may stand before options; "--" ends the options.
 * -EINVAL with a message: exit 2. */
int tp_options_parse(const struct tp_program *program, int argc, char **argv,
                     tp_option_handler *handle, void *context, enum tp_options_result *ret_result,
                     int *ret_argc, char ***ret_argv, struct tp_error *error);

/* Values. Each says what it expected when it refuses. A size is a number with an optional
 * fraction and suffix: K, M, G, T (binary), KB, MB, GB, TB (decimal), or none for bytes. */
int tp_parse_size(const char *text, uint64_t *ret_bytes, struct tp_error *error);
int tp_parse_unsigned(const char *text, uint64_t minimum, uint64_t maximum, uint64_t *ret_value,
                      struct tp_error *error);
/* `choices` ends with NULL; gives the index. */
int tp_parse_choice(const char *text, const char *const *choices, size_t *ret_index,
                    struct tp_error *error);

#endif
