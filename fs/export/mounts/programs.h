/* Our other programs, and those of the system. */
#ifndef TENSORPORT_FS_EXPORT_MOUNTS_PROGRAMS_H
#define TENSORPORT_FS_EXPORT_MOUNTS_PROGRAMS_H

/* The path of `name`: beside this program, where both are installed together or lie in one build
 * folder; else where they were configured to go; else in PATH. The caller frees it; NULL when
 * there is none. */
char *tp_program_find(const char *name);

/* The same in PATH only, every folder of it below `root` (for tests; "" otherwise). The result is
 * the path without `root`. */
char *tp_program_find_in_path(const char *root, const char *name);

#endif
