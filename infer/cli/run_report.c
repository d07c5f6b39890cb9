#include "infer/cli/run_report.h"

#include <errno.h>
#include <stdio.h>

#include "fs/base/amount.h"
#include "fs/base/json_text.h"
#include "infer/engine/logprobs.h"

/* In the order of enum tp_generate_end. */
static const char *const ends[] = {"length", "eos", "context", "stop", "interrupt"};
static const char *const ends_for_people[] = {"length", "end of text", "context is full", "stopped",
                                              "interrupted"};

/* ---- log-probabilities ---- */

/* The token as it stands in the middle of a text, control tokens included. */
static void add_token_text(cJSON *object, const struct tp_tokenizer *tokenizer, uint32_t token)
{
    struct tp_decoder decoder = {.tokenizer = tokenizer, .started = true, .stripped = SIZE_MAX};
    struct tp_buffer text = {0};
    if (tp_decoder_feed(&decoder, token, &text) == 0 && tp_decoder_finish(&decoder, &text) == 0)
        tp_json_add_text(object, "text", text.bytes != NULL ? text.bytes : "", text.length);
    tp_buffer_clear(&text);
}

static cJSON *make_logprob(const struct tp_run_logprobs *logprobs, uint32_t token, double logprob)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddNumberToObject(object, "id", token);
    if (logprobs->tokenizer != NULL)
        add_token_text(object, logprobs->tokenizer, token);
    cJSON_AddNumberToObject(object, "logprob", logprob);
    return object;
}

int tp_run_logprobs_add(struct tp_run_logprobs *logprobs, const float *logits, size_t vocabulary,
                        uint32_t token)
{
    struct tp_logprob top[TP_LOGPROBS_MAX];
    size_t n = tp_logprobs_top(logits, vocabulary, logprobs->n_top, top);
    cJSON *object =
        make_logprob(logprobs, token, logits[token] - tp_log_sum_exp(logits, vocabulary));
    cJSON *list = cJSON_AddArrayToObject(object, "top");
    for (size_t i = 0; i < n; i++)
        cJSON_AddItemToArray(list, make_logprob(logprobs, top[i].token, top[i].logprob));
    return cJSON_AddItemToArray(logprobs->list, object) ? 0 : -ENOMEM;
}

/* ---- the object ---- */

static double rate(double n, double seconds)
{
    return seconds > 0 ? n / seconds : 0;
}

/* What was computed of the prompt, and the tokens after the one that came with it. */
static double prompt_rate(const struct tp_generate_report *report)
{
    return rate((double)(report->n_prompt - report->n_reused), report->prompt_seconds);
}

static double decode_rate(const struct tp_generate_report *report)
{
    return report->n_generated > 1 ? rate((double)(report->n_generated - 1), report->decode_seconds)
                                   : 0;
}

static void add_ids(cJSON *object, const char *key, const struct tp_ids *ids)
{
    cJSON *list = cJSON_AddArrayToObject(object, key);
    for (size_t i = 0; i < ids->n; i++)
        cJSON_AddItemToArray(list, cJSON_CreateNumber(ids->items[i]));
}

static void add_buffer(cJSON *object, const char *key, const struct tp_buffer *text)
{
    tp_json_add_text(object, key, text->bytes != NULL ? text->bytes : "", text->length);
}

static void add_timings(cJSON *object, const struct tp_run_report *report)
{
    const struct tp_generate_report *generation = &report->generation;
    cJSON *timings = cJSON_AddObjectToObject(object, "timings");
    cJSON_AddNumberToObject(timings, "load_seconds", report->load_seconds);
    cJSON_AddNumberToObject(timings, "prompt_seconds", generation->prompt_seconds);
    cJSON_AddNumberToObject(timings, "decode_seconds", generation->decode_seconds);
    cJSON_AddNumberToObject(timings, "first_token_seconds", generation->first_token_seconds);
    cJSON_AddNumberToObject(timings, "prompt_tokens_per_second", prompt_rate(generation));
    cJSON_AddNumberToObject(timings, "decode_tokens_per_second", decode_rate(generation));
}

static void add_memory(cJSON *object, const struct tp_memory_use *use)
{
    cJSON *memory = cJSON_AddObjectToObject(object, "memory");
    tp_json_add_unsigned(memory, "private_bytes", use->private_bytes);
    tp_json_add_unsigned(memory, "page_cache_bytes", use->page_cache_bytes);
    tp_json_add_unsigned(memory, "peak_resident_bytes", use->peak_resident_bytes);
}

static cJSON *make_object(const struct tp_run_report *report)
{
    const struct tp_generate_report *generation = &report->generation;
    cJSON *object = cJSON_CreateObject();
    add_ids(object, "prompt_tokens", report->prompt);
    add_ids(object, "tokens", report->tokens);
    if (report->has_text)
        add_buffer(object, "text", &report->text->text);
    if (report->has_reasoning)
        add_buffer(object, "reasoning", &report->text->reasoning);
    cJSON_AddStringToObject(object, "stop", ends[generation->end]);
    if (report->logprobs != NULL)
        cJSON_AddItemToObject(object, "logprobs", report->logprobs);
    if (report->has_lookup) {
        cJSON *lookup = cJSON_AddObjectToObject(object, "lookup");
        tp_json_add_unsigned(lookup, "drafted", generation->n_drafted);
        tp_json_add_unsigned(lookup, "accepted", generation->n_accepted);
    }
    add_timings(object, report);
    add_memory(object, &report->memory);
    return object;
}

int tp_run_report_print_json(const struct tp_run_report *report)
{
    cJSON *object = make_object(report);
    char *text = cJSON_PrintUnformatted(object);
    cJSON_Delete(object);
    if (text == NULL)
        return -ENOMEM;
    printf("%s\n", text);
    cJSON_free(text);
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : -EIO;
}

/* ---- lines ---- */

void tp_run_report_print(const struct tp_run_report *report)
{
    const struct tp_generate_report *generation = &report->generation;
    char own[TP_AMOUNT_MAX], shared[TP_AMOUNT_MAX];
    tp_format_bytes((double)report->memory.private_bytes, own);
    tp_format_bytes((double)report->memory.page_cache_bytes, shared);
    fprintf(stderr,
            "load: %.2f s; first token: %.2f s; memory: %s, and %s shared in the page cache\n",
            report->load_seconds, generation->first_token_seconds, own, shared);
    if (report->has_lookup)
        fprintf(stderr, "lookup: %zu tokens drafted, %zu accepted\n", generation->n_drafted,
                generation->n_accepted);
    fprintf(stderr,
            "prompt: %zu tokens, %.2f s, %.1f tokens/s; generated: %zu tokens, %.2f s, %.1f "
            "tokens/s; ended: %s\n",
            generation->n_prompt, generation->prompt_seconds, prompt_rate(generation),
            generation->n_generated, generation->decode_seconds, decode_rate(generation),
            ends_for_people[generation->end]);
}
