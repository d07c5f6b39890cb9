"""Lines of the GPU backend that must not break, and what notices when they do: see test_gpu_mutations.py.

A row replaces `old`, which stands exactly once in the files of cuda/ (or in `file`, if it is named), by `new`. `check`: names of tests of
test-kernels, or "model": a forward pass of the tiny model (in a step of many tokens and in steps of one)
under the eyes of watch.h, compared with the CPU's. Any of them that fails is enough."""

from collections import namedtuple

Mutation = namedtuple("Mutation", "trap old new check file", defaults=(None,))

BARRIER = "    __syncthreads();\n"


def without(text, what=BARRIER):
    """old and new: the text without its only barrier, or without `what`."""
    assert text.count(what) == 1, text
    return text, text.replace(what, "")


MUTATIONS = [
    # ---- barriers
    Mutation("a tile's sums are overwritten while they are read",
             *without("    float *target = tp_tile_sums() + (size_t)warp * GROUPS * TP_TILE_SUMS;\n" + BARRIER), "head_for_some_tokens"),
    Mutation("a tile's sums are read while they are written",
             *without("        target[(8 + g) * TP_FEW + 2 * t + 1] = sums[group][3];\n    }\n" + BARRIER), "head_for_some_tokens"),
    Mutation("the embedding's squares are added while they are written",
             *without("        sums[threadIdx.x / 32] = sum;\n" + BARRIER), "embedding"),
    Mutation("a tile's squares are added while they are written",
             *without("        all_squares[cell->row * TP_FEW + cell->token] = exists ? x * x : 0.0f;\n    }\n" + BARRIER), "down_and_sum"),
    Mutation("router sums of warps are added while they are written",
             *without("        sums[(size_t)warp * n + i] = sum;\n    }\n" + BARRIER), "experts_of_all_numbers"),
    Mutation("norms are used by other warps while they are made",
             *without("    tp_norm_scales(&a->squares, a->n_tokens, scales);\n" + BARRIER), "experts_of_all_numbers"),
    Mutation("experts are chosen before all logits are there",
             *without("        finish_router_logits(a, n_tiles, tp_tile_sums(), scales);\n    " + BARRIER, "    " + BARRIER), "experts_of_all_numbers"),
    Mutation("active experts are listed before all tokens have chosen",
             *without(BARRIER + "    if (warp == 0)\n        list_active(routing, a->n_tokens);\n"), "experts_of_all_numbers"),
    Mutation("scores are made before all queries are there",
             *without(BARRIER + "    score(a, &p, queries, scores);\n"), "groups_and_head_sizes"),
    Mutation("scores are weighed while they are made",
             *without(BARRIER + "    weigh(a, &p, scores);\n"), "groups_and_head_sizes"),
    Mutation("values are mixed before their weights are there",
             *without(BARRIER + "    mix(a, &p, scores);\n"), "groups_and_head_sizes"),

    # ---- the last block to arrive
    Mutation("other blocks need not see what a block wrote before it arrives",
             *without("    __threadfence();\n    __syncthreads();\n    if (threadIdx.x == 0) {\n", "    __threadfence();\n"), "down_and_sum"),
    Mutation("a block arrives before all its threads have written",
             *without("    __threadfence();\n    __syncthreads();\n    if (threadIdx.x == 0) {\n"), "down_and_sum"),
    Mutation("threads ask who is last before it is known",
             *without(BARRIER + "    bool last = *flag != 0;\n"), "down_and_sum"),
    Mutation("the last block may see what stood there before",
             *without("    if (last)\n        __threadfence();\n", "    if (last)\n        __threadfence();\n"), "down_and_sum"),
    Mutation("the counter of arrivals is not reset", "            *counter = 0;\n", "            ;\n", "down_and_sum"),
    Mutation("the last but one is taken for the last", "atomicAdd(counter, 1u) == n - 1", "atomicAdd(counter, 1u) == n - 2", "down_and_sum"),
    Mutation("splits are joined by the first block", "p.n_splits, flag))\n        join(a, &p);", "1, flag))\n        join(a, &p);",
             "positions_and_windows"),

    # ---- one kernel after the other
    Mutation("the embedding begins early",
             *without("    float sum = 0;\n    tp_let_next_begin();\n    tp_wait_for_previous();\n", "    tp_wait_for_previous();\n"), "embedding"),
    Mutation("attention begins early",
             *without("    tp_wait_for_previous();\n    struct part p = part_of(a);\n", "    tp_wait_for_previous();\n"), "huge_scores"),
    Mutation("attention begins early and waits then",
             "    tp_wait_for_previous();\n    struct part p = part_of(a);\n", "    struct part p = part_of(a);\n"
             "    float early = a->queries[0];\n    tp_wait_for_previous();\n    if (early == 12345)\n        return;\n", "model"),
    Mutation("queries, keys and values take norms early",
             "            tp_prefetch_rows(u.matrix, &upper, &lower);\n            tp_wait_for_previous();\n"
             "            tp_norm_scales(&a->squares, a->n_tokens, scales);\n",
             "            tp_prefetch_rows(u.matrix, &upper, &lower);\n            tp_norm_scales(&a->squares, a->n_tokens, scales);\n"
             "            tp_wait_for_previous();\n", "model"),
    Mutation("the output projection begins early",
             *without("            tp_prefetch_rows(&a->o, &upper, &lower);\n            tp_wait_for_previous();\n", "            tp_wait_for_previous();\n"),
             "output_of_any_type"),
    Mutation("the output projection waits when it has multiplied",
             "            tp_wait_for_previous();\n        }\n        tp_multiply_tile<WEIGHTS, GROUPS>(&a->o, upper, lower, &a->mixed, &tokens);\n",
             "        }\n        tp_multiply_tile<WEIGHTS, GROUPS>(&a->o, upper, lower, &a->mixed, &tokens);\n"
             "        if (tile == blockIdx.x)\n            tp_wait_for_previous();\n", "model"),
    Mutation("experts are looked up before they are chosen",
             "    bool is_dense = a->gate_up.values == NULL;\n    tp_let_next_begin();\n    tp_wait_for_previous();\n    uint32_t n_active = *routing->n_active;\n",
             "    bool is_dense = a->gate_up.values == NULL;\n    tp_let_next_begin();\n    uint32_t n_active = *routing->n_active;\n    tp_wait_for_previous();\n",
             "model"),
    Mutation("down looks experts up early",
             "    uint32_t *flag = (uint32_t *)(void *)(squares + TP_TILE_SUMS);\n    tp_let_next_begin();\n    tp_wait_for_previous();\n"
             "    uint32_t n_active = *routing->n_active;\n",
             "    uint32_t *flag = (uint32_t *)(void *)(squares + TP_TILE_SUMS);\n    tp_let_next_begin();\n    uint32_t n_active = *routing->n_active;\n"
             "    tp_wait_for_previous();\n", "model"),
    Mutation("the head begins early",
             "            tp_prefetch_rows(&a->head, &upper, &lower);\n            tp_wait_for_previous();\n"
             "            tp_norm_scales(&a->squares, a->n_tokens, scales);\n",
             "            tp_prefetch_rows(&a->head, &upper, &lower);\n            tp_norm_scales(&a->squares, a->n_tokens, scales);\n"
             "            tp_wait_for_previous();\n", "model"),

    # ---- columns
    Mutation("columns are not shuffled", "(i & ~7u) + (j < 4 ? 2 * j : 2 * j - 7) : i", "i : i", "down_and_sum experts_of_every_size"),
    Mutation("columns are shuffled in another order", "(j < 4 ? 2 * j : 2 * j - 7)", "(j < 4 ? 2 * j + 1 : 2 * j - 8)", "experts_of_every_size"),
    Mutation("unpacked nibbles stand in another order", "tp_unpack_nibbles(u << 12, upper_factor)", "tp_unpack_nibbles(u << 8, upper_factor)",
             "experts_of_every_size", "few_tile.cuh"),
    Mutation("parts repeat the whole", "        x -= tp_from_bf16(bits);\n", "", "embedding"),
    Mutation("a part is cut off, not rounded", "return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;", "return bits >> 16;", "embedding"),
    Mutation("ties of BF16 are rounded up", "return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;", "return (bits + 0x8000u) >> 16;",
             "rounding_to_bfloat16"),
    Mutation("parts are added in the other order", "for (uint32_t part = n_parts; part-- > 0;) { /* the small ones first */",
             "for (uint32_t part = 0; part < n_parts; part++) {", "parts_are_added_from_the_smallest"),
    Mutation("a token's parts are another's", "GROUPS == 1 ? g / columns->n_parts : g", "GROUPS == 1 ? g % columns->n_parts : g", "head_for_some_tokens"),
    Mutation("three products have the first part each", "GROUPS == 1 ? g % columns->n_parts : (uint32_t)group", "GROUPS == 1 ? g % columns->n_parts : 0u",
             "head_for_some_tokens"),
    Mutation("columns of no token are not zeros", "    if (token >= vectors->n)\n        return -1;\n", "    if (token > vectors->n)\n        return -1;\n",
             "head_for_some_tokens experts_of_every_size"),
    Mutation("a token without the expert is multiplied", "slot == TP_NO_SLOT ? -1 : (int)(token * vectors->n_per_token + slot)",
             "(int)(token * vectors->n_per_token + slot)", "down_and_sum"),
    Mutation("a row beyond the matrix is read", "struct tp_row lower = tp_row_at(&a->head, upper_row + 8, upper_row + 8 < a->head.rows);",
             "struct tp_row lower = tp_row_at(&a->head, upper_row + 8, true);", "head_at_edges"),
    Mutation("a step of BF16 goes beyond the row", "bool exists = at < w->columns;", "bool exists = true;", "head_at_edges"),
    Mutation("a block of MXFP4 beyond the row is read", "bool upper_exists = block < n_blocks && a->values != NULL;",
             "bool upper_exists = a->values != NULL;", "experts_of_every_size"),
    Mutation("padding of columns holds anything", "tp_device_zero(cuda->device, cuda->memory, bytes, error);", "0;", "model"),

    # ---- MXFP4
    Mutation("scale 255 is a number", "scale == 255 ? 0x7fc0u : (scale + 126) << 7", "(scale + 126) << 7", "scales_that_are_not_numbers"),
    Mutation("scale 255 is a number without tensor cores", "scale == 255 ? __uint_as_float(0x7fc00000u) : ", "", "scales_that_are_not_numbers"),
    Mutation("scales below 2^-126 are zero without tensor cores", "return exponent >= -149 ? __uint_as_float(1u << (exponent + 149)) : 0.0f;",
             "return 0.0f;", "smallest_scales"),
    Mutation("the high nibble comes first", "(column & 1) != 0 ? pair >> 4 : pair & 15", "(column & 1) == 0 ? pair >> 4 : pair & 15",
             "experts_of_other_types"),
    Mutation("half of E2M1 is none", "? 0.5f * (float)magnitude", "? (float)magnitude", "experts_of_other_types"),
    Mutation("the second row has the first one's scales", "tp_mxfp4_factor(lower_scale[i])", "tp_mxfp4_factor(upper_scale[i])",
             "experts_of_every_size"),
    Mutation("experts share the first one's scales", "        w.scales += rows * (w.columns / 32);\n", "        ;\n", "experts_of_every_size"),

    # ---- norms and the residual stream
    Mutation("no epsilon", "sum / (float)squares->size + squares->epsilon", "sum / (float)squares->size", "head_for_some_tokens"),
    Mutation("the sum of squares, not their mean", "sum / (float)squares->size + squares->epsilon", "sum + squares->epsilon", "head_for_some_tokens"),
    Mutation("only a warp's worth of sums of squares is added", "for (uint32_t i = lane; i < squares->n_sums; i += 32)", "for (uint32_t i = lane; i < 32; i += 32)",
             "head_for_some_tokens"),
    Mutation("squares of the weighted row", "exists ? x * x : 0.0f", "exists ? value * value : 0.0f", "down_and_sum"),
    Mutation("the norm's weight is left out", "float value = exists ? x * weight[row] : 0.0f;", "float value = exists ? x : 0.0f;", "down_and_sum"),
    Mutation("experts' outputs take the place of the residual stream", "        x = *target + update;\n", "        x = update;\n", "down_and_sum"),
    Mutation("the projection takes the place of the residual stream", "            x = *target + (tp_tile_value", "            x = 0 * *target + (tp_tile_value",
             "output_at_edges"),
    Mutation("all outputs weigh the same", "a->routing.weights[cell.token * k + i]", "1.0f / k", "down_and_sum"),
    Mutation("inner vectors are not normed", "float scale = routing->scales[cell.token];", "float scale = 1;", "experts_of_every_size"),
    Mutation("logits have the norm of another token", "scales[a->rows != NULL ? a->rows[cell.token] : cell.token]", "scales[cell.token]", "head_for_some_tokens"),
    Mutation("the embedding is normed by its weighted squares", "        sum = fmaf(x, x, sum);\n", "        sum = fmaf(x * a->weight[i], x, sum);\n",
             "embedding", "few.cu"),

    # ---- biases
    Mutation("no bias of queries, keys and values", "first * scale + tp_bias_of(u.bias, u.row)", "first * scale", "queries_keys_and_values", "few.cu"),
    Mutation("the second half has the first one's bias", "second * scale + tp_bias_of(u.bias, u.row + half)", "second * scale + tp_bias_of(u.bias, u.row)",
             "queries_keys_and_values", "few.cu"),
    Mutation("no bias of the output", "                           tp_bias_of(a->bias, row));", "                           0.0f);", "output_at_edges"),
    Mutation("no bias of the router", "sum * scales[i / n_experts] + tp_bias_of(a->router_bias, i % n_experts)", "sum * scales[i / n_experts]",
             "experts_of_all_numbers"),
    Mutation("experts share the first one's bias", "size_t bias = 2 * ((size_t)expert * a->inner + unit);", "size_t bias = 2 * (size_t)unit;",
             "experts_of_every_size"),
    Mutation("up has gate's bias", "tp_bias_of(a->bias, bias + 1)", "tp_bias_of(a->bias, bias)", "experts_of_every_size", "few.cu"),
    Mutation("down's experts share the first one's bias", "bias_of(a->bias, (size_t)expert * w.rows + row)", "bias_of(a->bias, row)", "down_and_sum"),
    Mutation("no bias of a dense up", "up + tp_bias_of(a->up_bias, unit)", "up", "dense_layers", "few.cu"),

    # ---- SwiGLU
    Mutation("gate is not clamped", "    gate = gate > limit ? limit : gate;\n", "", "experts_of_every_size"),
    Mutation("gate is clamped from below as well", "    gate = gate > limit ? limit : gate;\n", "    gate = gate > limit ? limit : gate < -limit ? -limit : gate;\n",
             "experts_of_every_size"),
    Mutation("up is not clamped from below", "up > limit ? limit : up < -limit ? -limit : up", "up > limit ? limit : up", "experts_of_every_size"),
    Mutation("up is not clamped from above", "up > limit ? limit : up < -limit ? -limit : up", "up < -limit ? -limit : up", "experts_of_every_size"),
    Mutation("no alpha", "expf(-alpha * gate)", "expf(-gate)", "experts_of_every_size"),
    Mutation("no 1 beside up", "* (up + 1.0f)", "* up", "experts_of_every_size"),
    Mutation("gates first, then ups", "upper = tp_row_at(&w, 2 * (size_t)unit, exists);", "upper = tp_row_at(&w, (size_t)unit, exists);", "experts_of_every_size"),
    Mutation("up goes through the sigmoid", "return gate / (1.0f + expf(-gate)) * up;", "return gate / (1.0f + expf(-up)) * up;", "dense_layers"),

    # ---- rotary embedding, cache
    Mutation("neighbours are turned together", "    u.row = u.head * a->cache.head_size + pair;\n", "    u.row = u.head * a->cache.head_size + 2 * pair;\n",
             "queries_keys_and_values"),
    Mutation("the other half turns the other way", "second = second * c + first * s;", "second = second * c - first * s;", "queries_keys_and_values"),
    Mutation("turned by what was turned", "        float turned = first * c - second * s;\n        second", "        first = first * c - second * s;\n        float turned = first;\n        second",
             "queries_keys_and_values"),
    Mutation("values are turned", "    if (u->kind != 2) {\n", "    if (u->kind != 3) {\n", "queries_keys_and_values"),
    Mutation("keys are not turned", "    if (u->kind != 2) {\n", "    if (u->kind == 0) {\n", "queries_keys_and_values"),
    Mutation("all tokens stand where the first does", "a->cosines[token * half + u->pair], s", "a->cosines[u->pair], s", "queries_keys_and_values"),
    Mutation("keys and values are stored behind each other's", "u->kind == 1 ? place.keys : place.values", "u->kind == 2 ? place.keys : place.values",
             "queries_keys_and_values"),
    Mutation("a ring does not wrap when it is written", "a->places.positions[token] % place.capacity", "a->places.positions[token]", "queries_keys_and_values"),
    Mutation("a ring has the size of the context", "place.capacity = cache->is_ring ? ring : s.capacity;", "place.capacity = s.capacity;",
             "queries_keys_and_values positions_and_windows"),
    Mutation("layers before this one are not counted", "(size_t)cache->rings_before * ring +", "(size_t)cache->whole_before * ring +", "queries_keys_and_values"),
    Mutation("values lie behind a context's keys, not a ring's", "place.values = place.keys + position * place.capacity;",
             "place.values = place.keys + position * s.capacity;", "queries_keys_and_values"),
    Mutation("a ring has no room for a step", "window_of(c) + step_max", "window_of(c)", "model"),

    # ---- attention
    Mutation("the window has a key too many", "position - a->window + 1;", "position - a->window;", "positions_and_windows", "attend.cu"),
    Mutation("the window has a key too few", "position - a->window + 1;", "position - a->window + 2;", "positions_and_windows", "attend.cu"),
    Mutation("a split reaches into the next", "end = begin + TP_GPU_KEY_SPLIT;", "end = begin + TP_GPU_KEY_SPLIT + 1;", "positions_and_windows"),
    Mutation("a split ends early", "end = begin + TP_GPU_KEY_SPLIT;", "end = begin + TP_GPU_KEY_SPLIT - 1;", "positions_and_windows"),
    Mutation("the position itself is not seen", "end < position + 1 ? end : position + 1", "end < position ? end : position", "positions_and_windows"),
    Mutation("a position sees what comes after it", "end < position + 1 ? end : position + 1", "end", "a_step_of_one_sequence"),
    Mutation("a split in which the window ends is left out", "position / TP_GPU_KEY_SPLIT - p.first_split + 1", "(position - first) / TP_GPU_KEY_SPLIT + 1",
             "positions_and_windows"),
    Mutation("keys are read beyond the ring", "position % p->place.capacity) * size", "position) * size", "positions_and_windows"),
    Mutation("values are read beyond the ring", "(p->first + key) % p->place.capacity", "(p->first + key)", "positions_and_windows"),
    Mutation("scores are not scaled", "sums[h] * a->scale", "sums[h]", "positions_and_windows"),
    Mutation("exponentials of scores as they are", "row[i] = expf(row[i] - largest);", "row[i] = expf(row[i]);", "huge_scores"),
    Mutation("splits count by their sums alone", "float share = expf(tp_load_shared_by_blocks(&a->sums[result * 2]) - largest);", "float share = 1;",
             "positions_and_windows"),
    Mutation("a sink adds to no sum", "a->sinks != NULL ? expf(a->sinks[head] - largest) : 0.0f", "0.0f", "positions_and_windows"),
    Mutation("the sink of another head", "float largest = a->sinks != NULL ? a->sinks[head] : -INFINITY;",
             "head = in_group;\n        float largest = a->sinks != NULL ? a->sinks[head] : -INFINITY;", "positions_and_windows"),
    Mutation("splits are not joined by the largest of their scores", "            largest =\n                fmaxf(largest, tp_load", "            (void)\n                fmaxf(largest, tp_load",
             "huge_scores"),
    Mutation("heads see the first one's weights", "weights + i / size * TP_GPU_KEY_SPLIT", "weights", "groups_and_head_sizes"),

    # ---- the router
    Mutation("the last of equals is chosen", "x_is_number && x != y ? x > y : i < j", "x_is_number && x != y ? x > y : i > j", "ties_and_what_is_no_number"),
    Mutation("NaN is best", "    if (x_is_number != y_is_number)\n        return x_is_number;\n", "    if (x_is_number != y_is_number)\n        return y_is_number;\n",
             "ties_and_what_is_no_number"),
    Mutation("NaN is like any other", "    if (x_is_number != y_is_number)\n        return x_is_number;\n", "", "ties_and_what_is_no_number"),
    Mutation("the worst is chosen", "x_is_number && x != y ? x > y : i < j", "x_is_number && x != y ? x < y : i < j", "experts_of_all_numbers"),
    Mutation("lanes without an expert win", "            if (other_expert != 0xffffffffu &&\n                (best_expert", "            if (true &&\n                (best_expert",
             "experts_of_all_numbers ties_and_what_is_no_number"),
    Mutation("an expert is chosen twice", "tp_is_better(previous, previous_expert, logits[expert], expert)", "true", "experts_of_all_numbers"),
    Mutation("weights are not a softmax", "            weights[i] /= total;\n", "            ;\n", "experts_of_all_numbers"),
    Mutation("exponentials of router logits as they are", "weights[i] = expf(best - largest);", "weights[i] = expf(best);", "ties_and_what_is_no_number"),
    Mutation("experts above the 32nd are lost", "uint32_t at = n + (uint32_t)__popc(all & ((1u << lane) - 1));", "uint32_t at = (uint32_t)__popc(all & ((1u << lane) - 1));",
             "experts_of_all_numbers"),
    Mutation("a tile's router sums are the first token's", "values[j * TP_FEW + token], sum);", "values[j * TP_FEW], sum);", "experts_of_all_numbers"),
    Mutation("a tile beyond the row counts for the router", "j < TP_TILE_ROWS && tile * TP_TILE_ROWS + j < a->router.columns", "j < TP_TILE_ROWS",
             "output_at_edges"),

    # ---- steps of many tokens
    Mutation("a step's rows are overwritten while they are multiplied",
             *without("        tp_copy_wait<STAGES - 2>();\n    " + BARRIER, "    " + BARRIER), "model", "many_tile.cuh"),
    Mutation("a step's rows are multiplied before they have come", "        tp_copy_wait<STAGES - 2>();\n", "", "model"),
    Mutation("steps are copied to each other's place", "shared + ahead % STAGES * stage_bytes", "shared + step % STAGES * stage_bytes", "model"),
    Mutation("factors are those of the step behind", "WEIGHTS::factor(w, &sources.upper[m], step + 1, t)", "WEIGHTS::factor(w, &sources.upper[m], step, t)",
             "model"),
    Mutation("chunks of vectors keep their places", "WEIGHTS::place(row, chunk) * 16,\n                          columns->parts + at",
             "chunk * 16,\n                          columns->parts + at", "model"),
    Mutation("only the largest part is multiplied", "uint32_t part = PARTS - 1 - i;", "uint32_t part = 0;", "model"),
    Mutation("keys are scored before all are there", *without(BARRIER + "        score(a, &tile, &d, first);\n"), "model"),
    Mutation("values take the place of keys that are read", *without(BARRIER + "        weigh(&d);\n"), "model"),
    Mutation("values are mixed before all are there", *without(BARRIER + "        mix(&d);\n"), "model"),
    Mutation("the sink has no part in prompts", "d->total[row] = sink ? 1.0f : 0.0f;", "d->total[row] = 0.0f;", "model"),
    Mutation("prompts see what follows", "position >= q.first && position <= q.position", "position >= q.first", "model"),
    Mutation("slots belong to choices", "a->slots.tokens[at] = i / k;", "a->slots.tokens[at] = i;", "model"),
    Mutation("slots are counted while they are numbered",
             *without(BARRIER + "    for (uint32_t expert = warp; expert < n_experts; expert += SORT_WARPS)\n        number_slots(a, expert, first[expert], false);\n"),
             "model"),
    Mutation("outputs are not weighted", "sum = fmaf(slots->weights[token * k + j], a->outputs[slot * a->columns.size + i], sum);",
             "sum += a->outputs[slot * a->columns.size + i];", "model"),
]
