#include "fs/base/options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

enum { KEY_FIRST = 0x100 }; /* getopt values of our options; below are their short names */
enum { KEY_HELP = 1, KEY_VERSION = 2 };

static size_t count_options(const struct tp_option *options)
{
    size_t n = 0;
    while (options[n].name != NULL)
        n++;
    return n;
}

static bool is_optional(const char *argument)
{
    return argument != NULL && argument[0] == '[';
}

static void print_option(const struct tp_option *option)
{
    char left[64];
    int at = option->short_name != 0 ? snprintf(left, sizeof left, "  -%c, ", option->short_name)
                                     : snprintf(left, sizeof left, "      ");
    snprintf(left + at, sizeof left - (size_t)at, "--%s%s%s", option->name,
             option->argument != NULL && !is_optional(option->argument) ? "=" : "",
             option->argument != NULL ? option->argument : "");
    const char *line = option->help;
    printf("%-30s", left);
    if (strlen(left) >= 30)
        printf("\n%30s", "");
    for (;;) { /* a newline in the help text starts a line in the right column */
        size_t length = strcspn(line, "\n");
        printf("%.*s\n", (int)length, line);
        if (line[length] == '\0')
            break;
        line += length + 1;
        printf("%30s", "");
    }
}

static void print_help(const struct tp_program *program)
{
    printf("Usage: %s [OPTION...] %s\n%s\n\n", program->name, program->arguments, program->summary);
    for (const struct tp_option *option = program->options; option->name != NULL; option++)
        print_option(option);
    print_option(&(struct tp_option){"help", 'h', NULL, "print this help"});
    print_option(&(struct tp_option){"version", 'V', NULL, "print the version"});
    if (program->notes != NULL)
        printf("\n%s", program->notes);
}

/* The tables getopt wants, made from ours. `ret_short` has room for 3 characters an option. */
static void make_getopt_tables(const struct tp_option *options, size_t n, struct option *ret_long,
                               char *ret_short)
{
    char *short_at = ret_short;
    *short_at++ = ':'; /* report a missing value apart from an unknown option */
    *short_at++ = 'h';
    *short_at++ = 'V';
    for (size_t i = 0; i < n; i++) {
        int has_value = options[i].argument == NULL        ? no_argument
                        : is_optional(options[i].argument) ? optional_argument
                                                           : required_argument;
        ret_long[i] = (struct option){options[i].name, has_value, NULL, KEY_FIRST + (int)i};
        if (options[i].short_name != 0) {
            *short_at++ = options[i].short_name;
            if (has_value != no_argument)
                *short_at++ = ':';
            if (has_value == optional_argument)
                *short_at++ = ':';
        }
    }
    *short_at = '\0';
    ret_long[n] = (struct option){"help", no_argument, NULL, KEY_HELP};
    ret_long[n + 1] = (struct option){"version", no_argument, NULL, KEY_VERSION};
    ret_long[n + 2] = (struct option){NULL, 0, NULL, 0};
}

static const struct tp_option *find_option(const struct tp_option *options, size_t n, int key)
{
    if (key >= KEY_FIRST)
        return &options[key - KEY_FIRST];
    for (size_t i = 0; i < n; i++) {
        if (options[i].short_name != 0 && options[i].short_name == key)
            return &options[i];
    }
    return NULL;
}

static int say_mistake(const struct tp_program *program, char **argv, int key,
                       struct tp_error *error)
{
    /* getopt says which short option it was, also inside "-ab"; a long one is the word itself. */
    const char *word = argv[optind - 1];
    bool is_short = optopt > KEY_VERSION && optopt < KEY_FIRST;
    if (key == ':')
        return tp_error_set(error, -EINVAL, "option %s needs a value; see '%s --help'", word,
                            program->name);
    if (is_short)
        return tp_error_set(error, -EINVAL, "unknown option -%c; see '%s --help'", optopt,
                            program->name);
    if (optopt != 0)
        return tp_error_set(error, -EINVAL, "this option takes no value: %s; see '%s --help'", word,
                            program->name);
    return tp_error_set(error, -EINVAL, "unknown or ambiguous option %s; see '%s --help'", word,
                        program->name);
}

static int parse_with_tables(const struct tp_program *program, int argc, char **argv,
                             tp_option_handler *handle, void *context, struct option *long_options,
                             const char *short_options, enum tp_options_result *ret_result,
                             struct tp_error *error)
{
    size_t n = count_options(program->options);
    optind = 0; /* GNU: start afresh, permuting */
    opterr = 0;
    for (;;) {
        int key = getopt_long(argc, argv, short_options, long_options, NULL);
        if (key == -1)
            break;
        if (key == '?' || key == ':')
            return say_mistake(program, argv, key, error);
        if (key == 'h' || key == KEY_HELP) {
            print_help(program);
            *ret_result = TP_OPTIONS_DONE;
            return 0;
        }
        if (key == 'V' || key == KEY_VERSION) {
            printf("%s %s\n", program->name, PACKAGE_VERSION);
            *ret_result = TP_OPTIONS_DONE;
            return 0;
        }
        const struct tp_option *option = find_option(program->options, n, key);
        int rc = handle(context, option, optarg, error);
        if (rc < 0)
            return tp_error_prefix(error, rc, "--%s", option->name);
    }
    *ret_result = TP_OPTIONS_RUN;
    return 0;
}

int tp_options_parse(const struct tp_program *program, int argc, char **argv,
                     tp_option_handler *handle, void *context, enum tp_options_result *ret_result,
                     int *ret_argc, char ***ret_argv, struct tp_error *error)
{
    size_t n = count_options(program->options);
    struct option *long_options = calloc(n + 3, sizeof *long_options);
    char *short_options = malloc(3 * n + 4);
    int rc;
    if (long_options == NULL || short_options == NULL) {
        rc = tp_error_set(error, -ENOMEM, "out of memory");
    } else {
        make_getopt_tables(program->options, n, long_options, short_options);
        rc = parse_with_tables(program, argc, argv, handle, context, long_options, short_options,
                               ret_result, error);
    }
    if (rc == 0) {
        *ret_argc = argc - optind;
        *ret_argv = argv + optind;
    }
    free(long_options);
    free(short_options);
    return rc;
}

int tp_parse_size(const char *text, uint64_t *ret_bytes, struct tp_error *error)
{
    static const struct {
        const char *suffix;
        double factor;
    } units[] = {
        {"", 1},       {"B", 1},        {"K", 0x1p10},   {"KiB", 0x1p10}, {"KB", 1e3},
        {"M", 0x1p20}, {"MiB", 0x1p20}, {"MB", 1e6},     {"G", 0x1p30},   {"GiB", 0x1p30},
        {"GB", 1e9},   {"T", 0x1p40},   {"TiB", 0x1p40}, {"TB", 1e12},
    };
    char *end;
    errno = 0;
    double number = strtod(text, &end);
    bool is_number = end != text && isdigit((unsigned char)text[0]) && errno == 0 &&
                     text[1] != 'x' && text[1] != 'X';
    for (size_t i = 0; is_number && i < sizeof units / sizeof *units; i++) {
        double bytes = number * units[i].factor;
        if (strcasecmp(end, units[i].suffix) == 0 && bytes < 0x1p63) {
            *ret_bytes = (uint64_t)bytes;
            return 0;
        }
    }
    return tp_error_set(error, -EINVAL,
                        "expected a size such as 256M, 1.5G or 2GB below 8 EiB, found \"%s\"",
                        text);
}

int tp_parse_unsigned(const char *text, uint64_t minimum, uint64_t maximum, uint64_t *ret_value,
                      struct tp_error *error)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end != '\0' || errno != 0 || value < minimum ||
        value > maximum)
        return tp_error_set(error, -EINVAL,
                            "expected a whole number from %llu to %llu, found \"%s\"",
                            (unsigned long long)minimum, (unsigned long long)maximum, text);
    *ret_value = value;
    return 0;
}

int tp_parse_choice(const char *text, const char *const *choices, size_t *ret_index,
                    struct tp_error *error)
{
    char list[256] = "";
    for (size_t i = 0; choices[i] != NULL; i++) {
        if (strcmp(text, choices[i]) == 0) {
            *ret_index = i;
            return 0;
        }
        size_t at = strlen(list);
        snprintf(list + at, sizeof list - at, "%s%s", i == 0 ? "" : ", ", choices[i]);
    }
    return tp_error_set(error, -EINVAL, "expected one of %s, found \"%s\"", list, text);
}
