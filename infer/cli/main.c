/* `tpinfer COMMAND ...`: picks the command. */
#include <stdio.h>
#include <string.h>

#include "config.h"
#include "infer/cli/commands.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    {"bench", tp_command_bench, "measure how fast a model is computed"},
    {"chat", tp_command_chat, "have a conversation"},
    {"run", tp_command_run, "answer a prompt, or go on with a text"},
    {"tokenize", tp_command_tokenize, "turn text into token ids, and back"},
    {"trace", tp_command_trace, "write down what happens inside"},
    {"validate", tp_command_validate, "compare with a reference"},
};

static void print_help(void)
{
    printf("Usage: tpinfer COMMAND [ARGUMENT...]\n"
           "Runs the models that tensorport-mount shows.\n\n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        printf("  %-10s %s\n", commands[i].name, commands[i].summary);
    printf("\n'tpinfer COMMAND --help' tells more. To mount a checkpoint: tensorport-mount.\n");
}

int main(int argc, char **argv)
{
    const char *word = argc < 2 ? NULL : argv[1];
    if (word == NULL) {
        fprintf(stderr, "tpinfer: expected a command; see 'tpinfer --help'\n");
        return 2;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        print_help();
        return 0;
    }
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        printf("tpinfer %s\n", PACKAGE_VERSION);
        return 0;
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(word, commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "tpinfer: unknown command %s; see 'tpinfer --help'\n", word);
    return 2;
}
