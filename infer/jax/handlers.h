/* What XLA calls: on the CPU, and in a library of their own (infer/jax/cuda/) for CUDA, on the
 * stream that XLA passes. tensorport/_ffi.py registers each under its name, for either platform.
 *
 * Arrays are row major. [*L] are leading axes of any number, none included; any dimension may be 0.
 * x is float32 or bfloat16 and so is the result; sums are float32. Biases, sinks and caches are
 * float32 or bfloat16. What does not fit is INVALID_ARGUMENT with a message that says what was
 * expected; RESOURCE_EXHAUSTED when memory runs out.
 *
 * Those for CUDA look at no number of an argument on the host, and never wait for the device: what
 * is above holds for its memory. They compute in the sums and orders of the plugin's kernels.
 */
#ifndef TENSORPORT_INFER_JAX_HANDLERS_H
#define TENSORPORT_INFER_JAX_HANDLERS_H

struct XLA_FFI_CallFrame;
struct XLA_FFI_Error;

#define TP_EXPORT __attribute__((visibility("default")))

typedef struct XLA_FFI_Error *tp_xla_handler(struct XLA_FFI_CallFrame *frame);

/* (x [*L, ..., K], blocks u8 [*L, N, K/32, 16], scales u8 [*L, N, K/32], bias [*L, N]?)
 * -> [*L, ..., N] = x W^T + bias */
TP_EXPORT tp_xla_handler tensorport_mxfp4_matmul;

/* (x [*L, ..., K], w [*L, N, K] in bf16, f16 or f32, bias [*L, N]?) -> [*L, ..., N] */
TP_EXPORT tp_xla_handler tensorport_dense_matmul;

/* (x [T, H], experts s32 [T, k], weights f32 [T, k],
 *  gate_up u8 [E, 2 I, H/32, 16], gate_up_scales u8 [E, 2 I, H/32],
 *  down u8 [E, H, I/32, 16], down_scales u8 [E, H, I/32],
 *  (gate_up_bias [E, 2 I], down_bias [E, H])?; alpha f32, limit f32)
 * -> [T, H]
 * GPT-OSS's clamped SwiGLU: see kernels.h. An expert outside 0 .. E - 1 adds nothing. */
TP_EXPORT tp_xla_handler tensorport_mxfp4_moe;

/* (x [*L, K] in f32, f16 or bf16) -> (blocks u8 [*L, K/32, 16], scales u8 [*L, K/32]): see
 * decode/mxfp4_encode.h */
TP_EXPORT tp_xla_handler tensorport_mxfp4_quantize;

/* (blocks u8 [*L, G, 16], scales u8 [*L, G]) -> [*L, 32 G] in f32, f16 or bf16: see decode/codec.h
 */
TP_EXPORT tp_xla_handler tensorport_mxfp4_dequantize;

/* (q [*L, T, heads, d], keys [*L, capacity, kv_heads, d], values like keys, positions s32 [*L, T],
 *  sinks [heads]?; window s64, 0: none; scale f32)
 * -> [*L, T, heads, d]
 * A query sees keys up to its position, of which `window`. Outside 0 .. capacity - 1 it sees
 * nothing and gives zeros. */
TP_EXPORT tp_xla_handler tensorport_sink_attention;

/* The number that changes with any of the above: the package asks for its own. */
TP_EXPORT int tensorport_xla_interface(void);

#endif
