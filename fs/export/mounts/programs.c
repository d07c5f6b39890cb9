#include "fs/export/mounts/programs.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* "FOLDER/NAME" if that, below `root`, is a program. */
static char *look_in(const char *root, const char *folder, size_t length, const char *name)
{
    char *path = NULL;
    struct stat status;
    if (asprintf(&path, "%s%.*s/%s", root, (int)length, length > 0 ? folder : ".", name) < 0)
        return NULL;
    if (stat(path, &status) < 0 || !S_ISREG(status.st_mode) || access(path, X_OK) < 0) {
        free(path);
        return NULL;
    }
    memmove(path, path + strlen(root), strlen(path + strlen(root)) + 1);
    return path;
}

static char *look_beside(const char *name)
{
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length <= 0)
        return NULL;
    self[length] = '\0';
    return look_in("", self, (size_t)(strrchr(self, '/') - self), name);
}

char *tp_program_find_in_path(const char *root, const char *name)
{
    const char *path = getenv("PATH");
    char *found = NULL;
    for (const char *at = path != NULL ? path : "/usr/local/bin:/usr/bin:/bin"; found == NULL;) {
        size_t length = strcspn(at, ":");
        found = look_in(root, at, length, name);
        if (at[length] == '\0')
            break;
        at += length + 1;
    }
    return found;
}

char *tp_program_find(const char *name)
{
    static const char *const configured[] = {TP_SBINDIR, TP_BINDIR};
    char *found = look_beside(name);
    for (size_t i = 0; found == NULL && i < sizeof configured / sizeof *configured; i++)
        found = look_in("", configured[i], strlen(configured[i]), name);
    return found != NULL ? found : tp_program_find_in_path("", name);
}
