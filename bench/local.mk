# What tells how fast it is; see bench/README.md. The programs are built with everything else, so
# that they stay compilable; `make bench` runs them.
noinst_PROGRAMS += bench/codec bench/nullfs bench/reader

bench_codec_SOURCES = bench/codec.c
bench_codec_LDADD = $(DECODE_LIBS)

bench_nullfs_SOURCES = bench/nullfs.c
bench_nullfs_CFLAGS = $(AM_CFLAGS) $(FUSE_CFLAGS)
bench_nullfs_LDADD = $(FUSE_LIBS)

bench_reader_SOURCES = bench/reader.c
