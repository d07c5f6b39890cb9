/* The commands of `tpinfer`. Each gets its own argv (argv[0] is the command's name), prints and
 * returns the exit status: 0, 1 for failure, 2 for a mistake on the command line. */
#ifndef TENSORPORT_INFER_CLI_COMMANDS_H
#define TENSORPORT_INFER_CLI_COMMANDS_H

int tp_command_bench(int argc, char **argv);
int tp_command_chat(int argc, char **argv);
int tp_command_run(int argc, char **argv);
int tp_command_tokenize(int argc, char **argv);
int tp_command_trace(int argc, char **argv);
int tp_command_validate(int argc, char **argv);

#endif
