#include "fs/mount/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    IDLE_TIMEOUT_MAX = 7 * 24 * 3600,
};

static const struct tp_option mount_options[] = {
    TP_VIEW_ARGUMENTS_TABLE,
    TP_SERVE_ARGUMENTS_TABLE,
    {"replace", 0, NULL, "unmount what is mounted there first, a dead mount included"},
    {"idle-timeout", 0, "SECONDS", "unmount when no file was in use for so long"},
    {"foreground", 'f', NULL, "stay in the foreground and log to stderr"},
    {"options", 'o', "LIST", "mount options, separated by commas: see below"},
    {NULL, 0, NULL, NULL},
};

static const char notes[] =
    "LIST may hold the options above, written like precision=float16,direct_io; those of\n"
    "mount(8) and FUSE (allow_other, auto_unmount, nosuid, noatime, ...); uid=N and gid=N.\n"
    "Unmount with 'fusermount3 -u MOUNTPOINT' or 'umount MOUNTPOINT'.\n";

const struct tp_program tp_mount_program = {
    .name = "tensorport-mount",
    .arguments = "SOURCE MOUNTPOINT",
    .summary = "Shows a Hugging Face checkpoint (safetensors in BF16, MXFP4, ...) as .npy files,\n"
               "decoded when they are read.",
    .options = mount_options,
    .notes = notes,
};

/* Words of -o that the kernel or fusermount3 understands. */
static const char *const kernel_words[] = {
    "allow_other", "allow_root",  "auto_unmount", "default_permissions",
    "ro",          "suid",        "nosuid",       "dev",
    "nodev",       "exec",        "noexec",       "atime",
    "noatime",     "sync",        "async",        "dirsync",
    "fsname=",     "subtype=",    "max_read=",    "context=",
    "fscontext=",  "defcontext=", "rootcontext=",
};

/* Words of -o that mean something to mount(8), systemd or fstab only. `rw` comes with every
 * mount(8) that was not told otherwise; the view is read-only all the same. */
static const char *const ignored_words[] = {
    "rw",         "defaults",    "auto",       "noauto",   "user",     "user=",
    "nouser",     "users",       "nousers",    "owner",    "group",    "_netdev",
    "nofail",     "relatime",    "norelatime", "diratime", "lazytime", "nolazytime",
    "nodiratime", "strictatime", "x-",         "comment=",
};

static bool is_listed(const char *word, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t length = strlen(list[i]);
        bool is_prefix = list[i][length - 1] == '=' || list[i][length - 1] == '-';
        if (is_prefix ? strncmp(word, list[i], length) == 0 : strcmp(word, list[i]) == 0)
            return true;
    }
    return false;
}

static int out_of_memory(struct tp_error *error)
{
    return tp_error_set(error, -ENOMEM, "out of memory");
}

/* Joins the words again, with the escapes that fuse_opt takes away once more. */
static int add_kernel_option(struct tp_mount_options *options, const char *word,
                             struct tp_error *error)
{
    const char *before = options->kernel_options != NULL ? options->kernel_options : "";
    char *joined = malloc(strlen(before) + 1 + 2 * strlen(word) + 1);
    if (joined == NULL)
        return out_of_memory(error);
    char *to = stpcpy(joined, before);
    if (to > joined)
        *to++ = ',';
    for (; *word != '\0'; word++) {
        if (*word == ',' || *word == '\\')
            *to++ = '\\';
        *to++ = *word;
    }
    *to = '\0';
    free(options->kernel_options);
    options->kernel_options = joined;
    return 0;
}

static int handle_number(const char *value, uint64_t minimum, uint64_t maximum,
                         unsigned *ret_number, struct tp_error *error)
{
    uint64_t number;
    int rc = tp_parse_unsigned(value, minimum, maximum, &number, error);
    if (rc == 0)
        *ret_number = (unsigned)number;
    return rc;
}

static int parse_mount_words(struct tp_mount_options *options, const char *list,
                             struct tp_error *error);

static int handle(void *context, const struct tp_option *option, const char *value,
                  struct tp_error *error)
{
    struct tp_mount_options *options = context;
    const char *name = option->name;
    bool known;
    int rc = tp_view_arguments_handle(&options->view, name, value, &known, error);
    if (known || rc < 0)
        return rc;
    rc = tp_serve_arguments_handle(&options->serve, name, value, &known, error);
    if (known || rc < 0)
        return rc;
    if (strcmp(name, "idle-timeout") == 0) {
        rc = handle_number(value, 0, IDLE_TIMEOUT_MAX, &options->idle_timeout, error);
    } else if (strcmp(name, "replace") == 0) {
        options->replace = true;
    } else if (strcmp(name, "foreground") == 0) {
        options->foreground = true;
    } else {
        rc = parse_mount_words(options, value, error);
    }
    return rc;
}

/* One of our own long options as a word of -o: '_' for '-', value behind '='. */
static int handle_own_word(struct tp_mount_options *options, char *word, bool *ret_known,
                           struct tp_error *error)
{
    char name[64];
    size_t length = strcspn(word, "=");
    const char *value = word[length] == '=' ? word + length + 1 : NULL;
    *ret_known = false;
    if (length >= sizeof name)
        return 0;
    for (size_t i = 0; i < length; i++)
        name[i] = word[i] == '_' ? '-' : word[i];
    name[length] = '\0';
    for (const struct tp_option *option = mount_options; option->name != NULL; option++) {
        if (strcmp(option->name, name) != 0 || strcmp(name, "options") == 0)
            continue;
        *ret_known = true;
        if ((value == NULL) != (option->argument == NULL))
            return tp_error_set(error, -EINVAL,
                                value == NULL ? "%s needs a value" : "%s takes no value", name);
        int rc = handle(options, option, value, error);
        return rc < 0 ? tp_error_prefix(error, rc, "%s", name) : 0;
    }
    return 0;
}

static int handle_word(struct tp_mount_options *options, char *word, struct tp_error *error)
{
    bool known;
    int rc = handle_own_word(options, word, &known, error);
    if (known || rc < 0)
        return rc;
    if (strncmp(word, "max_read=", 9) == 0)
        rc = handle_number(word + 9, 4096, 1 << 20, &options->max_read, error);
    if (rc < 0)
        return tp_error_prefix(error, rc, "max_read");
    if (is_listed(word, kernel_words, sizeof kernel_words / sizeof *kernel_words))
        return add_kernel_option(options, word, error);
    if (is_listed(word, ignored_words, sizeof ignored_words / sizeof *ignored_words))
        return 0;
    if (strncmp(word, "uid=", 4) == 0)
        return handle_number(word + 4, 0, UINT32_MAX - 1, &options->user, error);
    if (strncmp(word, "gid=", 4) == 0)
        return handle_number(word + 4, 0, UINT32_MAX - 1, &options->group, error);
    if (strcmp(word, "debug") == 0) {
        options->debug = options->foreground = true;
        return 0;
    }
    return tp_error_set(error, -EINVAL,
                        "unknown mount option \"%s\"; see 'tensorport-mount --help'", word);
}

/* Commas separate; "\," is a comma inside a value, as in fuse_opt. */
static int parse_mount_words(struct tp_mount_options *options, const char *list,
                             struct tp_error *error)
{
    char *copy = strdup(list);
    char **words = realloc(options->words, (options->n_words + 1) * sizeof *words);
    if (words != NULL)
        options->words = words;
    if (copy == NULL || words == NULL) {
        free(copy);
        return out_of_memory(error);
    }
    options->words[options->n_words++] = copy;
    const char *from = copy;
    char *to = copy, *word = copy;
    for (bool more = true; more;) {
        if (from[0] == '\\' && from[1] != '\0') {
            *to++ = from[1];
            from += 2;
            continue;
        }
        if (*from != ',' && *from != '\0') {
            *to++ = *from++;
            continue;
        }
        more = *from++ == ',';
        *to++ = '\0';
        int rc = *word == '\0' ? 0 : handle_word(options, word, error);
        if (rc < 0)
            return rc;
        word = to;
    }
    return 0;
}

int tp_mount_options_parse(int argc, char **argv, struct tp_mount_options *ret_options,
                           enum tp_options_result *ret_result, struct tp_error *error)
{
    struct tp_mount_options options = {
        .user = getuid(),
        .group = getgid(),
    };
    int n = 0;
    char **arguments = NULL;
    tp_view_arguments_init(&options.view);
    tp_serve_arguments_init(&options.serve);
    int rc = tp_options_parse(&tp_mount_program, argc, argv, handle, &options, ret_result, &n,
                              &arguments, error);
    if (rc == 0 && *ret_result == TP_OPTIONS_RUN && n != 2)
        rc = tp_error_set(error, -EINVAL,
                          "expected SOURCE and MOUNTPOINT, found %d argument%s; see '%s --help'", n,
                          n == 1 ? "" : "s", tp_mount_program.name);
    if (rc < 0 || *ret_result == TP_OPTIONS_DONE) {
        tp_mount_options_clear(&options);
        return rc;
    }
    options.source = arguments[0];
    options.mount_point = arguments[1];
    *ret_options = options;
    return 0;
}

void tp_mount_options_clear(struct tp_mount_options *options)
{
    for (size_t i = 0; i < options->n_words; i++)
        free(options->words[i]);
    free(options->words);
    tp_view_arguments_clear(&options->view);
    free(options->kernel_options);
}
