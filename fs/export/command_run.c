/* `tensorport run`: a command with a mount of its own. The mount is the keeper's; this is about the
 * command line, the command's process and the signals.
 *
 * The command stays in the caller's process group and keeps the terminal, so that what the terminal
 * sends (Ctrl-C, Ctrl-Z, a hangup) reaches both; `run` then only waits, as a shell does. What
 * another process sends to `run` is handed on. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/base/options.h"
#include "fs/export/commands.h"
#include "fs/export/mounts/keeper.h"
#include "fs/export/mounts/programs.h"
#include "fs/view/arguments.h"

enum { STATUS_CANNOT_RUN = 126, STATUS_NOT_FOUND = 127, STATUS_SIGNAL = 128 };

struct command {
    struct tp_view_arguments view; /* only looked at: a mistake shows before anything is done */
    struct tp_serve_arguments serve;
    char **words; /* of tensorport-mount; owned, with room for all of argv and six more, NULL */
    size_t n_words;
    const char *model;
    char **argv;     /* of the command */
    sigset_t before; /* the caller's signal mask */
    struct sigaction child_action;
    int signals; /* signalfd */
    struct tp_keeper keeper;
};

static const struct tp_option options[] = {
    TP_VIEW_ARGUMENTS_TABLE,
    TP_SERVE_ARGUMENTS_TABLE,
    {NULL, 0, NULL, NULL},
};

static const struct tp_program program = {
    .name = "tensorport run",
    .arguments = "MODEL -- COMMAND [ARG...]",
    .summary =
        "Mounts a checkpoint, runs a command that finds it in $TENSORPORT_MNT, and unmounts\n"
        "it when the command has ended, however it did.",
    .options = options,
    .notes =
        "The exit status is the command's; 128+N if signal N ended it; 127 if there is no such\n"
        "command, 126 if it cannot be run; 1 if MODEL cannot be mounted.\n",
};

/* ---- the command line ---- */

static int add_word(struct command *command, char *word)
{
    if (word == NULL)
        return -ENOMEM;
    command->words[command->n_words++] = word;
    return 0;
}

/* Checked here, and handed on as it is. */
static int handle_option(void *context, const struct tp_option *option, const char *value,
                         struct tp_error *error)
{
    struct command *command = context;
    char *word = NULL;
    bool known;
    int rc = tp_view_arguments_handle(&command->view, option->name, value, &known, error);
    if (!known)
        rc = tp_serve_arguments_handle(&command->serve, option->name, value, &known, error);
    if (rc < 0)
        return rc;
    if (asprintf(&word, "--%s%s%s", option->name, value != NULL ? "=" : "",
                 value != NULL ? value : "") < 0)
        word = NULL;
    return add_word(command, word) < 0 ? tp_error_set(error, -ENOMEM, "out of memory") : 0;
}

/* Where "--" is, or argc. */
static int find_separator(int argc, char **argv)
{
    int at = 1;
    while (at < argc && strcmp(argv[at], "--") != 0)
        at++;
    return at;
}

static int parse(struct command *command, int argc, char **argv, enum tp_options_result *ret_result,
                 struct tp_error *error)
{
    int separator = find_separator(argc, argv), n;
    char **arguments;
    int rc = tp_options_parse(&program, separator, argv, handle_option, command, ret_result, &n,
                              &arguments, error);
    if (rc < 0 || *ret_result == TP_OPTIONS_DONE)
        return rc;
    if (separator + 1 >= argc)
        return tp_error_set(error, -EINVAL,
                            "expected MODEL -- COMMAND, found no %s; see '%s --help'",
                            separator == argc ? "\"--\"" : "COMMAND", program.name);
    if (n != 1)
        return tp_error_set(error, -EINVAL,
                            "expected one MODEL before \"--\", found %d; see '%s --help'", n,
                            program.name);
    command->model = arguments[0];
    command->argv = argv + separator + 1;
    return 0;
}

/* ---- the mount ---- */

static int start_mount(struct command *command, struct tp_error *error)
{
    static const char name[] = "tensorport-run-XXXXXX";
    char own[PATH_MAX], common[sizeof "/tmp/" + sizeof name];
    const char *runtime = getenv("XDG_RUNTIME_DIR"), *templates[] = {common, NULL, NULL};
    struct stat status;
    snprintf(common, sizeof common, "/tmp/%s", name);
    /* In the user's own folder for such things if there is one. */
    if (runtime != NULL && runtime[0] == '/' && stat(runtime, &status) == 0 &&
        status.st_uid == geteuid() &&
        snprintf(own, sizeof own, "%s/%s", runtime, name) < (int)sizeof own) {
        templates[0] = own;
        templates[1] = common;
    }
    char *path = tp_program_find("tensorport-mount");
    if (path == NULL)
        return tp_error_set(error, -ENOENT,
                            "tensorport-mount: not found beside tensorport nor in PATH; "
                            "see 'tensorport doctor'");
    command->words[0] = path;
    if (add_word(command, strdup("--")) < 0 || add_word(command, strdup(command->model)) < 0)
        return tp_error_set(error, -ENOMEM, "out of memory");
    return tp_keeper_start(command->words, command->n_words, templates, &command->before,
                           &command->keeper, error);
}

/* ---- signals ---- */

static const int forwarded[] = {SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};

/* Signals come through a descriptor from here on. Those that are ignored stay so: nohup. */
static int hold_signals(struct command *command, struct tp_error *error)
{
    sigset_t set;
    struct sigaction action;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    for (size_t i = 0; i < sizeof forwarded / sizeof *forwarded; i++) {
        if (sigaction(forwarded[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN)
            sigaddset(&set, forwarded[i]);
    }
    sigaction(SIGCHLD, &(struct sigaction){.sa_handler = SIG_DFL}, &command->child_action);
    sigprocmask(SIG_BLOCK, &set, &command->before);
    int fd = signalfd(-1, &set, SFD_CLOEXEC);
    if (fd < 0)
        return tp_error_set(error, -errno, "cannot wait for signals: %s", strerror(errno));
    command->signals = fd;
    return 0;
}

static int read_signal(const struct command *command, struct signalfd_siginfo *ret_information)
{
    ssize_t n;
    do
        n = read(command->signals, ret_information, sizeof *ret_information);
    while (n < 0 && errno == EINTR);
    return n == sizeof *ret_information ? 0 : -EIO;
}

/* ---- the command ---- */

__attribute__((noreturn)) static void become_command(const struct command *command, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* killed with SIGKILL, `run` takes its files with it */
    if (getppid() != parent)
        _exit(STATUS_SIGNAL + SIGTERM);
    sigaction(SIGCHLD, &command->child_action, NULL);
    sigprocmask(SIG_SETMASK, &command->before, NULL);
    execvp(command->argv[0], command->argv);
    int status = errno == ENOENT ? STATUS_NOT_FOUND : STATUS_CANNOT_RUN;
    struct tp_error text;
    tp_error_set(&text, 0, "%s: %s", command->argv[0], strerror(errno));
    fprintf(stderr, "%s: %s\n", program.name, text.text);
    _exit(status);
}

/* The exit status. */
static int run_command(const struct command *command)
{
    pid_t self = getpid(), child = fork();
    if (child < 0) {
        fprintf(stderr, "%s: cannot start a process: %s\n", program.name, strerror(errno));
        return 1;
    }
    if (child == 0)
        become_command(command, self);
    for (;;) {
        struct signalfd_siginfo information;
        int status;
        if (waitpid(child, &status, WNOHANG) == child && !WIFSTOPPED(status))
            return WIFSIGNALED(status) ? STATUS_SIGNAL + WTERMSIG(status) : WEXITSTATUS(status);
        if (read_signal(command, &information) == 0 && information.ssi_signo != SIGCHLD &&
            information.ssi_code <= 0) /* sent by a process, not by the terminal */
            kill(child, (int)information.ssi_signo);
    }
}

/* 0 when the mount is usable, else the exit status. */
static int wait_for_mount(struct command *command)
{
    for (;;) {
        struct signalfd_siginfo information;
        int status;
        struct pollfd wanted[] = {{.fd = command->keeper.reports, .events = POLLIN},
                                  {.fd = command->signals, .events = POLLIN}};
        if (poll(wanted, 2, -1) < 0)
            continue;
        if (wanted[0].revents != 0) {
            enum tp_keeper_news news = tp_keeper_read(&command->keeper, &status);
            if (news == TP_KEEPER_FAILED)
                return status;
            if (news == TP_KEEPER_READY)
                return 0;
            continue;
        }
        if (read_signal(command, &information) == 0 && information.ssi_signo != SIGCHLD)
            return STATUS_SIGNAL + (int)information.ssi_signo;
    }
}

static int run(struct command *command, struct tp_error *error)
{
    int rc = hold_signals(command, error);
    if (rc == 0)
        rc = start_mount(command, error);
    if (rc < 0)
        return 1;
    int status = wait_for_mount(command);
    if (status == 0 && setenv("TENSORPORT_MNT", command->keeper.mount_point, 1) < 0)
        status = tp_error_set(error, 1, "out of memory");
    if (status == 0)
        status = run_command(command);
    tp_keeper_end(&command->keeper);
    return status;
}

int tp_command_run(int argc, char **argv)
{
    struct command command = {.words = calloc((size_t)argc + 6, sizeof *command.words)};
    struct tp_error error = {""};
    enum tp_options_result result = TP_OPTIONS_DONE;
    int status = 0;
    if (command.words == NULL) {
        fprintf(stderr, "%s: out of memory\n", program.name);
        return 1;
    }
    command.n_words = 1; /* the program comes last */
    tp_view_arguments_init(&command.view);
    tp_serve_arguments_init(&command.serve);
    int rc = add_word(&command, strdup("--foreground"));
    if (rc < 0)
        tp_error_set(&error, rc, "out of memory");
    else
        rc = parse(&command, argc, argv, &result, &error);
    if (rc < 0)
        status = 2;
    else if (result == TP_OPTIONS_RUN)
        status = run(&command, &error);
    if (error.text[0] != '\0')
        fprintf(stderr, "%s: %s\n", program.name, error.text);
    for (size_t i = 0; i < command.n_words; i++)
        free(command.words[i]);
    free(command.words);
    tp_view_arguments_clear(&command.view);
    return status;
}
