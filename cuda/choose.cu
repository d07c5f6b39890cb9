/* Choosing the next tokens: see infer/model/sampling.h for what is chosen.
 *
 * Tokens have keys, 32 bits that grow along the order of likelihood, and the cuts of top-k and
 * top-p and the draw all ask the same: which key is the first at which the number of tokens so far,
 * or the sum of their masses, reaches what is wanted? It is found digit by digit, in three levels:
 * all blocks count the tokens of each digit, those that have the digits found so far, and the last
 * block to arrive finds the next digit. Sums are of whole numbers, so that their order does not
 * matter. Level 0 is counted once for all questions. In the end the token is looked for, by its
 * number where several have the same key. */
#include "cuda/layer.cuh"

enum {
    THREADS = TP_CHOOSE_THREADS,
    WARPS = THREADS / 32,
    BINS = TP_CHOICE_BINS,
    BINS_OF_THREAD = BINS / THREADS,
};

/* ---- tokens ---- */

/* Equal logits have equal keys; NaN has the largest. */
TP_DEVICE uint32_t key_of(float logit)
{
    uint32_t bits = __float_as_uint(logit + 0.0f); /* one zero only */
    if (logit != logit)
        return 0xffffffffu;
    return bits >> 31 != 0 ? bits : ~bits & 0x7fffffffu;
}

TP_DEVICE uint64_t mass_of(float logit, float largest, double temperature)
{
    const double one = (double)((uint64_t)1 << TP_MASS_BITS);
    double mass = rint(one * exp(((double)logit - (double)largest) / temperature));
    return mass >= 1 ? (uint64_t)mass : 0;
}

/* Digits of a key: 11, 11 and 10 bits, the highest first. */
TP_DEVICE uint32_t shift_of(uint32_t level)
{
    return level == 0 ? 21 : level == 1 ? 10 : 0;
}

TP_DEVICE uint32_t bits_of(uint32_t level)
{
    return level < 2 ? 11 : 10;
}

TP_DEVICE uint32_t digit_of(uint32_t key, uint32_t level)
{
    return key >> shift_of(level) & ((1u << bits_of(level)) - 1);
}

TP_DEVICE bool has_digits(uint32_t key, uint32_t found, uint32_t level)
{
    return level == 0 || key >> shift_of(level - 1) == found;
}

/* The tokens of this block. */
struct slice {
    uint32_t first, end;
};

TP_DEVICE struct slice slice_of(const struct tp_choose *a, uint32_t block)
{
    uint32_t size = (a->vocabulary + gridDim.x - 1) / gridDim.x;
    struct slice s = {block * size, (block + 1) * size};
    s.first = s.first < a->vocabulary ? s.first : a->vocabulary;
    s.end = s.end < a->vocabulary ? s.end : a->vocabulary;
    return s;
}

TP_DEVICE float *logits_of(const struct tp_choose *a)
{
    return a->logits + (size_t)blockIdx.y * a->vocabulary;
}

TP_DEVICE uint8_t *seen_of(const struct tp_choose *a)
{
    uint8_t *seen = a->terms->seen;
    return seen != NULL ? seen + (size_t)(a->first_text + blockIdx.y) * a->vocabulary : NULL;
}

/* By one thread. */
TP_DEVICE void finish(const struct tp_choose *a, uint32_t token)
{
    uint8_t *seen = seen_of(a);
    a->chosen[blockIdx.y] = token;
    if (seen != NULL)
        seen[token] = 1;
}

/* ---- sums over a block ---- */

/* What the threads before this one have together; *ret_all: what all have. `sums` is shared memory
 * [WARPS]. */
TP_DEVICE uint64_t sum_before(uint64_t x, uint64_t *sums, uint64_t *ret_all)
{
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint64_t sum = x, before = 0, all = 0;
    for (uint32_t distance = 1; distance < 32; distance *= 2) {
        uint64_t other = __shfl_sync(TP_ALL_LANES, sum, (lane - distance) % 32);
        sum += lane >= distance ? other : 0;
    }
    __syncthreads();
    if (lane == 31)
        sums[warp] = sum;
    __syncthreads();
    for (uint32_t i = 0; i < WARPS; i++) {
        before += i < warp ? sums[i] : 0;
        all += sums[i];
    }
    *ret_all = all;
    return before + sum - x;
}

/* ---- the likeliest ---- */

TP_DEVICE struct tp_likeliest better_of(struct tp_likeliest x, struct tp_likeliest y)
{
    return tp_is_better(y.logit, y.token, x.logit, x.token) ? y : x;
}

/* Of all threads, for thread 0. `best` is shared memory [WARPS]. */
TP_DEVICE struct tp_likeliest best_of_block(struct tp_likeliest mine, struct tp_likeliest *best)
{
    for (int distance = 16; distance > 0; distance /= 2) {
        struct tp_likeliest other = {__shfl_xor_sync(TP_ALL_LANES, mine.logit, distance),
                                     __shfl_xor_sync(TP_ALL_LANES, mine.token, distance)};
        mine = better_of(mine, other);
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        best[threadIdx.x / 32] = mine;
    __syncthreads();
    for (uint32_t warp = 0; warp < WARPS && threadIdx.x == 0; warp++)
        mine = better_of(mine, best[warp]);
    return mine;
}

/* What stands for none. */
TP_DEVICE struct tp_likeliest nothing(void)
{
    struct tp_likeliest none = {__uint_as_float(0x7fffffffu), 0xffffffffu};
    return none;
}

TP_DEVICE bool is_finite(float x)
{
    return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u;
}

TP_KERNEL(tp_choose_largest, struct tp_choose, TP_CHOOSE_THREADS)
{
    struct tp_likeliest *best = (struct tp_likeliest *)(void *)TP_SHARED(); /* [WARPS] */
    uint32_t *flag = (uint32_t *)(void *)(best + WARPS);
    struct tp_likeliest *of_slices = a->of_slices + (size_t)blockIdx.y * TP_CHOICE_SLICES;
    struct slice slice = slice_of(a, blockIdx.x);
    struct tp_likeliest mine = nothing();
    tp_let_next_begin();
    tp_wait_for_previous();
    float *logits = logits_of(a);
    const uint8_t *seen = seen_of(a);
    double penalty = a->terms->penalty;
    for (uint32_t i = slice.first + threadIdx.x; i < slice.end; i += THREADS) {
        struct tp_likeliest one = {logits[i], i};
        if (seen != NULL && seen[i] != 0) {
            double x = (double)one.logit;
            logits[i] = one.logit = (float)(x > 0 ? x / penalty : x * penalty);
        }
        mine = better_of(mine, one);
    }
    mine = best_of_block(mine, best);
    if (threadIdx.x == 0)
        of_slices[blockIdx.x] = mine;
    if (!tp_arrive_last(&a->arrived[blockIdx.y], gridDim.x, flag))
        return;
    mine = nothing();
    for (uint32_t i = threadIdx.x; i < gridDim.x; i += THREADS) {
        struct tp_likeliest one = {tp_load_shared_by_blocks(&of_slices[i].logit),
                                   tp_load_shared_by_blocks(&of_slices[i].token)};
        mine = better_of(mine, one);
    }
    mine = best_of_block(mine, best);
    if (threadIdx.x == 0) {
        struct tp_choice *choice = &a->choices[blockIdx.y];
        choice->largest = mine.logit;
        choice->is_done = !a->draws_follow || !is_finite(mine.logit);
        if (choice->is_done)
            finish(a, mine.token);
    }
}

/* ---- finding keys ---- */

/* Counts of a level, of this text. */
struct bins {
    uint32_t *counts;
    uint64_t *masses;
};

TP_DEVICE struct bins bins_of(const struct tp_choose *a, uint32_t level)
{
    size_t at = ((size_t)blockIdx.y * 2 + (level > 0)) * BINS;
    struct bins bins = {a->counts + at, a->masses + at};
    return bins;
}

TP_DEVICE void clear(const struct bins *bins)
{
    for (uint32_t i = threadIdx.x; i < BINS; i += THREADS) {
        bins->counts[i] = 0;
        bins->masses[i] = 0;
    }
}

/* The next digit. The thread that has it says so in *choice; all threads of the block come here. */
TP_DEVICE void find_digit(const struct bins *bins, uint32_t level, enum tp_question question,
                          struct tp_choice *choice, uint64_t *sums)
{
    uint32_t counts[BINS_OF_THREAD];
    uint64_t masses[BINS_OF_THREAD], count = 0, mass = 0, all;
    for (uint32_t i = 0; i < BINS_OF_THREAD; i++) {
        uint32_t bin = threadIdx.x * BINS_OF_THREAD + i;
        count += counts[i] = tp_load_shared_by_blocks(&bins->counts[bin]);
        mass += masses[i] = tp_load_shared_by_blocks(&bins->masses[bin]);
    }
    uint64_t count_before = sum_before(count, sums, &all);
    uint64_t mass_before = sum_before(mass, sums, &all);
    uint64_t wanted = choice->wanted;
    bool counts_tokens = question == TP_CUT_TO_K;
    uint64_t before = counts_tokens ? count_before : mass_before;
    __syncthreads(); /* all have read what one of them changes */
    if (before >= wanted || before + (counts_tokens ? count : mass) < wanted)
        return;
    for (uint32_t i = 0; i < BINS_OF_THREAD; i++) {
        uint64_t here = counts_tokens ? counts[i] : masses[i];
        if (before + here >= wanted) {
            choice->key = choice->key << bits_of(level) | (threadIdx.x * BINS_OF_THREAD + i);
            choice->wanted = wanted - before;
            choice->mass_before += mass_before;
            choice->mass = counts[i] != 0 ? masses[i] / counts[i] : 0;
            return;
        }
        before += here;
        mass_before += masses[i];
    }
}

/* Asks the next question, of level 0. By all threads of the block. */
TP_DEVICE void ask(const struct tp_choose *a, struct tp_choice *choice, uint64_t *sums)
{
    const struct tp_choice_terms *terms = a->terms;
    struct bins bins = bins_of(a, 0);
    __syncthreads();
    if (threadIdx.x == 0) {
        choice->key = 0;
        choice->mass_before = 0;
        if (a->next == TP_CUT_TO_K) {
            choice->wanted = terms->top_k;
        } else if (a->next == TP_CUT_TO_P) {
            double wanted = terms->top_p * (double)choice->kept;
            uint64_t mass = wanted > 1 ? (uint64_t)ceil(wanted) : 1;
            choice->wanted = mass < choice->kept ? mass : choice->kept;
        } else {
            uint64_t likely = choice->likely;
            choice->kept = choice->kept < likely ? choice->kept : likely;
            choice->wanted = tp_multiply_high(a->draws[blockIdx.y], choice->kept) + 1;
        }
    }
    __syncthreads();
    find_digit(&bins, 0, a->next, choice, sums);
}

/* The key is found: what is left by the cut, or which token of that key is drawn. By one thread. */
TP_DEVICE void answer(enum tp_question question, struct tp_choice *choice)
{
    uint64_t mass = choice->mass;
    if (question == TP_CUT_TO_K)
        choice->kept = choice->mass_before + choice->wanted * mass;
    else if (question == TP_CUT_TO_P)
        choice->kept = choice->mass_before + (choice->wanted + mass - 1) / mass * mass;
    else
        choice->rank = (uint32_t)((choice->wanted - 1) / mass);
}

/* The sum of a level's masses, and at level 0 what min-p leaves, from all blocks. */
TP_DEVICE void begin(const struct tp_choose *a, struct tp_choice *choice, uint64_t *sums)
{
    struct bins bins = bins_of(a, 0);
    uint64_t mass = 0, all;
    for (uint32_t i = 0; i < BINS_OF_THREAD; i++)
        mass += tp_load_shared_by_blocks(&bins.masses[threadIdx.x * BINS_OF_THREAD + i]);
    sum_before(mass, sums, &all);
    if (threadIdx.x == 0) {
        choice->kept = all;
        choice->likely = tp_load_shared_by_blocks(&a->likely[blockIdx.y]);
        a->likely[blockIdx.y] = 0;
    }
}

/* In shared memory first: then there is one addition for each bin and block. */
struct counting {
    uint64_t masses[BINS], sums[WARPS];
    uint32_t counts[BINS], flag;
};

TP_DEVICE void count_tokens(const struct tp_choose *a, const struct tp_choice *choice,
                            struct counting *here)
{
    struct slice slice = slice_of(a, blockIdx.x);
    const float *logits = logits_of(a);
    double temperature = a->terms->temperature;
    uint64_t least = a->terms->least_mass, likely = 0, all;
    for (uint32_t i = slice.first + threadIdx.x; i < slice.end; i += THREADS) {
        uint32_t key = key_of(logits[i]);
        if (!has_digits(key, choice->key, a->level))
            continue;
        uint64_t mass = mass_of(logits[i], choice->largest, temperature);
        tp_add_unordered(&here->counts[digit_of(key, a->level)], 1);
        tp_add_unordered(&here->masses[digit_of(key, a->level)], mass);
        likely += mass >= least ? mass : 0;
    }
    sum_before(likely, here->sums, &all);
    if (a->level == 0 && threadIdx.x == 0 && all != 0)
        tp_add_unordered(&a->likely[blockIdx.y], all);
}

TP_KERNEL(tp_choose_count, struct tp_choose, TP_CHOOSE_THREADS)
{
    struct counting *here = (struct counting *)(void *)TP_SHARED();
    struct tp_choice *choice = &a->choices[blockIdx.y];
    struct bins own = {here->counts, here->masses}, bins = bins_of(a, a->level);
    clear(&own);
    __syncthreads();
    tp_let_next_begin();
    tp_wait_for_previous();
    if (choice->is_done)
        return;
    count_tokens(a, choice, here);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < BINS; i += THREADS) {
        if (here->counts[i] != 0) {
            tp_add_unordered(&bins.counts[i], here->counts[i]);
            tp_add_unordered(&bins.masses[i], here->masses[i]);
        }
    }
    if (!tp_arrive_last(&a->arrived[blockIdx.y], gridDim.x, &here->flag))
        return;
    if (a->level == 0) {
        begin(a, choice, here->sums);
        ask(a, choice, here->sums);
        return;
    }
    find_digit(&bins, a->level, a->question, choice, here->sums);
    __syncthreads();
    clear(&bins);
    if (a->level < 2)
        return;
    if (threadIdx.x == 0)
        answer(a->question, choice);
    if (a->question != TP_DRAW)
        ask(a, choice, here->sums);
}

/* ---- the token ---- */

TP_DEVICE uint64_t count_matches(const struct tp_choose *a, uint32_t key, struct slice slice)
{
    const float *logits = logits_of(a);
    uint64_t n = 0;
    for (uint32_t i = slice.first + threadIdx.x; i < slice.end; i += THREADS)
        n += key_of(logits[i]) == key;
    return n;
}

/* Goes through the slice in order. */
TP_DEVICE void find_token(const struct tp_choose *a, uint32_t key, struct slice slice,
                          uint64_t rank, uint64_t *sums)
{
    const float *logits = logits_of(a);
    uint64_t before = 0, all;
    for (uint32_t first = slice.first; first < slice.end && before <= rank; first += THREADS) {
        uint32_t i = first + threadIdx.x;
        bool matches = i < slice.end && key_of(logits[i]) == key;
        uint64_t mine = before + sum_before(matches, sums, &all);
        if (matches && mine == rank)
            finish(a, i);
        before += all;
    }
}

struct finding {
    uint64_t sums[WARPS], rank;
    uint32_t flag, slice;
};

TP_KERNEL(tp_choose_token, struct tp_choose, TP_CHOOSE_THREADS)
{
    struct finding *here = (struct finding *)(void *)TP_SHARED();
    struct tp_choice *choice = &a->choices[blockIdx.y];
    uint32_t *matches = a->matches + (size_t)blockIdx.y * TP_CHOICE_SLICES;
    struct bins bins = bins_of(a, 0);
    uint64_t all, before;
    tp_let_next_begin();
    tp_wait_for_previous();
    if (choice->is_done)
        return;
    sum_before(count_matches(a, choice->key, slice_of(a, blockIdx.x)), here->sums, &all);
    if (threadIdx.x == 0)
        matches[blockIdx.x] = (uint32_t)all;
    if (!tp_arrive_last(&a->arrived[blockIdx.y], gridDim.x, &here->flag))
        return;
    uint64_t mine = threadIdx.x < gridDim.x ? tp_load_shared_by_blocks(&matches[threadIdx.x]) : 0;
    before = sum_before(mine, here->sums, &all);
    if (before <= choice->rank && choice->rank < before + mine) {
        here->slice = threadIdx.x;
        here->rank = choice->rank - before;
    }
    __syncthreads();
    find_token(a, choice->key, slice_of(a, here->slice), here->rank, here->sums);
    clear(&bins);
}

extern "C" size_t tp_choose_shared_bytes(void)
{
    return sizeof(struct counting);
}
