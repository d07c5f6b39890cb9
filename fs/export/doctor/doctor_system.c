/* What a FUSE mount needs of the machine. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "config.h"
#include "fs/export/doctor/doctor.h"
#include "fs/export/mounts/programs.h"

static const char docker_remedy[] =
    "docker run --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined ...";

static bool exists(const struct tp_doctor *doctor, const char *path)
{
    char room[PATH_MAX];
    return access(tp_doctor_path(doctor, path, room), F_OK) == 0;
}

static bool is_container(const struct tp_doctor *doctor)
{
    return exists(doctor, "/.dockerenv") || exists(doctor, "/run/.containerenv");
}

/* Whether a line of the text consists of `word` but for blanks around it. */
static bool has_line(const char *text, const char *word)
{
    size_t length = strlen(word);
    for (const char *line = text; *line != '\0';) {
        const char *start = line + strspn(line, " \t");
        const char *end = start + strcspn(start, " \t\r\n");
        if ((size_t)(end - start) == length && strncmp(start, word, length) == 0)
            return true;
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    return false;
}

/* The command that installs a package here. */
static const char *install_fuse(const struct tp_doctor *doctor)
{
    static const char *const managers[][2] = {
        {"/usr/bin/apt-get", "sudo apt-get install fuse3"},
        {"/usr/bin/dnf", "sudo dnf install fuse3"},
        {"/usr/bin/zypper", "sudo zypper install fuse3"},
        {"/usr/bin/pacman", "sudo pacman -S fuse3"},
        {"/sbin/apk", "sudo apk add fuse3"},
    };
    for (size_t i = 0; i < sizeof managers / sizeof *managers; i++) {
        if (exists(doctor, managers[i][0]))
            return managers[i][1];
    }
    return "install the package fuse3 of your distribution";
}

/* ---- the kernel ---- */

static void check_kernel(struct tp_doctor *doctor)
{
    char *text = tp_doctor_read(doctor, "/proc/sys/kernel/osrelease");
    unsigned major = 0, minor = 0;
    if (text == NULL || sscanf(text, "%u.%u", &major, &minor) != 2) {
        free(text);
        return;
    }
    text[strcspn(text, "\n")] = '\0';
    unsigned version = major * 1000 + minor;
    if (version < 4002)
        tp_doctor_say(doctor, TP_FINDING_PROBLEM, "kernel",
                      "sudo apt-get dist-upgrade && sudo reboot",
                      "Linux %s is too old: expected 4.2 or newer", text);
    else if (version < 5001)
        tp_doctor_say(doctor, TP_FINDING_WARNING, "kernel",
                      "sudo apt-get dist-upgrade && sudo reboot",
                      "Linux %s works, but 5.1 or newer makes reads larger and fewer", text);
    else
        tp_doctor_say(doctor, TP_FINDING_OK, "kernel", NULL, "Linux %s", text);
    free(text);
}

static void check_module(struct tp_doctor *doctor)
{
    char *text = tp_doctor_read(doctor, "/proc/filesystems");
    bool found = false;
    for (char *line = text; line != NULL && *line != '\0' && !found;) {
        char *tab = line + strcspn(line, "\t\n");
        found = *tab == '\t' && strncmp(tab + 1, "fuse\n", 5) == 0;
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    if (text == NULL)
        return;
    if (found)
        tp_doctor_say(doctor, TP_FINDING_OK, "module", NULL, "the kernel has FUSE");
    else
        tp_doctor_say(doctor, TP_FINDING_PROBLEM, "module", "sudo modprobe fuse",
                      "the kernel's module fuse is not loaded%s",
                      is_container(doctor) ? " (to be done outside this container)" : "");
    free(text);
}

static void explain_device(struct tp_doctor *doctor, int code)
{
    const char *remedy = "sudo chmod 666 /dev/fuse";
    if (code == EPERM || (is_container(doctor) && code != EACCES))
        remedy = docker_remedy; /* EPERM: the cgroup's list of devices */
    else if (code == ENOENT)
        remedy = "sudo modprobe fuse || sudo mknod -m 666 /dev/fuse c 10 229";
    else if (code == ENODEV || code == ENXIO)
        remedy = "sudo modprobe fuse";
    tp_doctor_say(doctor, TP_FINDING_PROBLEM, "device", remedy, "/dev/fuse cannot be opened: %s",
                  strerror(code));
}

static void check_device(struct tp_doctor *doctor)
{
    char room[PATH_MAX];
    struct stat status;
    int fd = open(tp_doctor_path(doctor, "/dev/fuse", room), O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        explain_device(doctor, errno);
        return;
    }
    if (fstat(fd, &status) < 0 || !S_ISCHR(status.st_mode))
        tp_doctor_say(doctor, TP_FINDING_PROBLEM, "device",
                      "sudo rm /dev/fuse && sudo mknod -m 666 /dev/fuse c 10 229",
                      "/dev/fuse is not a device");
    else
        tp_doctor_say(doctor, TP_FINDING_OK, "device", NULL, "/dev/fuse can be opened");
    close(fd);
}

/* ---- the right to mount ---- */

/* A line of /proc/self/status as a number in base `base`; `otherwise` if it is not there. */
static unsigned long long status_field(const char *text, const char *name, int base,
                                       unsigned long long otherwise)
{
    const char *at = text == NULL ? NULL : strstr(text, name);
    return at == NULL ? otherwise : strtoull(at + strlen(name), NULL, base);
}

/* Root mounts by itself; others through fusermount3, whose rights end where the container's do. */
static void check_rights(struct tp_doctor *doctor)
{
    enum { CAP_SYS_ADMIN = 21 };
    char *text = tp_doctor_read(doctor, "/proc/self/status");
    const char *set = doctor->is_root ? "\nCapEff:" : "\nCapBnd:";
    bool may_mount = (status_field(text, set, 16, ~0ULL) >> CAP_SYS_ADMIN & 1) != 0;
    bool no_setuid = !doctor->is_root && status_field(text, "\nNoNewPrivs:", 10, 0) != 0;
    free(text);
    if (!may_mount)
        tp_doctor_say(doctor, TP_FINDING_PROBLEM, "rights", docker_remedy,
                      "nobody in this container may mount: CAP_SYS_ADMIN is missing");
    else if (no_setuid)
        tp_doctor_say(doctor, TP_FINDING_PROBLEM, "rights",
                      "docker run --security-opt no-new-privileges=false ... (Kubernetes: "
                      "allowPrivilegeEscalation: true; systemd: NoNewPrivileges=no)",
                      "no_new_privs is set: fusermount3 cannot become root");
    else
        tp_doctor_say(doctor, TP_FINDING_OK, "rights", NULL, "%s may mount",
                      doctor->is_root ? "root" : "fusermount3");
}

static void judge_fusermount(struct tp_doctor *doctor, const char *path)
{
    char room[PATH_MAX], quoted[2 * PATH_MAX], remedy[3 * PATH_MAX];
    struct stat status;
    struct statvfs system;
    enum tp_finding fault = doctor->is_root ? TP_FINDING_WARNING : TP_FINDING_PROBLEM;
    tp_doctor_path(doctor, path, room);
    if (stat(room, &status) < 0 || statvfs(room, &system) < 0)
        return;
    snprintf(remedy, sizeof remedy, "sudo chown root %s && sudo chmod u+s %s",
             tp_doctor_quote(path, quoted), tp_doctor_quote(path, quoted));
    if ((status.st_mode & S_ISUID) == 0 || status.st_uid != 0)
        tp_doctor_say(doctor, fault, "fusermount3", remedy,
                      "%s is not setuid root: only root can mount", path);
    else if ((system.f_flag & ST_NOSUID) != 0 && doctor->root[0] == '\0')
        tp_doctor_say(doctor, fault, "fusermount3", "sudo mount -o remount,suid /",
                      "%s lies on a file system mounted with nosuid: only root can mount", path);
    else
        tp_doctor_say(doctor, TP_FINDING_OK, "fusermount3", NULL, "%s is setuid root", path);
}

static void check_fusermount(struct tp_doctor *doctor)
{
    char *path = tp_program_find_in_path(doctor->root, "fusermount3");
    if (path == NULL)
        tp_doctor_say(doctor, doctor->is_root ? TP_FINDING_WARNING : TP_FINDING_PROBLEM,
                      "fusermount3", install_fuse(doctor),
                      "not found in PATH: only root can mount");
    else
        judge_fusermount(doctor, path);
    free(path);
}

/* It matters to ordinary users only: root may always say allow_other. */
static void check_fuse_conf(struct tp_doctor *doctor)
{
    char *text = tp_doctor_read(doctor, "/etc/fuse.conf");
    if (text != NULL && has_line(text, "user_allow_other"))
        tp_doctor_say(doctor, TP_FINDING_OK, "fuse.conf", NULL,
                      "user_allow_other is set: -o allow_other works");
    else if (doctor->is_root)
        tp_doctor_say(doctor, TP_FINDING_OK, "fuse.conf", NULL,
                      "without user_allow_other, which root does not need");
    else
        tp_doctor_say(doctor, TP_FINDING_WARNING, "fuse.conf",
                      "echo user_allow_other | sudo tee -a /etc/fuse.conf",
                      "/etc/fuse.conf has no user_allow_other: -o allow_other is refused, so other "
                      "users, root and containers cannot read your mounts");
    free(text);
}

void tp_doctor_check_system(struct tp_doctor *doctor)
{
    check_kernel(doctor);
    check_module(doctor);
    check_device(doctor);
    check_rights(doctor);
    check_fusermount(doctor);
    check_fuse_conf(doctor);
}

/* ---- our own program ---- */

static void read_version(const char *path, char version[128])
{
    char quoted[2 * PATH_MAX], command[2 * PATH_MAX + 32];
    snprintf(command, sizeof command, "%s --version 2>&1 </dev/null",
             tp_doctor_quote(path, quoted));
    FILE *stream = popen(command, "re");
    if (stream == NULL || fgets(version, 128, stream) == NULL)
        version[0] = '\0';
    if (stream != NULL)
        pclose(stream);
    version[strcspn(version, "\n")] = '\0';
}

void tp_doctor_check_program(struct tp_doctor *doctor)
{
    char *path = tp_program_find("tensorport-mount");
    char version[128];
    if (path == NULL) {
        tp_doctor_say(doctor, TP_FINDING_PROBLEM, "tensorport-mount", "sudo make install",
                      "not found: neither beside this program, nor in %s, nor in PATH", TP_BINDIR);
        return;
    }
    read_version(path, version);
    if (strcmp(version, "tensorport-mount " PACKAGE_VERSION) != 0)
        tp_doctor_say(doctor, TP_FINDING_PROBLEM, "tensorport-mount", "sudo make install",
                      "%s says it is \"%s\"; expected tensorport-mount %s, as this program is",
                      path, version, PACKAGE_VERSION);
    else
        tp_doctor_say(doctor, TP_FINDING_OK, "tensorport-mount", NULL, "%s, version %s", path,
                      PACKAGE_VERSION);
    free(path);
}
