/* `tensorport COMMAND ...`: picks the command. */
#include <stdio.h>
#include <string.h>

#include "config.h"
#include "fs/export/commands.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    {"convert", tp_command_convert, "write a checkpoint as .npy and other files"},
    {"inspect", tp_command_inspect, "list the tensors of a checkpoint"},
    {"synth", tp_command_synth, "write a synthetic checkpoint, to try things with"},
};

static void print_help(void)
{
    printf("Usage: tensorport COMMAND [ARGUMENT...]\n"
           "Looks into Hugging Face checkpoints and makes them.\n\n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        printf("  %-10s %s\n", commands[i].name, commands[i].summary);
    printf("\n'tensorport COMMAND --help' tells more. To mount a checkpoint: tensorport-mount.\n");
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
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(word, commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "tensorport: unknown command %s; see 'tensorport --help'\n", word);
    return 2;
}
