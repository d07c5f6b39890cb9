/* Sessions to files and back: for tests that compare what comes out.
 *
 *     session-file save VIEW FILE N TYPE STEP        N tokens, kept in FILE
 *     session-file load VIEW FILE CONTEXT TYPE STEP  what FILE has
 *     session-file damage VIEW FILE SCRATCH TYPE STEP
 *     session-file seal < CHANGED > SEALED           with checksums that fit
 *
 * The first two take one more argument: a plugin, whose backend computes instead of the CPU.
 *
 * TYPE is f32 or bf16, STEP the most tokens in a step. The first two then go on with 40 more tokens
 * and write each one's logits as float32 [40][vocabulary] to standard output. The third one loads
 * copies of FILE with bytes changed or missing, in the file SCRATCH: every one must be refused,
 * unless the checksums were made to fit; then anything but a crash is right. */
#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "infer/engine/session_file.h"
#include "infer/weights/mapping.h"

enum { MORE = 40, ROUNDS = 600 };

static const char note[] = "a note \0 with anything";

struct machine {
    const struct tp_backend_kind *kind;
    struct tp_weights_view *view;
    struct tp_model *model;
    struct tp_backend *backend;
    struct tp_session session;
    struct tp_error error;
    size_t step;
};

static void fail(const char *what)
{
    fprintf(stderr, "session-file: %s\n", what);
    exit(1);
}

static void open_machine(struct machine *machine, const char *path, size_t context, bool bf16)
{
    const struct tp_backend_kind *kind = machine->kind;
    struct tp_backend_options options = {.n_threads = 2,
                                         .step_max = machine->step,
                                         .bf16_cache = bf16,
                                         .context = context,
                                         .n_sequences = 1};
    if (tp_weights_view_open(path, &machine->view, &machine->error) < 0 ||
        tp_model_open(machine->view, 1, &machine->model, &machine->error) < 0 ||
        kind->open(machine->model, &options, &machine->backend, &machine->error) < 0 ||
        tp_session_open(kind, machine->backend, &machine->model->config, context, &machine->session,
                        &machine->error) < 0)
        fail(machine->error.text);
    struct tp_session larger;
    if (kind != &tp_backend_cpu && tp_session_open(kind, machine->backend, &machine->model->config,
                                                   context + 1, &larger, &machine->error) == 0)
        fail("a session has a larger context than the backend was opened for");
}

static const struct tp_backend_kind *kind_of(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const struct tp_plugin *plugin = library != NULL ? dlsym(library, TP_PLUGIN_SYMBOL) : NULL;
    if (plugin == NULL || plugin->interface != TP_PLUGIN_INTERFACE)
        fail("no plugin");
    return plugin->kind;
}

static void close_machine(struct machine *machine)
{
    tp_session_close(&machine->session);
    machine->kind->close(machine->backend);
    tp_model_close(machine->model);
    tp_weights_view_close(machine->view);
}

/* Some token for each position. */
static uint32_t token_at(const struct machine *machine, size_t position)
{
    return (uint32_t)((position * 2654435761u >> 7) % machine->model->config.vocab_size);
}

static void feed(struct machine *machine, size_t n, float *logits)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t token = token_at(machine, machine->session.length);
        if (tp_session_step(&machine->session, &token, 1, logits != NULL ? 1 : 0, logits,
                            &machine->error) < 0)
            fail(machine->error.text);
        if (logits != NULL)
            fwrite(logits, sizeof *logits, machine->model->config.vocab_size, stdout);
    }
}

static void go_on(struct machine *machine)
{
    float *logits = calloc(machine->model->config.vocab_size, sizeof *logits);
    if (logits == NULL)
        fail("out of memory");
    feed(machine, MORE, logits);
    free(logits);
}

static void save(struct machine *machine, const char *path, size_t n)
{
    feed(machine, n, NULL);
    if (tp_session_save(&machine->session, machine->model, note, sizeof note, path,
                        &machine->error) < 0)
        fail(machine->error.text);
    go_on(machine);
}

static void load(struct machine *machine, const char *path)
{
    char *found;
    size_t length;
    if (tp_session_load(&machine->session, machine->model, path, &found, &length, &machine->error) <
        0)
        fail(machine->error.text);
    if (length != sizeof note || memcmp(found, note, sizeof note) != 0)
        fail("another note");
    free(found);
    go_on(machine);
}

/* ---- damage */

static uint8_t *read_file(const char *path, size_t *ret_length)
{
    FILE *file = fopen(path, "r");
    uint8_t *bytes = malloc(1 << 26);
    if (file == NULL || bytes == NULL)
        fail("cannot read the file");
    *ret_length = fread(bytes, 1, 1 << 26, file);
    fclose(file);
    return bytes;
}

static void write_file(const char *path, const uint8_t *bytes, size_t length)
{
    FILE *file = fopen(path, "w");
    if (file == NULL || fwrite(bytes, 1, length, file) != length || fclose(file) != 0)
        fail("cannot write the file");
}

/* True if it was taken. A refused one must have left the session alone, and say why in a line. */
static bool try(struct machine *machine, const char *path, const uint8_t *bytes, size_t length)
{
    char *found;
    size_t found_length, before = machine->session.length;
    const struct tp_sequence *sequence = machine->session.sequence;
    machine->error.text[0] = '\0';
    write_file(path, bytes, length);
    if (tp_session_load(&machine->session, machine->model, path, &found, &found_length,
                        &machine->error) == 0) {
        free(found);
        return true;
    }
    if (machine->session.length != before || machine->session.sequence != sequence)
        fail("a refused file has changed the session");
    if (machine->error.text[0] == '\0' || strchr(machine->error.text, '\n') != NULL ||
        strncmp(machine->error.text, path, strlen(path)) != 0)
        fail("a refused file without a good message");
    return false;
}

/* Makes the checksums fit what is there. */
static void seal(uint8_t *bytes, size_t length)
{
    enum { HEADER_HASHED = 56, SUM = 16 };
    XXH128_canonical_t sum;
    uint64_t header = XXH3_64bits(bytes, HEADER_HASHED);
    memcpy(bytes + HEADER_HASHED, &header, sizeof header);
    XXH128_canonicalFromHash(&sum, XXH3_128bits(bytes, length - SUM));
    memcpy(bytes + length - SUM, &sum, SUM);
}

static void damage(struct machine *machine, const char *path, const char *scratch)
{
    size_t length, n_taken = 0, n_refused = 0;
    uint8_t *bytes = read_file(path, &length);
    uint64_t state = 1;
    if (!try(machine, scratch, bytes, length))
        fail(machine->error.text);
    for (size_t i = 0; i < ROUNDS; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        size_t end = i % 3 == 0 ? 640 : length; /* often what lengths are read from */
        size_t at = (size_t)(state >> 20) % (end < length ? end : length);
        uint8_t before = bytes[at], bit = (uint8_t)(1 << (state >> 60) % 8);
        bytes[at] ^= i % 2 == 0 ? bit : (uint8_t)(state >> 40) | 1;
        if (try(machine, scratch, bytes, length))
            fail("a changed byte was not seen");
        if (length > 80 && at >= 12 && at < length - 16) { /* 8..11: the version */
            seal(bytes, length);
            try(machine, scratch, bytes, length) ? n_taken++ : n_refused++;
        }
        bytes[at] = before;
        seal(bytes, length);
    }
    for (size_t i = 0; i < length; i += i < 700 || i + 100 > length ? 1 : 4999) {
        if (try(machine, scratch, bytes, i))
            fail("a file that is cut short was taken");
    }
    bytes[length] = 0;
    if (try(machine, scratch, bytes, length + 1))
        fail("a file that goes on was taken");
    if (n_taken == 0 || n_refused == 0)
        fail("nothing sealed was taken, or nothing refused");
    free(bytes);
}

static int seal_input(void)
{
    uint8_t *bytes = malloc(1 << 26);
    if (bytes == NULL)
        return 1;
    size_t length = fread(bytes, 1, 1 << 26, stdin);
    seal(bytes, length);
    fwrite(bytes, 1, length, stdout);
    free(bytes);
    return 0;
}

int main(int argc, char **argv)
{
    struct machine machine = {.kind = &tp_backend_cpu};
    if (argc == 2 && strcmp(argv[1], "seal") == 0)
        return seal_input();
    if (argc != 7 && argc != 8)
        return 2;
    if (argc == 8)
        machine.kind = kind_of(argv[7]);
    bool bf16 = strcmp(argv[5], "bf16") == 0;
    size_t n = strtoul(argv[4], NULL, 10);
    machine.step = strtoul(argv[6], NULL, 10);
    if (strcmp(argv[1], "save") == 0) {
        open_machine(&machine, argv[2], n + MORE, bf16);
        save(&machine, argv[3], n);
    } else if (strcmp(argv[1], "load") == 0) {
        open_machine(&machine, argv[2], n, bf16);
        load(&machine, argv[3]);
    } else {
        open_machine(&machine, argv[2], 1000, bf16);
        damage(&machine, argv[3], argv[4]);
    }
    close_machine(&machine);
    return 0;
}
