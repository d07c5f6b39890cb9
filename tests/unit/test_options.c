/* Command lines: the general parser (fs/base/options.h) and that of tensorport-mount with its
 * -o lists (fs/mount/options.h). Every mistake is one line that says what to do. */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/options.h"
#include "fs/mount/options.h"

enum { ARGUMENTS_MAX = 32 };

static bool contains(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

/* A message is one line; the program's name is not in front: main() prints that. */
static void check_message(const struct tp_error *error, const char *part)
{
    cr_expect_null(strchr(error->text, '\n'), "%s", error->text);
    cr_expect(contains(error->text, part), "expected \"%s\" in: %s", part, error->text);
}

/* ---- values ---- */

static void check_size(const char *text, uint64_t expected)
{
    uint64_t bytes = 7;
    struct tp_error error;
    cr_expect_eq(tp_parse_size(text, &bytes, &error), 0, "%s", text);
    cr_expect_eq(bytes, expected, "%s: %" PRIu64, text, bytes);
}

static void check_bad_size(const char *text)
{
    uint64_t bytes = 7;
    struct tp_error error;
    cr_expect_eq(tp_parse_size(text, &bytes, &error), -EINVAL, "%s", text);
    cr_expect_eq(bytes, 7, "%s: untouched", text);
    check_message(&error, "256M");
    check_message(&error, text);
}

Test(sizes, with_every_suffix)
{
    check_size("0", 0);
    check_size("1", 1);
    check_size("4096B", 4096);
    check_size("1K", 1024);
    check_size("1k", 1024);
    check_size("1KiB", 1024);
    check_size("1KB", 1000);
    check_size("256M", UINT64_C(256) << 20);
    check_size("3MiB", UINT64_C(3) << 20);
    check_size("3MB", 3000000);
    check_size("1.5G", UINT64_C(3) << 29);
    check_size("2GiB", UINT64_C(2) << 30);
    check_size("1.8GB", 1800000000);
    check_size("1T", UINT64_C(1) << 40);
    check_size("1TiB", UINT64_C(1) << 40);
    check_size("2tb", UINT64_C(2000000000000));
    check_size("0.5", 0);
    check_size("8388607T", UINT64_C(8388607) << 40);
}

Test(sizes, that_are_none)
{
    static const char *const bad[] = {
        "",         "-1",
        "+1",       " 1",
        "1 ",       "1 M",
        "M",        "x",
        "1X",       "1MM",
        "1.5.5",    "nan",
        "inf",      "0x10",
        "1e400",    "1M\n",
        "1,5",      "99999999999999T",
        "8388608T", "9223372036854775808",
        "-0",       "1\xC2\xB5",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint64_t bytes = 7;
        struct tp_error error;
        cr_expect_eq(tp_parse_size(bad[i], &bytes, &error), -EINVAL, "%s", bad[i]);
        cr_expect_eq(bytes, 7);
        check_message(&error, "256M");
    }
    check_bad_size("12Q");
}

Test(numbers, from_minimum_to_maximum)
{
    uint64_t value = 7;
    struct tp_error error;
    cr_assert_eq(tp_parse_unsigned("10", 10, 20, &value, &error), 0);
    cr_assert_eq(value, 10);
    cr_assert_eq(tp_parse_unsigned("20", 10, 20, &value, &error), 0);
    cr_assert_eq(value, 20);
    cr_assert_eq(tp_parse_unsigned("18446744073709551615", 0, UINT64_MAX, &value, &error), 0);
    cr_assert_eq(value, UINT64_MAX);
    static const char *const bad[] = {"9",   "21",  "",     "-10", "+10", " 10",
                                      "0xF", "10 ", "10.0", "1e1", "x",   "18446744073709551616"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        value = 7;
        cr_expect_eq(tp_parse_unsigned(bad[i], 10, 20, &value, &error), -EINVAL, "%s", bad[i]);
        cr_expect_eq(value, 7);
        check_message(&error, "from 10 to 20");
        check_message(&error, bad[i]);
    }
}

Test(choices, are_exact)
{
    static const char *const choices[] = {"red", "green", NULL};
    size_t index = 7;
    struct tp_error error;
    cr_assert_eq(tp_parse_choice("green", choices, &index, &error), 0);
    cr_assert_eq(index, 1);
    static const char *const bad[] = {"", "gree", "greens", "Green", "red,green"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        index = 7;
        cr_expect_eq(tp_parse_choice(bad[i], choices, &index, &error), -EINVAL);
        cr_expect_eq(index, 7);
        check_message(&error, "expected one of red, green, found");
        check_message(&error, bad[i]);
    }
}

/* ---- the general parser ---- */

static const struct tp_option options[] = {
    {"size", 's', "SIZE", "how large"},
    {"color", 0, "NAME", "which"},
    {"draft", 'd', "[=N]", "some, or N"},
    {"verbose", 'v', NULL, "say more\non two lines"},
    {"very-long-name-of-an-option", 0, "VALUE", "fills the left column"},
    {NULL, 0, NULL, NULL},
};

static const struct tp_program program = {"prog", "INPUT", "Does it.", options, "The end.\n"};

struct run {
    char seen[512]; /* "name=value;" for each option handled */
    enum tp_options_result result;
    int argc;
    char **argv;
    struct tp_error error;
    char *arguments[ARGUMENTS_MAX];
};

static int note(void *context, const struct tp_option *option, const char *value,
                struct tp_error *error)
{
    struct run *run = context;
    size_t at = strlen(run->seen);
    snprintf(run->seen + at, sizeof run->seen - at, "%s=%s;", option->name,
             value != NULL ? value : "-");
    if (value != NULL && strcmp(value, "bad") == 0)
        return tp_error_set(error, -EINVAL, "expected good, found \"bad\"");
    return 0;
}

/* Splits at blanks; argv[0] comes first. */
static int split(char *line, char **ret_arguments)
{
    int n = 0;
    ret_arguments[n++] = (char *)"prog";
    for (char *word = strtok(line, " "); word != NULL && n < ARGUMENTS_MAX - 1;
         word = strtok(NULL, " "))
        ret_arguments[n++] = word;
    ret_arguments[n] = NULL;
    return n;
}

static int parse(struct run *run, char *line)
{
    *run = (struct run){.argc = -1};
    int n = split(line, run->arguments);
    return tp_options_parse(&program, n, run->arguments, note, run, &run->result, &run->argc,
                            &run->argv, &run->error);
}

static void check_parse(const char *line, const char *seen, const char *rest)
{
    char copy[256], joined[256] = "";
    struct run run;
    strcpy(copy, line);
    cr_expect_eq(parse(&run, copy), 0, "%s: %s", line, run.error.text);
    cr_expect_eq(run.result, TP_OPTIONS_RUN);
    cr_expect_str_eq(run.seen, seen, "%s: %s", line, run.seen);
    for (int i = 0; i < run.argc; i++) {
        strcat(joined, i > 0 ? " " : "");
        strcat(joined, run.argv[i]);
    }
    cr_expect_str_eq(joined, rest, "%s: %s", line, joined);
}

Test(options, in_every_form)
{
    check_parse("", "", "");
    check_parse("a b", "", "a b");
    check_parse("--size=5 a", "size=5;", "a");
    check_parse("--size 5 a", "size=5;", "a");
    check_parse("-s5 a", "size=5;", "a");
    check_parse("-s 5 a", "size=5;", "a");
    check_parse("-vs5 -v", "verbose=-;size=5;verbose=-;", "");
    check_parse("--size= a", "size=;", "a");
    check_parse("--size=a=b", "size=a=b;", "");
    check_parse("--size=1 --size=2", "size=1;size=2;", "");
    check_parse("--col=red", "color=red;", "");
    check_parse("--size -v", "size=-v;", "");
    check_parse("--draft 5", "draft=-;", "5");
    check_parse("--draft=5 -d -d6 a", "draft=5;draft=-;draft=6;", "a");
}

Test(options, may_stand_behind_arguments)
{
    check_parse("a --size=5 b -v c", "size=5;verbose=-;", "a b c");
    check_parse("a - b", "", "a - b");
}

Test(options, end_at_two_dashes)
{
    check_parse("-v -- --size=5 -v", "verbose=-;", "--size=5 -v");
    check_parse("a -- -b", "", "a -b");
    check_parse("--", "", "");
    check_parse("-- --", "", "--");
}

/* The parser starts afresh each time. */
Test(options, can_be_parsed_again)
{
    check_parse("a --size=5 b", "size=5;", "a b");
    check_parse("--size=6 c", "size=6;", "c");
}

static void check_mistake(const char *line, const char *part)
{
    char copy[256];
    struct run run;
    strcpy(copy, line);
    cr_expect_eq(parse(&run, copy), -EINVAL, "%s", line);
    check_message(&run.error, part);
    cr_expect_eq(run.argc, -1, "untouched");
}

Test(options, that_are_unknown)
{
    check_mistake("--nope", "--nope; see 'prog --help'");
    check_mistake("a --nope b", "--nope; see 'prog --help'");
    check_mistake("--nope=5", "--nope=5; see 'prog --help'");
    check_mistake("--ver", "--ver; see 'prog --help'"); /* verbose, version, very-... */
    check_mistake("-x", "-x; see 'prog --help'");
    check_mistake("-vx", "-x; see 'prog --help'");
    check_mistake("-xv", "-x; see 'prog --help'");
    check_mistake("--size=5 -xv", "-x; see 'prog --help'");
    check_mistake("--verbose -xv", "-x; see 'prog --help'");
    check_mistake("a=b -xv", "-x; see 'prog --help'");
}

Test(options, whose_values_are_wrong)
{
    check_mistake("--size", "--size needs a value; see 'prog --help'");
    check_mistake("a --color", "--color needs a value; see 'prog --help'");
    check_mistake("-s", "-s needs a value; see 'prog --help'");
    check_mistake("--verbose=5", "--verbose=5; see 'prog --help'");
    check_mistake("--help=5", "--help=5; see 'prog --help'");
    check_mistake("--size=bad", "--size: expected good, found \"bad\"");
    check_mistake("-s bad", "--size: expected good, found \"bad\"");
}

/* Control characters of the command line do not break the line. */
Test(options, with_newlines_give_one_line)
{
    check_mistake("--no\npe", "--no\\x0ape");
    check_mistake("--verbose=a\nb", "a\\x0ab");
}

static void read_stdout(char *text, size_t size)
{
    fflush(stdout);
    FILE *stream = cr_get_redirected_stdout();
    size_t n = fread(text, 1, size - 1, stream);
    text[n] = '\0';
}

static void check_done(const char *line)
{
    char copy[256];
    struct run run;
    strcpy(copy, line);
    cr_assert_eq(parse(&run, copy), 0);
    cr_assert_eq(run.result, TP_OPTIONS_DONE);
}

Test(options, help_names_them_all, .init = cr_redirect_stdout)
{
    char text[4096];
    check_done("--help --nope");
    read_stdout(text, sizeof text);
    cr_expect(contains(text, "Usage: prog [OPTION...] INPUT\nDoes it.\n"));
    cr_expect(contains(text, "  -s, --size=SIZE             how large\n"));
    cr_expect(contains(text, "      --color=NAME            which\n"));
    cr_expect(contains(text, "  -d, --draft[=N]             some, or N\n"));
    cr_expect(contains(text, "  -v, --verbose               say more\n"
                             "                              on two lines\n"));
    cr_expect(contains(text, "--very-long-name-of-an-option=VALUE\n"
                             "                              fills the left column\n"));
    cr_expect(contains(text, "-h, --help "));
    cr_expect(contains(text, "-V, --version "));
    cr_expect(contains(text, "\nThe end.\n"));
}

Test(options, version_is_one_line, .init = cr_redirect_stdout)
{
    char text[256];
    check_done("-V");
    read_stdout(text, sizeof text);
    cr_expect_eq(strncmp(text, "prog ", 5), 0, "%s", text);
    cr_expect_eq(strchr(text, '\n'), text + strlen(text) - 1);
}

/* ---- tensorport-mount ---- */

struct mount_run {
    struct tp_mount_options options;
    enum tp_options_result result;
    struct tp_error error;
    char line[1024];
    char *arguments[ARGUMENTS_MAX];
};

static int parse_mount(struct mount_run *run, const char *line)
{
    memset(run, 0, sizeof *run);
    snprintf(run->line, sizeof run->line, "%s", line);
    int n = split(run->line, run->arguments);
    return tp_mount_options_parse(n, run->arguments, &run->options, &run->result, &run->error);
}

static void parse_good(struct mount_run *run, const char *line)
{
    int rc = parse_mount(run, line);
    cr_assert_eq(rc, 0, "%s: %s", line, run->error.text);
    cr_assert_eq(run->result, TP_OPTIONS_RUN);
}

static void check_mount_mistake(const char *line, const char *part)
{
    struct mount_run run;
    cr_expect_eq(parse_mount(&run, line), -EINVAL, "%s", line);
    check_message(&run.error, part);
}

Test(mount_options, defaults)
{
    struct mount_run run;
    parse_good(&run, "SRC MNT");
    const struct tp_mount_options *o = &run.options;
    cr_expect_str_eq(o->source, "SRC");
    cr_expect_str_eq(o->mount_point, "MNT");
    cr_expect_eq(o->view.view.precision, TP_PRECISION_FLOAT32);
    cr_expect_not(o->view.view.packed);
    cr_expect_eq(o->view.view.shard_size, 1800000000);
    cr_expect_eq(o->view.view.n_include + o->view.view.n_exclude, 0);
    cr_expect_eq(o->serve.cache_size, UINT64_C(256) << 20);
    cr_expect_eq(o->serve.threads, 10);
    cr_expect_eq(o->idle_timeout, 0);
    cr_expect_eq(o->serve.log_level, TP_LOG_WARNING);
    cr_expect_not(o->foreground || o->serve.direct_io || o->replace || o->debug);
    cr_expect_eq(o->user, getuid());
    cr_expect_eq(o->group, getgid());
    cr_expect_null(o->kernel_options);
    tp_mount_options_clear(&run.options);
}

static void check_all_set(const struct tp_mount_options *o)
{
    const struct tp_view_options *view = &o->view.view;
    cr_expect_eq(view->precision, TP_PRECISION_FLOAT16);
    cr_expect(view->packed);
    cr_expect_eq(view->shard_size, 500000000);
    cr_assert_eq(view->n_include, 2);
    cr_expect_str_eq(view->include[0], "*.weight");
    cr_expect_str_eq(view->include[1], "lm_head*");
    cr_assert_eq(view->n_exclude, 1);
    cr_expect_str_eq(view->exclude[0], "*bias");
    cr_expect_eq(o->serve.cache_size, UINT64_C(8) << 20);
    cr_expect_eq(o->serve.threads, 3);
    cr_expect_eq(o->idle_timeout, 60);
    cr_expect_eq(o->serve.log_level, TP_LOG_DEBUG);
    cr_expect(o->foreground && o->serve.direct_io && o->replace);
}

Test(mount_options, all_as_long_options)
{
    struct mount_run run;
    parse_good(&run, "--precision=float16 SRC --mxfp4 packed --shard-size=0.5 --include *.weight "
                     "--include=lm_head* --exclude=*bias --cache-size=8M --threads=3 MNT "
                     "--direct-io --replace --idle-timeout=60 --log-level=debug --foreground");
    check_all_set(&run.options);
    tp_mount_options_clear(&run.options);
}

Test(mount_options, all_as_words_of_o)
{
    struct mount_run run;
    parse_good(&run, "SRC MNT -o precision=float16,mxfp4=packed,shard_size=0.5,include=*.weight "
                     "-o include=lm_head*,exclude=*bias,cache_size=8M,threads=3,direct_io "
                     "-o replace,idle_timeout=60,log_level=debug,foreground");
    check_all_set(&run.options);
    cr_expect_null(run.options.kernel_options);
    tp_mount_options_clear(&run.options);
}

Test(mount_options, short_forms_and_dashes)
{
    struct mount_run run;
    parse_good(&run,
               "-f -pfloat16 -s0.5 -c8M -t3 SRC MNT -odirect-io,log-level=debug,,replace,"
               "idle-timeout=60,mxfp4=packed,include=*.weight,include=lm_head*,exclude=*bias");
    check_all_set(&run.options);
    tp_mount_options_clear(&run.options);
}

Test(mount_options, last_value_wins)
{
    struct mount_run run;
    parse_good(&run, "-o precision=float16 --precision=bfloat16 SRC MNT -o cache_size=1M,"
                     "cache_size=0");
    cr_expect_eq(run.options.view.view.precision, TP_PRECISION_BFLOAT16);
    cr_expect_eq(run.options.serve.cache_size, 0);
    tp_mount_options_clear(&run.options);
}

Test(mount_options, commas_and_backslashes_are_escaped)
{
    struct mount_run run;
    parse_good(&run, "SRC MNT -o include=a\\,b\\\\c,exclude=d\\e");
    cr_expect_str_eq(run.options.view.view.include[0], "a,b\\c");
    cr_expect_str_eq(run.options.view.view.exclude[0], "de");
    tp_mount_options_clear(&run.options);
    parse_good(&run, "SRC MNT -o include=a\\"); /* nothing behind it: itself */
    cr_expect_str_eq(run.options.view.view.include[0], "a\\");
    tp_mount_options_clear(&run.options);
    parse_good(&run, "SRC MNT --include=a\\,b,c"); /* no list: taken as it is */
    cr_expect_str_eq(run.options.view.view.include[0], "a\\,b,c");
    tp_mount_options_clear(&run.options);
}

static void check_kernel_options(const char *line, const char *expected)
{
    struct mount_run run;
    parse_good(&run, line);
    if (expected == NULL)
        cr_expect_null(run.options.kernel_options, "%s", line);
    else
        cr_expect_str_eq(run.options.kernel_options, expected, "%s", line);
    tp_mount_options_clear(&run.options);
}

Test(mount_options, kernel_words_are_passed_on)
{
    check_kernel_options("SRC MNT -o allow_other", "allow_other");
    check_kernel_options("SRC MNT -o allow_other,precision=float16,noatime -o nosuid,nodev",
                         "allow_other,noatime,nosuid,nodev");
    check_kernel_options("SRC MNT -o auto_unmount,dev,suid,exec,max_read=131072",
                         "auto_unmount,dev,suid,exec,max_read=131072");
    check_kernel_options("SRC MNT -o fsname=a=b", "fsname=a=b");
}

/* fuse_opt takes them apart again. */
Test(mount_options, kernel_words_keep_their_escapes)
{
    check_kernel_options("SRC MNT -o fsname=a\\,b\\\\c,nodev", "fsname=a\\,b\\\\c,nodev");
}

Test(mount_options, words_of_fstab_are_ignored)
{
    check_kernel_options("SRC MNT -o defaults,rw,nofail,_netdev,noauto,user,users,nouser,owner,"
                         "group,relatime,lazytime,x-systemd.automount,x-gvfs-show,"
                         "x-systemd.mount-timeout=5,comment=x=y",
                         NULL);
    check_kernel_options("SRC MNT -o user=alice", NULL); /* what mount(8) makes of `user` */
    check_kernel_options("SRC MNT -o ,,, -o ,", NULL);
}

Test(mount_options, owner_of_the_files)
{
    struct mount_run run;
    parse_good(&run, "SRC MNT -o uid=1000,gid=4294967294");
    cr_expect_eq(run.options.user, 1000);
    cr_expect_eq(run.options.group, 4294967294);
    tp_mount_options_clear(&run.options);
    check_mount_mistake("SRC MNT -o uid=", "expected a whole number");
    check_mount_mistake("SRC MNT -o uid=root", "expected a whole number");
    check_mount_mistake("SRC MNT -o gid=4294967295", "expected a whole number");
}

Test(mount_options, debug_stays_in_the_foreground)
{
    struct mount_run run;
    parse_good(&run, "SRC MNT -o debug");
    cr_expect(run.options.debug && run.options.foreground);
    tp_mount_options_clear(&run.options);
}

Test(mount_options, unknown_words_are_refused)
{
    check_mount_mistake("SRC MNT -o nope", "unknown mount option \"nope\"; see");
    check_mount_mistake("SRC MNT -o direct_io,nope,replace", "\"nope\"");
    check_mount_mistake("SRC MNT -o nope=5", "\"nope=5\"");
    check_mount_mistake("SRC MNT -o allow_othe", "\"allow_othe\"");
    check_mount_mistake("SRC MNT -o allow_other2", "\"allow_other2\"");
    check_mount_mistake("SRC MNT -o Direct_io", "\"Direct_io\"");
    check_mount_mistake("SRC MNT -o options=direct_io", "\"options=direct_io\"");
    check_mount_mistake("SRC MNT -o =5", "\"=5\"");
    check_mount_mistake("SRC MNT -o a\\,b", "\"a,b\"");
    check_mount_mistake("SRC MNT -o no\npe", "\"no\\x0ape\"");
}

Test(mount_options, values_are_checked_in_both_forms)
{
    static const struct {
        const char *name, *word, *bad, *part;
    } cases[] = {
        {"precision", "precision", "float64", "float32, float16, bfloat16, source"},
        {"mxfp4", "mxfp4", "raw", "decode, packed"},
        {"shard-size", "shard_size", "0", "above 0"},
        {"shard-size", "shard_size", "-1", "decimal GB such as 1.8"},
        {"shard-size", "shard_size", "x", "decimal GB such as 1.8"},
        {"cache-size", "cache_size", "many", "a size such as 256M"},
        {"cache-size", "cache_size", "65T", "at most 64T"},
        {"threads", "threads", "0", "from 1 to 256"},
        {"threads", "threads", "257", "from 1 to 256"},
        {"idle-timeout", "idle_timeout", "604801", "from 0 to 604800"},
        {"log-level", "log_level", "loud", "error, warning, info, debug"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[256];
        snprintf(line, sizeof line, "SRC MNT --%s=%s", cases[i].name, cases[i].bad);
        check_mount_mistake(line, cases[i].part);
        check_mount_mistake(line, cases[i].bad);
        check_mount_mistake(line, cases[i].name);
        snprintf(line, sizeof line, "SRC MNT -o %s=%s", cases[i].word, cases[i].bad);
        check_mount_mistake(line, cases[i].part);
        check_mount_mistake(line, cases[i].name);
        snprintf(line, sizeof line, "SRC MNT -o %s", cases[i].word);
        check_mount_mistake(line, "needs a value");
    }
    check_mount_mistake("SRC MNT -o direct_io=1", "direct-io takes no value");
    check_mount_mistake("SRC MNT -o replace=", "replace takes no value");
}

Test(mount_options, shard_sizes)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {{"1.8", 1800000000}, {"2", 2000000000},   {"0.001", 1000000},
                 {"64M", 64 << 20},   {"5GB", 5000000000}, {"1G", 1 << 30}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[64];
        struct mount_run run;
        snprintf(line, sizeof line, "SRC MNT -s %s", cases[i].text);
        parse_good(&run, line);
        cr_expect_eq(run.options.view.view.shard_size, cases[i].bytes, "%s", line);
        tp_mount_options_clear(&run.options);
    }
}

/* However many digits: the value, or a refusal, but never another value. */
Test(mount_options, shard_size_of_many_digits)
{
    char line[256] = "SRC MNT -s 2.";
    struct mount_run run;
    memset(line + strlen(line), '0', 100);
    if (parse_mount(&run, line) == 0) {
        cr_expect_eq(run.options.view.view.shard_size, 2000000000);
        tp_mount_options_clear(&run.options);
    }
}

Test(mount_options, two_arguments_are_expected)
{
    check_mount_mistake("", "expected SOURCE and MOUNTPOINT, found 0 arguments; see");
    check_mount_mistake("SRC", "found 1 argument;");
    check_mount_mistake("SRC MNT MORE", "found 3 arguments;");
    check_mount_mistake("-o allow_other SRC", "found 1 argument;");
    check_mount_mistake("SRC MNT -o", "-o needs a value");
}

Test(mount_options, two_dashes_allow_any_path)
{
    struct mount_run run;
    parse_good(&run, "--direct-io -- -src --mnt");
    cr_expect_str_eq(run.options.source, "-src");
    cr_expect_str_eq(run.options.mount_point, "--mnt");
    tp_mount_options_clear(&run.options);
}

Test(mount_options, help_names_them_all, .init = cr_redirect_stdout)
{
    char text[8192];
    struct mount_run run;
    cr_assert_eq(parse_mount(&run, "--help"), 0);
    cr_assert_eq(run.result, TP_OPTIONS_DONE);
    read_stdout(text, sizeof text);
    for (const struct tp_option *option = tp_mount_program.options; option->name != NULL;
         option++) {
        char name[64];
        snprintf(name, sizeof name, "--%s", option->name);
        cr_expect(contains(text, name), "%s", name);
    }
    cr_expect(contains(text, "fusermount3 -u MOUNTPOINT"));
}
