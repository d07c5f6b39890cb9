#include "infer/cli/run_arguments.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "infer/engine/logprobs.h"

enum { LOOKUP_DEFAULT = 16, LOOKUP_MAX = 64 };

static const struct tp_option options[] = {
    {"prompt", 'p', "TEXT", "the prompt (default: standard input)"},
    {"file", 'f', "FILE", "the prompt is what FILE has"},
    {"token-ids", 0, "IDS",
     "the prompt is 1,2,3 or, with @FILE.npy, an array of\n"
     "integers; needs no tokenizer.json"},
    {"raw", 0, NULL, "go on with the prompt as it is, without a chat format"},
    TP_DIALOGUE_ARGUMENTS_TABLE,
    {"predict", 'n', "N",
     "tokens to generate at most; -1: as the context has room\n"
     "(default: 128, in a chat format -1)"},
    TP_ENGINE_ARGUMENTS_TABLE,
    TP_SAMPLING_ARGUMENTS_TABLE,
    {"stop", 0, "TEXT", "end before TEXT; may be given more than once"},
    {"stop-token", 0, "ID", "end at this token; may be given more than once"},
    {"ignore-eos", 0, NULL, "go on after a token that ends a text"},
    {"lookup", 0, "[=N]",
     "draft up to N tokens (default 16) from earlier text and check\n"
     "them at once: the same output, faster where text repeats"},
    {"json", 0, NULL, "print one object with ids, text and timings"},
    {"logprobs", 0, "N",
     "with --json: each token's log-probability, and those of the\n"
     "N likeliest"},
    {"logits", 0, "FILE",
     "write the logits after every token fed, of prompt and answer,\n"
     "as float32 .npy"},
    {"show-reasoning", 0, NULL,
     "print on standard error what the model thinks (default: on\n"
     "a terminal)"},
    {"hide-reasoning", 0, NULL, "do not"},
    {"quiet", 'q', NULL, "no statistics at the end"},
    {NULL, 0, NULL, NULL},
};

const struct tp_program tp_run_program = {
    .name = "tpinfer run",
    .arguments = "VIEW",
    .summary = "Answers a prompt, or goes on with a text, by the model that VIEW shows.",
    .options = options,
    .notes = "VIEW is a mount of tensorport-mount, or a copy of one (cp -r, tensorport convert).\n",
};

/* ---- values ---- */

static int add_stop(struct tp_run_arguments *arguments, const char *text, struct tp_error *error)
{
    if (text[0] == '\0')
        return tp_error_set(error, -EINVAL, "expected a text, found none");
    const char **moved =
        realloc(arguments->stops, (arguments->n_stops + 1) * sizeof *arguments->stops);
    if (moved == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    arguments->stops = moved;
    arguments->stops[arguments->n_stops++] = text;
    return 0;
}

static int parse_size(const char *text, uint64_t least, uint64_t most, size_t *ret_size,
                      struct tp_error *error)
{
    uint64_t number;
    int rc = tp_parse_unsigned(text, least, most, &number, error);
    if (rc == 0)
        *ret_size = (size_t)number;
    return rc;
}

static int add_stop_token(struct tp_run_arguments *arguments, const char *text,
                          struct tp_error *error)
{
    size_t id;
    int rc = parse_size(text, 0, UINT32_MAX - 1, &id, error);
    if (rc == 0 && (rc = tp_ids_append(&arguments->stop_tokens, (uint32_t)id)) < 0)
        tp_error_set(error, rc, "out of memory");
    return rc;
}

static int parse_predict(struct tp_run_arguments *arguments, const char *text,
                         struct tp_error *error)
{
    arguments->has_n_most = true;
    if (strcmp(text, "-1") != 0)
        return parse_size(text, 0, UINT32_MAX, &arguments->n_most, error);
    arguments->n_most = SIZE_MAX;
    return 0;
}

static int parse_lookup(struct tp_run_arguments *arguments, const char *text,
                        struct tp_error *error)
{
    arguments->lookup = LOOKUP_DEFAULT;
    return text == NULL ? 0 : parse_size(text, 1, LOOKUP_MAX, &arguments->lookup, error);
}

/* ---- options ---- */

/* Those whose value is kept as it is, and switches. */
static bool take_plain(struct tp_run_arguments *arguments, const char *name, const char *value)
{
    const struct {
        const char *name;
        const char **text;
        bool *flag;
    } plain[] = {
        {"prompt", &arguments->prompt, NULL},
        {"file", &arguments->file, NULL},
        {"token-ids", &arguments->token_ids, NULL},
        {"logits", &arguments->logits, NULL},
        {"raw", NULL, &arguments->raw},
        {"ignore-eos", NULL, &arguments->ignore_eos},
        {"json", NULL, &arguments->json},
        {"show-reasoning", NULL, &arguments->show_reasoning},
        {"hide-reasoning", NULL, &arguments->hide_reasoning},
        {"quiet", NULL, &arguments->quiet},
    };
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (strcmp(name, plain[i].name) != 0)
            continue;
        if (plain[i].text != NULL)
            *plain[i].text = value;
        if (plain[i].flag != NULL)
            *plain[i].flag = true;
        return true;
    }
    return false;
}

int tp_run_arguments_handle(void *context, const struct tp_option *option, const char *value,
                            struct tp_error *error)
{
    struct tp_run_arguments *arguments = context;
    const char *name = option->name;
    bool known = take_plain(arguments, name, value);
    int rc = 0;
    if (!known)
        rc = tp_engine_arguments_handle(&arguments->engine, name, value, &known, error);
    if (!known)
        rc = tp_sampling_arguments_handle(&arguments->sampling, name, value, &known, error);
    if (!known)
        rc = tp_dialogue_arguments_handle(&arguments->dialogue, name, value, &known, error);
    if (known)
        return rc;
    if (strcmp(name, "predict") == 0)
        return parse_predict(arguments, value, error);
    if (strcmp(name, "stop") == 0)
        return add_stop(arguments, value, error);
    if (strcmp(name, "stop-token") == 0)
        return add_stop_token(arguments, value, error);
    if (strcmp(name, "lookup") == 0)
        return parse_lookup(arguments, value, error);
    arguments->wants_logprobs = true;
    return parse_size(value, 0, TP_LOGPROBS_MAX, &arguments->n_logprobs, error);
}

static const char *find_dialogue_option(const struct tp_dialogue_arguments *dialogue)
{
    if (dialogue->template != NULL)
        return "template";
    if (dialogue->preface.system != NULL)
        return "system";
    if (dialogue->preface.reasoning_effort != NULL)
        return "effort";
    return dialogue->preface.date != NULL ? "date" : NULL;
}

int tp_run_arguments_check(const struct tp_run_arguments *arguments, struct tp_error *error)
{
    const char *dialogue = find_dialogue_option(&arguments->dialogue);
    int n_prompts =
        (arguments->prompt != NULL) + (arguments->file != NULL) + (arguments->token_ids != NULL);
    if (n_prompts > 1)
        return tp_error_set(error, -EINVAL,
                            "expected one of --prompt, --file and --token-ids, found %d; see "
                            "'%s --help'",
                            n_prompts, tp_run_program.name);
    if (dialogue != NULL && (arguments->raw || arguments->token_ids != NULL))
        return tp_error_set(error, -EINVAL, "--%s has no effect with --%s; see '%s --help'",
                            dialogue, arguments->raw ? "raw" : "token-ids", tp_run_program.name);
    if (arguments->show_reasoning && arguments->hide_reasoning)
        return tp_error_set(error, -EINVAL,
                            "expected --show-reasoning or --hide-reasoning, found both; see '%s "
                            "--help'",
                            tp_run_program.name);
    if (arguments->wants_logprobs && !arguments->json)
        return tp_error_set(error, -EINVAL, "--logprobs needs --json; see '%s --help'",
                            tp_run_program.name);
    return 0;
}

void tp_run_arguments_clear(struct tp_run_arguments *arguments)
{
    free(arguments->stops);
    tp_ids_clear(&arguments->stop_tokens);
    *arguments = (struct tp_run_arguments){0};
}
