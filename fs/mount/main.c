#include <stdio.h>

#include "fs/mount/options.h"
#include "fs/mount/session.h"

int main(int argc, char **argv)
{
    struct tp_mount_options options;
    enum tp_options_result result;
    struct tp_error error;
    if (tp_mount_options_parse(argc, argv, &options, &result, &error) < 0) {
        fprintf(stderr, "%s: %s\n", tp_mount_program.name, error.text);
        return 2;
    }
    if (result == TP_OPTIONS_DONE)
        return 0;
    int status = tp_session_run(&options);
    tp_mount_options_clear(&options);
    return status;
}
