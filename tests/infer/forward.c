/* Runs tokens through a model and writes the logits: for tests that compare them with goldens.
 *
 *     forward VIEW CHUNK THREADS N_LOGITS < ids > logits
 *
 * `ids`: uint32 each. In chunks of CHUNK tokens; the logits of the last N_LOGITS positions come out
 * as float32 [n][vocabulary]. BF16 and INT8 in the environment are --activations bf16 and
 * --dense int8. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/backend.h"
#include "infer/weights/mapping.h"

enum { TOKENS_MAX = 1 << 17 };

static void fail(const struct tp_error *error)
{
    fprintf(stderr, "forward: %s\n", error->text);
    exit(1);
}

int main(int argc, char **argv)
{
    static uint32_t ids[TOKENS_MAX];
    struct tp_error error = {""};
    struct tp_weights_view *view;
    struct tp_model *model;
    struct tp_backend *backend;
    struct tp_sequence *sequence;
    if (argc != 5)
        return 2;
    size_t chunk = strtoul(argv[2], NULL, 10), n_logits = strtoul(argv[4], NULL, 10);
    size_t n = fread(ids, sizeof *ids, TOKENS_MAX, stdin);
    struct tp_backend_options options = {.n_threads = strtoul(argv[3], NULL, 10),
                                         .step_max = chunk,
                                         .bf16_activations = getenv("BF16") != NULL,
                                         .int8_dense = getenv("INT8") != NULL};
    const struct tp_backend_kind *cpu = &tp_backend_cpu;
    if (tp_weights_view_open(argv[1], &view, &error) < 0 ||
        tp_model_open(view, 1, &model, &error) < 0 ||
        cpu->open(model, &options, &backend, &error) < 0 ||
        cpu->sequence_new(backend, n, &sequence, &error) < 0)
        fail(&error);
    size_t vocabulary = model->config.vocab_size;
    float *logits = malloc(chunk * vocabulary * sizeof *logits);
    for (size_t at = 0; logits != NULL && at < n; at += chunk) {
        size_t now = n - at < chunk ? n - at : chunk, left = n - at - now;
        size_t wanted = n_logits <= left ? 0 : n_logits - left < now ? n_logits - left : now;
        struct tp_step_item item = {sequence, ids + at, now, wanted};
        if (cpu->step(backend, &item, 1, logits, NULL, &error) < 0)
            fail(&error);
        fwrite(logits, sizeof *logits, wanted * vocabulary, stdout);
    }
    free(logits);
    cpu->sequence_free(sequence);
    cpu->close(backend);
    tp_model_close(model);
    tp_weights_view_close(view);
    return 0;
}
