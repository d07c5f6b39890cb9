/* `tensorport COMMAND ...`: picks the command. */
#include <stdio.h>
#include <string.h>

#include "config.h"
#include "fs/export/commands.h"

/* In the order of --help; a line without a command is a heading there. */
static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    {NULL, NULL, "Look at a checkpoint"},
    {"inspect", tp_command_inspect, "list the tensors of a checkpoint"},
    {NULL, NULL, "Mount it (to leave it mounted: tensorport-mount)"},
    {"run", tp_command_run, "run a command with a checkpoint mounted for it"},
    {"mounts", tp_command_mounts, "list what is mounted"},
    {"umount", tp_command_umount, "unmount checkpoints, dead mounts included"},
    {NULL, NULL, "Write it as files, or make one"},
    {"convert", tp_command_convert, "write a checkpoint as .npy and other files"},
    {"pack", tp_command_pack, "compress a checkpoint, without loss, so that it can still be used"},
    {"unpack", tp_command_unpack, "restore what was packed"},
    {"synth", tp_command_synth, "write a synthetic checkpoint, to try things with"},
    {NULL, NULL, "When something is wrong"},
    {"verify", tp_command_verify, "check what convert wrote, a copy of a mount, or a mount"},
    {"doctor", tp_command_doctor, "find what is wrong on this machine, and what helps"},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_help(void)
{
    printf("Usage: tensorport COMMAND [ARGUMENT...]\n"
           "Works with Hugging Face checkpoints and shows them as .npy files.\n");
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (commands[i].name == NULL)
            printf("\n%s:\n", commands[i].summary);
        else
            printf("  %-10s %s\n", commands[i].name, commands[i].summary);
    }
    printf("\n'tensorport COMMAND --help' tells more.\n");
}

int main(int argc, char **argv)
{
    const char *word = argc < 2 ? NULL : argv[1];
    if (word == NULL) {
        fprintf(stderr, "tensorport: expected a command; see 'tensorport --help'\n");
        return 2;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        print_help();
        return 0;
    }
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        printf("tensorport %s\n", PACKAGE_VERSION);
        return 0;
    }
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (commands[i].name != NULL && strcmp(word, commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "tensorport: unknown command %s; see 'tensorport --help'\n", word);
    return 2;
}
