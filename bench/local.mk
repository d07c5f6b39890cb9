# What tells how fast it is; see bench/README.md. The programs are built with everything else, so
# that they stay compilable.
noinst_PROGRAMS += bench/blocks bench/codec bench/decode bench/infer_kernels bench/nullfs \
	bench/reader bench/tokenizer bench/weights

bench_blocks_SOURCES = bench/blocks.c
bench_blocks_LDADD = $(DECODE_LIBS)

bench_codec_SOURCES = bench/codec.c
bench_codec_LDADD = $(DECODE_LIBS)

bench_decode_SOURCES = bench/decode.c
bench_decode_LDADD = $(INFER_LIBS)

bench_infer_kernels_SOURCES = bench/infer_kernels.c
bench_infer_kernels_LDADD = $(INFER_LIBS)

bench_nullfs_SOURCES = bench/nullfs.c
bench_nullfs_CFLAGS = $(AM_CFLAGS) $(FUSE_CFLAGS)
bench_nullfs_LDADD = $(FUSE_LIBS)

bench_reader_SOURCES = bench/reader.c

bench_weights_SOURCES = bench/weights.c
bench_weights_LDADD = $(INFER_LIBS)
bench_tokenizer_SOURCES = bench/tokenizer.c
bench_tokenizer_LDADD = $(INFER_LIBS)

EXTRA_DIST += \
	bench/README.md \
	bench/bench.py \
	bench/checkpoints.py \
	bench/codec.py \
	bench/convert_worker.py \
	bench/decode.py \
	bench/exports.py \
	bench/gpu_torch.py \
	bench/infer.py \
	bench/jax_tables.py \
	bench/jax_worker.py \
	bench/kernels.py \
	bench/load_worker.py \
	bench/loads.py \
	bench/machine.py \
	bench/measure.py \
	bench/model.py \
	bench/mounts.py \
	bench/pack.py \
	bench/plot_infer.py \
	bench/plot_jax.py \
	bench/reads.py \
	bench/report.py \
	bench/run.py \
	bench/tokenizer.py \
	bench/tokenizer_worker.py \
	bench/write_gguf.py

# make bench BENCHFLAGS='--quick --only direct'
.PHONY: bench
bench: all
	$(PYTHON) -B $(srcdir)/bench/run.py --build-dir . $(BENCHFLAGS)

# For any machine, also one with a GPU: bench/gpu . [OUTPUT], bench/jax .
dist_noinst_SCRIPTS = bench/gpu bench/jax
