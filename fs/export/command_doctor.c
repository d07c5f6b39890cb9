/* `tensorport doctor`: the command line of fs/export/doctor/doctor.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/options.h"
#include "fs/export/commands.h"
#include "fs/export/doctor/doctor.h"

static const struct tp_option options[] = {
    {"json", 'j', NULL, "print an object: findings, problems, warnings"},
    {NULL, 0, NULL, NULL},
};

static const struct tp_program program = {
    .name = "tensorport doctor",
    .arguments = "[MODEL|MOUNTPOINT]",
    .summary =
        "Finds what keeps mounts from working or makes them slow on this machine, and prints\n"
        "the command that helps. With an argument, looks at that checkpoint or mount too.",
    .options = options,
    .notes =
        "Each check prints a line that begins with ok:, warning: or problem:. The exit status\n"
        "is 0 if there is no problem, else 1.\n",
};

static int handle_option(void *context, const struct tp_option *option, const char *value,
                         struct tp_error *error)
{
    bool *as_json = context;
    (void)option;
    (void)value;
    (void)error;
    *as_json = true;
    return 0;
}

/* The mount of ours that the argument means, or NULL. Never touches it. */
static const struct tp_mount_entry *find_mount(const struct tp_doctor *doctor, const char *argument)
{
    char *path = tp_mounts_resolve(argument);
    const struct tp_mount_entry *entry = path == NULL ? NULL : tp_mounts_at(&doctor->table, path);
    free(path);
    return tp_mounts_are_ours(entry) ? entry : NULL;
}

static void examine(struct tp_doctor *doctor, const char *argument)
{
    char room[PATH_MAX];
    if (tp_mounts_read(tp_doctor_path(doctor, TP_MOUNTS_FILE, room), &doctor->table) < 0)
        doctor->table = (struct tp_mount_table){0};
    tp_doctor_check_system(doctor);
    tp_doctor_check_program(doctor);
    const struct tp_mount_entry *mount = argument == NULL ? NULL : find_mount(doctor, argument);
    tp_doctor_check_mounts(doctor, mount == NULL ? NULL : mount->path);
    if (argument != NULL)
        tp_doctor_check_model(doctor, mount == NULL ? argument : mount->source, mount);
    tp_mounts_clear(&doctor->table);
}

static int print_json(struct tp_doctor *doctor)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToObject(object, "findings", doctor->findings);
    cJSON_AddNumberToObject(object, "problems", doctor->n[TP_FINDING_PROBLEM]);
    cJSON_AddNumberToObject(object, "warnings", doctor->n[TP_FINDING_WARNING]);
    char *text = cJSON_Print(object);
    cJSON_Delete(object);
    if (text == NULL)
        return -ENOMEM;
    puts(text);
    free(text);
    return 0;
}

static int run(bool as_json, const char *argument, struct tp_error *error)
{
    const char *root = getenv("TENSORPORT_DOCTOR_ROOT");
    struct tp_doctor doctor = {.root = root != NULL ? root : "", .is_root = geteuid() == 0};
    int rc = 0;
    if (as_json) {
        doctor.findings = cJSON_CreateArray();
        if (doctor.findings == NULL)
            return tp_error_set(error, -ENOMEM, "out of memory");
    }
    examine(&doctor, argument);
    if (as_json)
        rc = print_json(&doctor);
    else
        printf("%u problem%s, %u warning%s\n", doctor.n[TP_FINDING_PROBLEM],
               doctor.n[TP_FINDING_PROBLEM] == 1 ? "" : "s", doctor.n[TP_FINDING_WARNING],
               doctor.n[TP_FINDING_WARNING] == 1 ? "" : "s");
    if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout)))
        rc = -errno;
    if (rc < 0)
        return tp_error_set(error, rc, "cannot write: %s", strerror(-rc));
    return doctor.n[TP_FINDING_PROBLEM] > 0 ? 1 : 0;
}

int tp_command_doctor(int argc, char **argv)
{
    enum tp_options_result result;
    struct tp_error error;
    bool as_json = false;
    int n, status = 0;
    int rc =
        tp_options_parse(&program, argc, argv, handle_option, &as_json, &result, &n, &argv, &error);
    if (rc == 0 && result == TP_OPTIONS_RUN && n > 1)
        rc = tp_error_set(&error, -EINVAL,
                          "expected one MODEL or MOUNTPOINT, found %d; see '%s --help'", n,
                          program.name);
    if (rc < 0) {
        status = 2;
    } else if (result == TP_OPTIONS_RUN) {
        rc = run(as_json, n == 1 ? argv[0] : NULL, &error);
        status = rc == 0 ? 0 : 1;
    }
    if (rc < 0)
        fprintf(stderr, "%s: %s\n", program.name, error.text);
    return status;
}
