#include "fs/export/synth/synth_words.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Words are a blank and up to three syllables, a consonant and a vowel each. Each is the merge of
 * a shorter one and its last syllable, in the order of the ids:
 *
 *     "ba" = "b" "a"     " ba" = " " "ba"     " bado" = " ba" "do"     " badoke" = " bado" "ke"
 */
static const char consonants[] = "bdfgklmnprstvz", vowels[] = "aeiou";

enum {
    N_BYTES = 256,
    N_SYLLABLES = (sizeof consonants - 1) * (sizeof vowels - 1),
    N_PAIRS = N_SYLLABLES * N_SYLLABLES,
    N_TRIPLES = N_PAIRS * N_SYLLABLES,
    /* Coprime to the counts above: neighbours in the vocabulary are not all alike. */
    PAIR_STRIDE = 2719,
    TRIPLE_STRIDE = 190027,
    PIECE_SIZE = 16,
};

#define BLANK "\xc4\xa0" /* U+0120, which stands for a blank in byte-level BPE */

struct word {
    char first[PIECE_SIZE], second[PIECE_SIZE];
};

/* "ba", "be", ... */
static void syllable(size_t index, char ret_text[3])
{
    size_t n_vowels = sizeof vowels - 1;
    ret_text[0] = consonants[index / n_vowels];
    ret_text[1] = vowels[index % n_vowels];
    ret_text[2] = '\0';
}

/* The word behind the 256 bytes; false when there are no more. */
static bool word_at(size_t index, struct word *ret_word)
{
    char a[3], b[3];
    if (index < N_SYLLABLES) {
        syllable(index, a);
        snprintf(ret_word->first, PIECE_SIZE, "%c", a[0]);
        snprintf(ret_word->second, PIECE_SIZE, "%c", a[1]);
        return true;
    }
    index -= N_SYLLABLES;
    if (index < N_SYLLABLES) {
        snprintf(ret_word->first, PIECE_SIZE, BLANK);
        syllable(index, ret_word->second);
        return true;
    }
    index -= N_SYLLABLES;
    if (index < N_PAIRS) {
        index = index * PAIR_STRIDE % N_PAIRS;
        syllable(index / N_SYLLABLES, a);
        snprintf(ret_word->first, PIECE_SIZE, BLANK "%s", a);
        syllable(index % N_SYLLABLES, ret_word->second);
        return true;
    }
    index -= N_PAIRS;
    if (index >= N_TRIPLES)
        return false;
    index = index * TRIPLE_STRIDE % N_TRIPLES;
    syllable(index / N_PAIRS, a);
    syllable(index / N_SYLLABLES % N_SYLLABLES, b);
    syllable(index % N_SYLLABLES, ret_word->second);
    snprintf(ret_word->first, PIECE_SIZE, BLANK "%s%s", a, b);
    return true;
}

/* ---- the tree ---- */

/* Adds `item`, or deletes it. */
static bool add_to_array(cJSON *array, cJSON *item)
{
    bool added = item != NULL && cJSON_AddItemToArray(array, item);
    if (!added)
        cJSON_Delete(item);
    return added;
}

static bool add_string(cJSON *array, const char *text)
{
    return add_to_array(array, cJSON_CreateString(text));
}

/* Bytes as the characters that byte-level BPE writes for them: themselves where they can be seen,
 * from U+0100 on otherwise (Radford et al., GPT-2's bytes_to_unicode). */
static bool add_bytes(cJSON *vocabulary)
{
    unsigned n_hidden = 0, id = 0;
    for (unsigned byte = 0; byte < N_BYTES; byte++) {
        bool seen = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
        unsigned code = seen ? byte : N_BYTES + n_hidden++;
        char text[3] = {(char)code};
        if (code >= 0x80) {
            text[0] = (char)(0xc0 | code >> 6);
            text[1] = (char)(0x80 | (code & 0x3f));
        }
        if (cJSON_AddNumberToObject(vocabulary, text, id++) == NULL)
            return false;
    }
    return true;
}

static bool add_words(cJSON *vocabulary, cJSON *merges, uint64_t n_text)
{
    struct word word;
    for (uint64_t id = N_BYTES; id < n_text && word_at((size_t)id - N_BYTES, &word); id++) {
        char text[2 * PIECE_SIZE];
        snprintf(text, sizeof text, "%s%s", word.first, word.second);
        cJSON *merge = cJSON_CreateArray();
        if (cJSON_AddNumberToObject(vocabulary, text, (double)id) == NULL ||
            !add_to_array(merges, merge) || !add_string(merge, word.first) ||
            !add_string(merge, word.second))
            return false;
    }
    return true;
}

static cJSON *make_model(uint64_t n_text)
{
    cJSON *model = cJSON_CreateObject();
    cJSON_AddStringToObject(model, "type", "BPE");
    cJSON_AddNullToObject(model, "dropout");
    cJSON_AddNullToObject(model, "unk_token");
    cJSON_AddNullToObject(model, "continuing_subword_prefix");
    cJSON_AddNullToObject(model, "end_of_word_suffix");
    cJSON_AddFalseToObject(model, "fuse_unk");
    cJSON_AddFalseToObject(model, "byte_fallback");
    cJSON_AddFalseToObject(model, "ignore_merges");
    cJSON *vocabulary = cJSON_AddObjectToObject(model, "vocab");
    cJSON *merges = cJSON_AddArrayToObject(model, "merges");
    if (vocabulary == NULL || merges == NULL || !add_bytes(vocabulary) ||
        !add_words(vocabulary, merges, n_text)) {
        cJSON_Delete(model);
        return NULL;
    }
    return model;
}

static bool add_special(cJSON *tokens, uint64_t id, const char *content)
{
    static const char *const off[] = {"single_word", "lstrip", "rstrip", "normalized"};
    cJSON *token = cJSON_CreateObject();
    cJSON_AddNumberToObject(token, "id", (double)id);
    cJSON_AddStringToObject(token, "content", content);
    for (size_t i = 0; i < sizeof off / sizeof *off; i++)
        cJSON_AddFalseToObject(token, off[i]);
    cJSON_AddTrueToObject(token, "special");
    return add_to_array(tokens, token);
}

/* Where config.json has them: see tp_synth_config_make(). */
static cJSON *make_special(const struct tp_synth_config *config)
{
    static const char *const harmony[] = {
        [0] = "<|startoftext|>", [1] = "<|endoftext|>",   [4] = "<|return|>", [5] = "<|constrain|>",
        [7] = "<|channel|>",     [8] = "<|start|>",       [9] = "<|end|>",    [10] = "<|message|>",
        [14] = "<|call|>",       [20] = "<|endofprompt|>"};
    static const char *const plain[] = {"<s>", "</s>"};
    bool is_harmony = config->arch == TP_SYNTH_GPT_OSS;
    const char *const *names = is_harmony ? harmony : plain;
    size_t n = is_harmony ? sizeof harmony / sizeof *harmony : sizeof plain / sizeof *plain;
    cJSON *tokens = cJSON_CreateArray();
    for (size_t i = 0; i < n && config->n_text + i < config->vocab; i++) {
        if (names[i] != NULL && !add_special(tokens, config->n_text + i, names[i])) {
            cJSON_Delete(tokens);
            return NULL;
        }
    }
    return tokens;
}

/* Splits text as the o200k vocabulary does, then takes it byte by byte. */
static cJSON *make_splitter(void)
{
    static const char text[] =
        "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": "
        "{\"Regex\": "
        "\"[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]*"
        "[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]+"
        "[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        "\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*|\\\\s*[\\\\r\\\\n]+|"
        "\\\\s+(?!\\\\S)|\\\\s+\"}, \"behavior\": \"Isolated\", \"invert\": false}, "
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
        "\"use_regex\": false}]}";
    return cJSON_Parse(text);
}

static cJSON *make_byte_level(void)
{
    return cJSON_Parse("{\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
                       "\"trim_offsets\": false, \"use_regex\": true}");
}

int tp_synth_words(const struct tp_synth_config *config, cJSON **ret_tokenizer,
                   struct tp_error *error)
{
    if (config->n_text < N_BYTES)
        return tp_error_set(error, -EINVAL,
                            "a tokenizer needs ids for 256 bytes, found %llu before the special "
                            "tokens; give a larger vocab_size",
                            (unsigned long long)config->n_text);
    struct {
        const char *name;
        cJSON *item;
    } members[] = {
        {"version", cJSON_CreateString("1.0")}, {"truncation", cJSON_CreateNull()},
        {"padding", cJSON_CreateNull()},        {"added_tokens", make_special(config)},
        {"normalizer", cJSON_CreateNull()},     {"pre_tokenizer", make_splitter()},
        {"post_processor", make_byte_level()},  {"decoder", make_byte_level()},
        {"model", make_model(config->n_text)},
    };
    cJSON *tree = cJSON_CreateObject();
    int rc = tree == NULL ? -ENOMEM : 0;
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        if (members[i].item == NULL ||
            !cJSON_AddItemToObject(tree, members[i].name, members[i].item))
            rc = -ENOMEM;
    }
    if (rc < 0) {
        cJSON_Delete(tree);
        return tp_error_set(error, rc, "out of memory");
    }
    *ret_tokenizer = tree;
    return 0;
}
