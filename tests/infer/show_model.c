/* Shows a view as infer/ binds it, as JSON, for tests to compare with what numpy reads.
 *
 *     show-model [--load mapped|huge] [--positions N] VIEW
 *     show-model --hold [--load ...] VIEW     binds, prints "bound", waits for a line on stdin,
 *                                             then reads all of every tensor
 *     show-model --pause [--load ...] VIEW    waits already when the files are open
 *     show-model --foreign FILE               reads a mapping of its own beyond FILE's end
 */
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fs/base/workers.h"
#include "infer/model/model.h"
#include "infer/weights/load.h"

static const char *const type_names[] = {"float32", "float16", "bfloat16", "mxfp4"};

static void fail(const char *message)
{
    fprintf(stderr, "show-model: %s\n", message);
    exit(1);
}

/* ---- weights ---- */

static const char *separator = "";

static void print_hash(const void *bytes, size_t length)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    if (EVP_Digest(bytes, length, digest, &n, EVP_sha256(), NULL) != 1)
        fail("no SHA-256");
    printf("\"");
    for (unsigned i = 0; i < n; i++)
        printf("%02x", digest[i]);
    printf("\"");
}

static void print_matrices(const char *layer, const char *name, const struct tp_matrix *matrix,
                           size_t n)
{
    if (matrix->values == NULL)
        return;
    printf("%s\"%s%s\": {\"type\": \"%s\", \"n\": %zu, \"rows\": %zu, \"columns\": %zu, "
           "\"sha256\": ",
           separator, layer, name, type_names[matrix->type], n, matrix->rows, matrix->columns);
    separator = ",\n";
    print_hash(matrix->values, n * tp_matrix_bytes(matrix));
    if (matrix->scales != NULL) {
        printf(", \"scales\": ");
        print_hash(matrix->scales, n * matrix->rows * matrix->columns / 32);
    }
    if ((uintptr_t)matrix->values % 16 != 0)
        fail("a matrix is not aligned");
    printf("}");
}

static void print_matrix(const char *layer, const char *name, const struct tp_matrix *matrix)
{
    print_matrices(layer, name, matrix, 1);
}

static void print_vector(const char *layer, const char *name, const float *vector, size_t n)
{
    if (vector == NULL)
        return;
    printf("%s\"%s%s\": {\"type\": \"vector\", \"n\": %zu, \"sha256\": ", separator, layer, name,
           n);
    separator = ",\n";
    print_hash(vector, n * sizeof *vector);
    printf("}");
}

static void print_layer(const struct tp_model *model, size_t i)
{
    const struct tp_model_config *c = &model->config;
    const struct tp_model_layer *l = &model->layers[i];
    size_t hidden = c->hidden_size, query = c->n_heads * c->head_dim;
    size_t kv = c->n_kv_heads * c->head_dim, inner = c->intermediate_size, n = c->n_experts;
    char at[32];
    snprintf(at, sizeof at, "%zu.", i);
    print_vector(at, "input_norm", l->input_norm, hidden);
    print_matrix(at, "q", &l->q);
    print_matrix(at, "k", &l->k);
    print_matrix(at, "v", &l->v);
    print_matrix(at, "o", &l->o);
    print_vector(at, "q_bias", l->q_bias, query);
    print_vector(at, "k_bias", l->k_bias, kv);
    print_vector(at, "v_bias", l->v_bias, kv);
    print_vector(at, "o_bias", l->o_bias, hidden);
    print_vector(at, "sinks", l->sinks, c->n_heads);
    print_vector(at, "mlp_norm", l->mlp_norm, hidden);
    print_matrix(at, "router", &l->router);
    print_vector(at, "router_bias", l->router_bias, n);
    print_matrices(at, "experts_gate_up", &l->experts_gate_up.first, l->experts_gate_up.n);
    print_matrices(at, "experts_down", &l->experts_down.first, l->experts_down.n);
    print_vector(at, "experts_gate_up_bias", l->experts_gate_up_bias, n * 2 * inner);
    print_vector(at, "experts_down_bias", l->experts_down_bias, n * hidden);
    print_matrix(at, "gate", &l->gate);
    print_matrix(at, "up", &l->up);
    print_matrix(at, "down", &l->down);
    print_vector(at, "gate_bias", l->gate_bias, inner);
    print_vector(at, "up_bias", l->up_bias, inner);
    print_vector(at, "down_bias", l->down_bias, hidden);
}

static void print_weights(const struct tp_model *model)
{
    printf("\"weights\": {\n");
    print_matrix("", "embedding", &model->embedding);
    for (size_t i = 0; i < model->config.n_layers; i++)
        print_layer(model, i);
    print_vector("", "final_norm", model->final_norm, model->config.hidden_size);
    print_matrix("", "head", &model->head);
    printf("}");
}

/* ---- configuration ---- */

static void print_sizes(const char *name, const size_t *values, size_t n)
{
    printf("\"%s\": [", name);
    for (size_t i = 0; i < n; i++)
        printf("%s%zu", i > 0 ? ", " : "", values[i]);
    printf("],\n");
}

static void print_config(const struct tp_model_config *c)
{
    const struct tp_rope_config *r = &c->rope;
    const struct tp_sampling_defaults *s = &c->sampling;
    printf(
        "\"config\": {\"architecture\": \"%s\", \"vocab_size\": %zu, \"hidden_size\": %zu, "
        "\"intermediate_size\": %zu, \"n_layers\": %zu, \"n_heads\": %zu, \"n_kv_heads\": %zu, "
        "\"head_dim\": %zu, \"n_experts\": %zu, \"n_experts_per_token\": %zu, \"context\": %zu,\n",
        tp_architecture_names[c->architecture], c->vocab_size, c->hidden_size, c->intermediate_size,
        c->n_layers, c->n_heads, c->n_kv_heads, c->head_dim, c->n_experts, c->n_experts_per_token,
        c->context);
    print_sizes("windows", c->windows, c->n_layers);
    print_sizes("eos_tokens", c->eos_tokens, c->n_eos_tokens);
    printf(
        "\"bos_token\": %" PRId64 ", \"attention_bias\": %d, \"mlp_bias\": %d, \"sinks\": %d, "
        "\"tied\": %d, \"rms_norm_eps\": %.9g, \"swiglu_limit\": %.9g, \"swiglu_alpha\": %.9g,\n",
        c->bos_token == TP_NO_TOKEN ? -1 : (int64_t)c->bos_token, c->attention_bias, c->mlp_bias,
        c->sinks, c->tied, (double)c->rms_norm_eps, (double)c->swiglu_limit,
        (double)c->swiglu_alpha);
    printf("\"rope\": {\"kind\": \"%s\", \"theta\": %.17g, \"factor\": %.17g, "
           "\"concentration\": %.17g, \"truncate\": %d},\n",
           tp_rope_kind_names[r->kind], r->theta, r->factor, r->concentration, r->truncate);
    printf("\"sampling\": {\"sample\": %d, \"temperature\": %.17g, \"top_p\": %.17g, "
           "\"min_p\": %.17g, \"repetition_penalty\": %.17g, \"top_k\": %zu}}",
           s->sample, s->temperature, s->top_p, s->min_p, s->repetition_penalty, s->top_k);
}

static void print_floats(const char *name, const float *values, size_t n, const char *end)
{
    printf("\"%s\": [", name);
    for (size_t i = 0; i < n; i++)
        printf("%s%.9g", i > 0 ? ", " : "", (double)values[i]);
    printf("]%s", end);
}

static void print_rope(const struct tp_rope *rope, const char *positions)
{
    float *cosines = calloc(2 * rope->n_pairs, sizeof *cosines), *sines = cosines + rope->n_pairs;
    printf("\"rope\": {");
    print_floats("inverse_frequencies", rope->inverse_frequencies, rope->n_pairs, ",\n");
    printf("\"positions\": [");
    for (const char *comma = ""; *positions != '\0'; comma = ",\n") {
        char *end;
        size_t position = strtoul(positions, &end, 10);
        positions = *end == ',' ? end + 1 : end;
        tp_rope_position(rope, position, cosines, sines);
        printf("%s{\"position\": %zu, ", comma, position);
        print_floats("cos", cosines, rope->n_pairs, ", ");
        print_floats("sin", sines, rope->n_pairs, "}");
    }
    printf("]}");
    free(cosines);
}

/* ---- going away ---- */

static uint64_t read_all(const struct tp_weights_view *view)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < view->manifest.n_tensors; i++) {
        const volatile uint8_t *bytes = view->arrays[i].data;
        for (uint64_t j = 0; j < view->arrays[i].tensor->nbytes; j += 64)
            sum += bytes[j];
    }
    return sum;
}

static int read_work(void *view, size_t worker)
{
    (void)worker;
    return read_all(view) == 1 ? -1 : 0;
}

static void wait_for_line(const char *state)
{
    printf("%s\n", state);
    fflush(stdout);
    if (getchar() == EOF)
        exit(3);
}

static void hold(struct tp_weights_view *view)
{
    wait_for_line("bound");
    tp_workers_run(4, read_work, view); /* four threads fault at once: still one line */
    printf("read\n");
}

static void read_foreign(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const volatile uint8_t *bytes =
        fd < 0 ? MAP_FAILED : mmap(NULL, 2 * page, PROT_READ, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED)
        fail("cannot map the file");
    printf("%d\n", bytes[page]);
}

/* ---- the program ---- */

static void load(struct tp_weights_view *view, const char *placement)
{
    struct tp_load_report report;
    struct tp_error error = {""};
    enum tp_placement where =
        strcmp(placement, "huge") == 0 ? TP_PLACEMENT_HUGE_PAGES : TP_PLACEMENT_MAPPED;
    if (tp_weights_view_load(view, where, 3, TP_PROGRESS_NONE, &report, &error) < 0)
        fail(error.text);
    if (report.bytes != view->total_bytes)
        fail("not everything was loaded");
}

static const char *take(char ***at)
{
    if ((*at)[1] == NULL)
        fail("a value is missing");
    return *++*at;
}

int main(int argc, char **argv)
{
    const char *positions = "", *placement = NULL, *path = NULL;
    bool holding = false, pausing = false;
    struct tp_error error = {""};
    struct tp_weights_view *view;
    struct tp_model *model;
    (void)argc;
    tp_mapping_guard("show-model");
    for (char **at = argv + 1; *at != NULL; at++) {
        if (strcmp(*at, "--foreign") == 0) {
            read_foreign(take(&at));
            return 0;
        }
        if (strcmp(*at, "--hold") == 0)
            holding = true;
        else if (strcmp(*at, "--pause") == 0)
            pausing = true;
        else if (strcmp(*at, "--load") == 0)
            placement = take(&at);
        else if (strcmp(*at, "--positions") == 0)
            positions = take(&at);
        else
            path = *at;
    }
    if (path == NULL)
        fail("expected a view");
    if (tp_weights_view_open(path, &view, &error) < 0)
        fail(error.text);
    if (pausing)
        wait_for_line("open");
    if (placement != NULL)
        load(view, placement);
    if (tp_model_open(view, 2, &model, &error) < 0) {
        tp_weights_view_close(view);
        fail(error.text);
    }
    if (holding) {
        hold(view);
    } else {
        printf("{\"path\": \"%s\", \"private_bytes\": %" PRIu64 ",\n", view->path,
               model->private_bytes);
        print_config(&model->config);
        printf(",\n");
        print_rope(&model->rope, positions);
        printf(",\n");
        print_weights(model);
        printf("}\n");
    }
    tp_model_close(model);
    tp_weights_view_close(view);
    return 0;
}
