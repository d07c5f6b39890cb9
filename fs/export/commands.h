/* The commands of `tensorport`. Each gets its own argv (argv[0] is the command's name), prints
 * and returns the exit status: 0, 1 for failure, 2 for a mistake on the command line. */
#ifndef TENSORPORT_FS_EXPORT_COMMANDS_H
#define TENSORPORT_FS_EXPORT_COMMANDS_H

int tp_command_convert(int argc, char **argv);
int tp_command_doctor(int argc, char **argv);
int tp_command_inspect(int argc, char **argv);
int tp_command_mounts(int argc, char **argv);
int tp_command_pack(int argc, char **argv);
int tp_command_run(int argc, char **argv);
int tp_command_synth(int argc, char **argv);
int tp_command_umount(int argc, char **argv);
int tp_command_verify(int argc, char **argv);
int tp_command_unpack(int argc, char **argv);

#endif
