"""Lines that must not break, and what notices when they do: see test_mutations.py.

A row replaces `old`, which stands in `file` exactly once, by `new`. `check` names one of CHECKS
there: it passes with the line as it is and fails without. `isa`: the table of kernels that runs the
line; where it is "any", the best one of the machine.

What is owned by the tests of the tokenizer and of chats is here as well, with the test's name."""

from collections import namedtuple

Mutation = namedtuple("Mutation", "trap file old new check isa", defaults=("any",))

ROPE, CONFIG_ROPE, CONFIG = "infer/model/rope.c", "infer/model/config_rope.c", "infer/model/config.c"
ATTENTION, BACKEND, LAYERS = "infer/cpu/attention.c", "infer/cpu/backend.c", "infer/cpu/layers.c"
MIXTURE, SEQUENCE, TABLES = "infer/cpu/mixture.c", "infer/cpu/sequence.c", "infer/cpu/mxfp4_tables.c"
ELEMENTWISE, ATTEND = "infer/cpu/elementwise.inc", "infer/cpu/attend.inc"
CLAMPS = "        up = minimum(high, maximum(low, up));\n"

MUTATIONS = [
    # ---- rotary embedding
    Mutation("YaRN's bounds are rounded although truncate is false", ROPE,
             "    if (config->truncate) {", "    if (true) {", "tiny one"),
    Mutation("YaRN's bounds are not rounded although truncate is true", ROPE,
             "    if (config->truncate) {", "    if (false) {", "truncated"),
    Mutation("truncate is false when it is absent", CONFIG_ROPE,
             "rope->truncate = !tp_fields_has(fields, \"truncate\");", "rope->truncate = false;", "truncated by default"),
    Mutation("rope_parameters is not read", CONFIG_ROPE,
             '{"rope_scaling", "rope_parameters"}', '{"rope_scaling", "rope_scaling"}', "rope_parameters"),
    Mutation("rope_scaling is not read", CONFIG_ROPE,
             '{"rope_scaling", "rope_parameters"}', '{"rope_parameters", "rope_parameters"}', "truncated"),
    Mutation("no concentration", CONFIG_ROPE,
             "return factor <= 1 ? 1 : 0.1 * weight * log(factor) + 1;", "return factor <= 1 + weight ? 1 : 1;", "tiny short"),
    Mutation("no concentration of the sines", ROPE,
             "sin_out[i] = (float)sin(angle) * rope->concentration;", "sin_out[i] = (float)sin(angle);", "tiny short"),
    Mutation("no concentration of the cosines", ROPE,
             "cos_out[i] = (float)cos(angle) * rope->concentration;", "cos_out[i] = (float)cos(angle);", "tiny short"),
    Mutation("llama3: slow frequencies are kept", ROPE,
             "        return frequency / factor;\n", "        return frequency;\n", "llama3"),
    Mutation("neighbours are turned together", ELEMENTWISE,
             "    size_t half = head_size / 2;\n", """    size_t half = head_size / 2;
    for (size_t i = 0; i < half; i++) {
        float a = head[2 * i], b = head[2 * i + 1];
        head[2 * i] = a * cosines[i] - b * sines[i];
        head[2 * i + 1] = b * cosines[i] + a * sines[i];
    }
    if (half > 0)
        return;
""", "tiny short"),
    Mutation("turned twice", LAYERS,
             "    for (size_t head = 0; head < r->n_heads; head++)\n",
             "    for (size_t again = 0; again < 2; again++)\n    for (size_t head = 0; head < r->n_heads; head++)\n", "tiny short"),
    Mutation("keys are not turned", BACKEND,
             "    tp_rotate_rows(&cpu->workspace, cpu->keys, rows,", "    tp_rotate_rows(&cpu->workspace, cpu->keys, 0,", "tiny short"),
    Mutation("positions begin again with each step", BACKEND,
             "tp_rope_position(&cpu->model->rope, items[item].sequence->held.length + t,", "tp_rope_position(&cpu->model->rope, t,",
             "tiny short"),

    # ---- attention
    Mutation("the window has a key too many", ATTENTION, "position - a->window + 1;", "position - a->window;", "tiny past_window"),
    Mutation("the window has a key too few", ATTENTION, "position - a->window + 1;", "position - a->window + 2;", "tiny past_window"),
    Mutation("no window", BACKEND, ".window = c->windows[i],", ".window = 0,", "tiny past_window"),
    Mutation("the other layers slide", CONFIG,
             "config->windows[i++] = type == SLIDING ? window : 0;", "config->windows[i++] = type == SLIDING ? 0 : window;",
             "tiny past_window"),
    Mutation("a window's memory has no room for a step", SEQUENCE, "capacity = window + step_max;", "capacity = window;",
             "tiny past_window in steps of 16"),
    Mutation("no sinks", ATTENTION, "bool sink = a->sinks != NULL;", "bool sink = false;", "tiny short"),
    Mutation("sinks do not count in the sum", ATTENTION, "sums[h].total = sink ? 1 : 0;", "sums[h].total = 0;", "tiny short"),
    Mutation("sinks are scaled", ATTENTION, "a->sinks[item->kv_head * group + h]", "a->scale * a->sinks[item->kv_head * group + h]",
             "tiny short"),
    Mutation("sinks of the wrong heads", ATTENTION, "a->sinks[item->kv_head * group + h]", "a->sinks[h]", "tiny short"),
    Mutation("a sink adds a value", ATTENTION,
             "    memset(mixed, 0, group * tp_padded_head(a->cache->head_size) * sizeof *mixed);",
             "    for (size_t i = 0; i < group * tp_padded_head(a->cache->head_size); i++)\n        mixed[i] = 1;", "tiny short"),
    Mutation("scores by the head's size, not its root", BACKEND, "1 / sqrtf((float)c->head_dim)", "1 / (float)c->head_dim", "tiny short"),
    Mutation("query heads share the wrong keys", ATTENTION,
             "(struct place){tp_kv_cache_keys(cache, item->kv_head),", "(struct place){tp_kv_cache_keys(cache, 0),", "tiny short"),
    Mutation("the last block's keys are not cut off", ATTEND,
             "    for (size_t i = last; i < to; i++)\n        weights[i] = -INFINITY;\n", "", "tiny short"),
    Mutation("attention's biases are dropped", BACKEND,
             "product_of(layer->v, layer->v_bias, cpu->values, rows),", "product_of(layer->v, NULL, cpu->values, rows),", "tiny short"),

    # ---- experts
    Mutation("gate and up change places", ELEMENTWISE, "&gate, &up);", "&up, &gate);", "tiny short"),
    Mutation("gates first, then ups", ELEMENTWISE, CLAMPS,
             "        gate = minimum(high, load_up_to(pairs + i, rest));\n        up = load_up_to(pairs + n + i, rest);\n" + CLAMPS,
             "tiny short"),
    Mutation("gate is not clamped", ELEMENTWISE, "        gate = minimum(high, gate);\n", "", "tiny long"),
    Mutation("gate is clamped from below as well", ELEMENTWISE,
             "        gate = minimum(high, gate);\n", "        gate = minimum(high, maximum(low, gate));\n", "clamped"),
    Mutation("up is not clamped from above", ELEMENTWISE, CLAMPS, "        up = maximum(low, up);\n", "tiny long"),
    Mutation("up is not clamped from below", ELEMENTWISE, CLAMPS, "        up = minimum(high, up);\n", "tiny long"),
    Mutation("no alpha", ELEMENTWISE, "sigmoid(gate * broadcast(alpha))", "sigmoid(gate)", "tiny short"),
    Mutation("no 1 beside up", ELEMENTWISE, "(up + broadcast(1)) *", "up *", "tiny short"),
    Mutation("no bias of the router", MIXTURE, ".bias = layer->router_bias,", ".bias = NULL,", "tiny short"),
    Mutation("softmax over all experts", LAYERS, "    kernels->softmax(ret_weights, k, ret_weights);\n", """    float all[1024];
    kernels->softmax(logits, n, all);
    for (size_t i = 0; i < k; i++)
        ret_weights[i] = all[ret_indices[i]];
""", "tiny short"),
    Mutation("the router takes activations in BF16", MIXTURE,
             "tp_multiply(workspace, &vectors, TP_ACTIVATIONS_F32, &product, 1)",
             "tp_multiply(workspace, &vectors, TP_ACTIVATIONS_BF16, &product, 1)", "tiny short"),
    Mutation("no bias of gate and up", MIXTURE,
             "plan(mixture, &experts->gate_up, experts->gate_up_bias, mixture->gate_up);",
             "plan(mixture, &experts->gate_up, NULL, mixture->gate_up);", "tiny short"),
    Mutation("no bias of down", MIXTURE,
             "plan(mixture, &experts->down, experts->down_bias, mixture->outputs);",
             "plan(mixture, &experts->down, NULL, mixture->outputs);", "tiny short"),
    Mutation("every expert has the first one's bias", MIXTURE, "biases + e * rows", "biases", "tiny short"),
    Mutation("a missing tensor is zero", "infer/model/model.c",
             "    if (array == NULL)\n        tp_faults_add(&binding->faults, TP_FAULT_MISSING,",
             "    if (array != NULL && array->data == NULL)\n        tp_faults_add(&binding->faults, TP_FAULT_MISSING,",
             "missing bias is named"),
    Mutation("llama: up goes through the sigmoid", ELEMENTWISE, "g * sigmoid(g) * load_up_to(up + i, n - i)",
             "g * sigmoid(load_up_to(up + i, n - i)) * load_up_to(up + i, n - i)", "llama short"),

    # ---- MXFP4
    Mutation("scale 0 is zero", TABLES, ": 1u << 21)", ": 0u)", "scale 0"),
    Mutation("scale 0 flushes what is no whole power", TABLES, "(2u + (half)) << 21", "0u * (half)", "scale 0"),
    Mutation("scale 255 is a number", TABLES, "((scale) == 255               ? 0x7fc00000u",
             "((scale) == 255               ? 0x3f800000u", "scale 255"),
    Mutation("high nibble first", "infer/cpu/lanes_scalar.h", "tp_mxfp4_f32[scale][codes[i] & 15]",
             "tp_mxfp4_f32[scale][codes[15 - i] & 15]", "tiny short", "scalar"),
    Mutation("high nibble first", "infer/cpu/lanes_avx2.h", "w[2 * i] = look_up(magnitudes, bytes);\n"
             "        w[2 * i + 1] = look_up(magnitudes, _mm256_srli_epi32(bytes, 4));",
             "w[2 * i + 1] = look_up(magnitudes, bytes);\n"
             "        w[2 * i] = look_up(magnitudes, _mm256_srli_epi32(bytes, 4));", "tiny short", "avx2"),
    Mutation("high nibble first", "infer/cpu/lanes_avx512.h", "w[0] = _mm512_permutexvar_ps(bytes, numbers);\n"
             "    w[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), numbers);",
             "w[1] = _mm512_permutexvar_ps(bytes, numbers);\n"
             "    w[0] = _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), numbers);", "tiny short", "avx512"),

    # ---- the whole
    Mutation("the second norm of a layer is the first", BACKEND, "cpu->x, layer->mlp_norm, rows", "cpu->x, layer->input_norm, rows",
             "tiny short"),
    Mutation("a step depends on how the text is cut", BACKEND, ".first = sequence->held.length,",
             ".first = sequence->held.length > 20 ? sequence->held.length - 1 : sequence->held.length,", "tiny text"),

    # ---- what ends a text, and text itself
    Mutation("no token ends a text", "infer/engine/generate.c", "if (config->eos_tokens[i] == token)",
             "if (config->eos_tokens[i] == token + 1)", "a text ends"),
    Mutation("only the last token that ends a text counts", CONFIG,
             "config->eos_tokens[config->n_eos_tokens++] = id;", "config->eos_tokens[config->n_eos_tokens = 0] = id, config->n_eos_tokens = 1;",
             "a text ends"),
    Mutation("generation_config.json is not asked", CONFIG, "rc = read_generation(generation, generation_length, &config, error);",
             "rc = generation_length == 1 ? read_generation(generation, generation_length, &config, error) : 0;", "a text ends"),
    Mutation("a call ends like any message", "infer/chat/harmony_parser.c", "*ret_end = TP_HARMONY_CALL;", "*ret_end = TP_HARMONY_END;",
             "test_chat.py output_is_parsed"),
    Mutation("a date of its own in the system prompt", "infer/chat/harmony.c",
             "const char *date = options->date != NULL ? options->date : message->date;",
             'const char *date = options->date != NULL ? options->date : message->date != NULL ? message->date : "2026-01-01";',
             "test_chat.py options_of_the_system_message"),
    Mutation("text outside of messages is lost", "infer/chat/harmony_parser.c", "    return feed_between(parser, id);", "    return 0;",
             "test_chat.py output_is_parsed"),
    Mutation("text is bytes, not characters", "infer/tokenizer/pattern.c", "PCRE2_UTF | PCRE2_NO_UTF_CHECK;\n    options |=",
             "PCRE2_NO_UTF_CHECK;\n    options |=", "test_tokenizer.py vectors_of_tiny_and_small"),
]
