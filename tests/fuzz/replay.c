/* Runs a fuzz target over stored inputs, without a fuzzer: over the files and directories
 * that are given, or else over REPLAY_CORPUS in the source tree (TP_TEST_SRCDIR). Prints TAP,
 * one test a file. A target that finds something wrong aborts, and the plan stays unmet. */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct paths {
    char **items;
    size_t n;
};

static void die(const char *what)
{
    printf("Bail out! %s: %s\n", what, strerror(errno));
    exit(1);
}

static void add_path(struct paths *paths, const char *folder, const char *name)
{
    char *path = malloc(strlen(folder) + strlen(name) + 2);
    paths->items = realloc(paths->items, (paths->n + 1) * sizeof *paths->items);
    if (path == NULL || paths->items == NULL)
        die("memory");
    sprintf(path, "%s%s%s", folder, folder[0] != '\0' ? "/" : "", name);
    paths->items[paths->n++] = path;
}

/* A directory's files, or the file itself. */
static void add_argument(struct paths *paths, const char *path)
{
    DIR *directory = opendir(path);
    if (directory == NULL && errno == ENOTDIR) {
        add_path(paths, "", path);
        return;
    }
    if (directory == NULL)
        die(path);
    for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        if (entry->d_name[0] != '.')
            add_path(paths, path, entry->d_name);
    }
    closedir(directory);
}

static void add_corpus(struct paths *paths)
{
    const char *root = getenv("TP_TEST_SRCDIR");
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", root != NULL ? root : ".", REPLAY_CORPUS);
    add_argument(paths, path);
}

/* The input lies in a block of its size, so that sanitizers see a step beyond it. */
static void replay(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0)
        die(path);
    long size = ftell(file);
    uint8_t *data = size < 0 ? NULL : malloc((size_t)size + 1);
    if (data == NULL)
        die(path);
    rewind(file);
    if (fread(data + 1, 1, (size_t)size, file) != (size_t)size)
        die(path);
    fclose(file);
    LLVMFuzzerTestOneInput(data + 1, (size_t)size);
    free(data);
}

static int compare_paths(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

int main(int argc, char **argv)
{
    struct paths paths = {NULL, 0};
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < argc; i++)
        add_argument(&paths, argv[i]);
    if (argc < 2)
        add_corpus(&paths);
    if (paths.n == 0) {
        printf("1..1\nnot ok 1 - there are inputs to replay\n");
        return 1;
    }
    printf("1..%zu\n", paths.n);
    qsort(paths.items, paths.n, sizeof *paths.items, compare_paths);
    for (size_t i = 0; i < paths.n; i++) {
        const char *slash = strrchr(paths.items[i], '/');
        printf("# %s\n", paths.items[i]);
        replay(paths.items[i]);
        printf("ok %zu - %s\n", i + 1, slash != NULL ? slash + 1 : paths.items[i]);
        free(paths.items[i]);
    }
    free(paths.items);
    return 0;
}
