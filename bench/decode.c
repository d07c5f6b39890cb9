/* How fast a model decodes at batch 1, in several ways that take turns in one process.
 *
 *     decode [--threads N] [--rounds N] [--tokens N] VIEW WAY...
 *
 * A WAY is words with commas between them:
 *     lazy     weights in the page cache, mapped as they are touched (how tpinfer runs them)
 *     mapped   the same, all mapped before
 *     huge     weights copied into huge pages of our own
 *     int8     with --dense int8
 *     bf16     with --activations bf16
 *
 * Prints a line of JSON for each: what it took to open and load, and to compute the first token;
 * and the rate over the rounds, in each of which every way decodes the same few tokens. `ratio` is
 * the median over the rounds of the way's rate by that of the first way in the same round: it holds
 * on a machine that does other things, where rates do not.
 */
#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/clock.h"
#include "fs/base/workers.h"
#include "infer/backend.h"
#include "infer/weights/load.h"
#include "infer/weights/mapping.h"

enum { WAYS_MAX = 8, ROUNDS_MAX = 999 };

struct options {
    size_t n_threads; /* 0: one for each physical core */
    size_t rounds, tokens;
};

struct way {
    const char *name;
    struct tp_weights_view *view;
    struct tp_model *model;
    struct tp_backend *backend;
    struct tp_sequence *sequence;
    float *logits;
    double open_seconds, load_seconds, backend_seconds, first_seconds;
    uint64_t private_bytes;
    double seconds[ROUNDS_MAX]; /* by round */
};

static void die(const char *message)
{
    fprintf(stderr, "decode: %s\n", message);
    exit(1);
}

static bool has_word(const char *text, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = text; (at = strstr(at, word)) != NULL; at += length) {
        if ((at == text || at[-1] == ',') && (at[length] == '\0' || at[length] == ','))
            return true;
    }
    return false;
}

/* The memory that is this process's own, from /proc. */
static uint64_t private_bytes(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL && kib == 0)
        sscanf(line, "RssAnon: %llu", &kib);
    if (file != NULL)
        fclose(file);
    return kib << 10;
}

static void load(struct way *way, const struct options *options, struct tp_error *error)
{
    enum tp_placement placement =
        has_word(way->name, "huge") ? TP_PLACEMENT_HUGE_PAGES : TP_PLACEMENT_MAPPED;
    size_t n_workers = options->n_threads > 0 ? options->n_threads : tp_workers_default();
    struct tp_load_report report;
    if (has_word(way->name, "lazy"))
        return;
    if (tp_weights_view_load(way->view, placement, n_workers, TP_PROGRESS_NONE, &report, error) < 0)
        die(error->text);
    way->load_seconds = report.seconds;
}

/* Decodes tokens `first` to `first` + n - 1 of a text in which every expert has its turn. */
static double decode(struct way *way, size_t first, size_t n)
{
    size_t vocabulary = way->model->config.vocab_size;
    double start = tp_clock_seconds();
    for (size_t i = first; i < first + n; i++) {
        uint32_t token = (uint32_t)((i + 1) * 2654435761u % vocabulary);
        struct tp_step_item item = {way->sequence, &token, 1, 1};
        struct tp_error error;
        if (tp_backend_cpu.step(way->backend, &item, 1, way->logits, NULL, &error) < 0)
            die(error.text);
    }
    return tp_clock_seconds() - start;
}

static void open_way(struct way *way, const char *path, const struct options *options)
{
    struct tp_backend_options backend = {.n_threads = options->n_threads,
                                         .step_max = 1,
                                         .int8_dense = has_word(way->name, "int8"),
                                         .bf16_activations = has_word(way->name, "bf16")};
    struct tp_error error = {""};
    uint64_t before = private_bytes();
    double start = tp_clock_seconds();
    if (tp_weights_view_open(path, &way->view, &error) < 0)
        die(error.text);
    load(way, options, &error);
    if (tp_model_open(way->view, 1, &way->model, &error) < 0)
        die(error.text);
    way->open_seconds = tp_clock_seconds() - start - way->load_seconds;
    start = tp_clock_seconds();
    if (tp_backend_cpu.open(way->model, &backend, &way->backend, &error) < 0 ||
        tp_backend_cpu.sequence_new(way->backend, 2 + options->rounds * options->tokens,
                                    &way->sequence, &error) < 0)
        die(error.text);
    way->backend_seconds = tp_clock_seconds() - start;
    way->logits = malloc(way->model->config.vocab_size * sizeof *way->logits);
    if (way->logits == NULL)
        die("out of memory");
    way->first_seconds = decode(way, 0, 1);
    way->private_bytes = private_bytes() - before;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_rates(const struct way *way, const struct options *options)
{
    printf(", \"rates\": [");
    for (size_t i = 0; i < options->rounds; i++)
        printf("%s%.3f", i > 0 ? ", " : "", (double)options->tokens / way->seconds[i]);
    printf("]}\n");
}

static void print_way(const struct way *way, const struct way *first, const struct options *options)
{
    double rates[ROUNDS_MAX], ratios[ROUNDS_MAX];
    size_t n = options->rounds;
    for (size_t i = 0; i < n; i++) {
        rates[i] = (double)options->tokens / way->seconds[i];
        ratios[i] = first->seconds[i] / way->seconds[i];
    }
    qsort(rates, n, sizeof *rates, compare_doubles);
    qsort(ratios, n, sizeof *ratios, compare_doubles);
    printf("{\"way\": \"%s\", \"open_seconds\": %.3f, \"load_seconds\": %.3f, "
           "\"backend_seconds\": %.3f, \"first_token_seconds\": %.3f, \"private_bytes\": %llu, "
           "\"tokens_per_s\": {\"best\": %.2f, \"median\": %.2f}, "
           "\"ratio\": {\"median\": %.3f, \"quartiles\": [%.3f, %.3f]}",
           way->name, way->open_seconds, way->load_seconds, way->backend_seconds,
           way->first_seconds, (unsigned long long)way->private_bytes, rates[n - 1], rates[n / 2],
           ratios[n / 2], ratios[n / 4], ratios[n - 1 - n / 4]);
    print_rates(way, options);
}

static size_t number(const char *text)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*end != '\0' || value == 0 || value > ROUNDS_MAX)
        die("expected a number from 1 to 999");
    return value;
}

static struct options parse(int argc, char **argv)
{
    static const struct option names[] = {{"threads", required_argument, NULL, 't'},
                                          {"rounds", required_argument, NULL, 'r'},
                                          {"tokens", required_argument, NULL, 'n'},
                                          {NULL, 0, NULL, 0}};
    struct options options = {.rounds = 15, .tokens = 2};
    for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (option == 't')
            options.n_threads = number(optarg);
        else if (option == 'r')
            options.rounds = number(optarg);
        else if (option == 'n')
            options.tokens = number(optarg);
        else
            exit(2);
    }
    if (argc - optind < 2 || argc - optind > WAYS_MAX + 1)
        die("usage: decode [--threads N] [--rounds N] [--tokens N] VIEW WAY...");
    return options;
}

int main(int argc, char **argv)
{
    static struct way ways[WAYS_MAX];
    struct options options = parse(argc, argv);
    size_t n = (size_t)(argc - optind - 1);
    tp_mapping_guard("decode");
    for (size_t i = 0; i < n; i++) {
        ways[i].name = argv[optind + 1 + (int)i];
        open_way(&ways[i], argv[optind], &options);
    }
    for (size_t round = 0; round < options.rounds; round++) {
        for (size_t i = 0; i < n; i++)
            ways[i].seconds[round] = decode(&ways[i], 1 + round * options.tokens, options.tokens);
    }
    for (size_t i = 0; i < n; i++) {
        print_way(&ways[i], &ways[0], &options);
        tp_backend_cpu.sequence_free(ways[i].sequence);
        tp_backend_cpu.close(ways[i].backend);
        tp_model_close(ways[i].model);
        tp_weights_view_close(ways[i].view);
        free(ways[i].logits);
    }
    return 0;
}
