noinst_LIBRARIES += libfs.a

# Everything but FUSE: what the mount and the exports share.
libfs_a_SOURCES = \
	fs/base/amount.c fs/base/amount.h \
	fs/base/bytes.c fs/base/bytes.h \
	fs/base/clock.h \
	fs/base/gate.c fs/base/gate.h \
	fs/base/io.c fs/base/io.h \
	fs/base/json_text.c fs/base/json_text.h \
	fs/base/log.c fs/base/log.h \
	fs/base/mounts.c fs/base/mounts.h \
	fs/base/options.c fs/base/options.h \
	fs/base/progress.c fs/base/progress.h \
	fs/base/stop.c fs/base/stop.h \
	fs/base/text.c fs/base/text.h \
	fs/base/workers.c fs/base/workers.h \
	fs/cache/cache.c fs/cache/cache.h \
	fs/cache/list.h \
	fs/cache/prefetch.c fs/cache/prefetch.h \
	fs/checkpoint/checkpoint.c fs/checkpoint/checkpoint.h \
	fs/checkpoint/index.c fs/checkpoint/index.h \
	fs/checkpoint/mxfp4.c fs/checkpoint/mxfp4.h \
	fs/checkpoint/packed.c fs/checkpoint/packed.h \
	fs/checkpoint/source.c fs/checkpoint/source.h \
	fs/view/arguments.c fs/view/arguments.h \
	fs/view/checksums.c fs/view/checksums.h \
	fs/view/content.c fs/view/content.h \
	fs/view/extents.c fs/view/extents.h \
	fs/view/manifest.c fs/view/manifest.h \
	fs/view/names.c fs/view/names.h \
	fs/view/reader.c fs/view/reader.h \
	fs/view/statistics.c fs/view/statistics.h \
	fs/view/tree.c fs/view/tree.h \
	fs/view/view.c fs/view/view.h \
	fs/view/xattr.c
libfs_a_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS) $(XXHASH_CFLAGS)

FS_LIBS = libfs.a $(DECODE_LIBS) $(CJSON_LIBS)

bin_PROGRAMS += tensorport-mount
tensorport_mount_SOURCES = \
	fs/mount/daemon.c fs/mount/daemon.h \
	fs/mount/main.c \
	fs/mount/mount_point.c fs/mount/mount_point.h \
	fs/mount/operations.c fs/mount/operations.h \
	fs/mount/options.c fs/mount/options.h \
	fs/mount/session.c fs/mount/session.h \
	fs/mount/watch.c fs/mount/watch.h
tensorport_mount_CFLAGS = $(AM_CFLAGS) $(FUSE_CFLAGS) $(SYSTEMD_CFLAGS)
tensorport_mount_LDADD = $(FS_LIBS) $(FUSE_LIBS) $(SYSTEMD_LIBS)

# The command line tool; synth's arithmetic must round as its reference does, so nothing in it
# may be contracted into fused multiply-adds.
bin_PROGRAMS += tensorport
tensorport_SOURCES = \
	fs/export/command_convert.c \
	fs/export/command_doctor.c \
	fs/export/command_inspect.c \
	fs/export/command_mounts.c \
	fs/export/command_pack.c \
	fs/export/command_run.c \
	fs/export/command_umount.c \
	fs/export/command_verify.c \
	fs/export/commands.h \
	fs/export/main.c \
	fs/export/common/hashes.c fs/export/common/hashes.h \
	fs/export/convert/artifact.c fs/export/convert/artifact.h \
	fs/export/convert/container.c fs/export/convert/container.h \
	fs/export/convert/convert.c fs/export/convert/convert.h \
	fs/export/convert/format_msgpack.c \
	fs/export/convert/format_numpy.c \
	fs/export/convert/format_pickle.c \
	fs/export/convert/format_quantized.c \
	fs/export/convert/format_safetensors.c fs/export/convert/format_safetensors.h \
	fs/export/convert/formats.c fs/export/convert/formats.h \
	fs/export/convert/journal.c fs/export/convert/journal.h \
	fs/export/convert/json_edit.c fs/export/convert/json_edit.h \
	fs/export/convert/losses.c fs/export/convert/losses.h \
	fs/export/convert/quantize.c fs/export/convert/quantize.h \
	fs/export/convert/quantize_choice.c fs/export/convert/quantize_choice.h \
	fs/export/convert/quantize_report.c fs/export/convert/quantize_report.h \
	fs/export/convert/quantized_config.c \
	fs/export/convert/quantized_view.c fs/export/convert/quantized_view.h \
	fs/export/convert/tile.c fs/export/convert/tile.h \
	fs/export/convert/transpose.c fs/export/convert/transpose.h \
	fs/export/convert/writer.c fs/export/convert/writer.h \
	fs/export/convert/writer_file.c fs/export/convert/writer_file.h \
	fs/export/doctor/doctor.c fs/export/doctor/doctor.h \
	fs/export/doctor/doctor_memory.c \
	fs/export/doctor/doctor_model.c \
	fs/export/doctor/doctor_mounts.c \
	fs/export/doctor/doctor_system.c \
	fs/export/inspect/statistics_print.c fs/export/inspect/statistics_print.h \
	fs/export/inspect/tensor_statistics.c fs/export/inspect/tensor_statistics.h \
	fs/export/mounts/columns.c fs/export/mounts/columns.h \
	fs/export/mounts/keeper.c fs/export/mounts/keeper.h \
	fs/export/mounts/mount_probe.c fs/export/mounts/mount_probe.h \
	fs/export/mounts/mount_users.c fs/export/mounts/mount_users.h \
	fs/export/mounts/programs.c fs/export/mounts/programs.h \
	fs/export/pack/files.c fs/export/pack/files.h \
	fs/export/pack/pack.c fs/export/pack/pack.h \
	fs/export/pack/pack_copy.c fs/export/pack/pack_copy.h \
	fs/export/pack/turns.c fs/export/pack/turns.h \
	fs/export/pack/unpack.c \
	fs/export/verify/differences.c fs/export/verify/differences.h \
	fs/export/verify/faults.c fs/export/verify/faults.h \
	fs/export/verify/inventory.c fs/export/verify/inventory.h \
	fs/export/verify/manifest_check.c \
	fs/export/verify/manifest_read.c fs/export/verify/manifest_read.h \
	fs/export/verify/sums_read.c fs/export/verify/sums_read.h \
	fs/export/verify/verify.c fs/export/verify/verify.h \
	fs/export/verify/verify_packed.c fs/export/verify/verify_packed.h \
	fs/export/verify/verify_read.c fs/export/verify/verify_read.h \
	fs/export/verify/verify_source.c fs/export/verify/verify_source.h
tensorport_CPPFLAGS = $(AM_CPPFLAGS) -DTP_BINDIR='"$(bindir)"' -DTP_SBINDIR='"$(sbindir)"'
tensorport_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS) $(XXHASH_CFLAGS) $(CRYPTO_CFLAGS)
tensorport_LDADD = libsynth.a $(FS_LIBS) $(CRYPTO_LIBS)

noinst_LIBRARIES += libsynth.a
libsynth_a_SOURCES = \
	fs/export/command_synth.c \
	fs/export/common/json_print.c fs/export/common/json_print.h \
	fs/export/common/output.c fs/export/common/output.h \
	fs/export/synth/json_read.c fs/export/synth/json_read.h \
	fs/export/synth/synth.c fs/export/synth/synth.h \
	fs/export/synth/synth_config.c fs/export/synth/synth_config.h \
	fs/export/synth/synth_fill.c fs/export/synth/synth_fill.h \
	fs/export/synth/synth_plan.c fs/export/synth/synth_plan.h \
	fs/export/synth/synth_random.c fs/export/synth/synth_random.h \
	fs/export/synth/synth_weights.c fs/export/synth/synth_weights.h \
	fs/export/synth/synth_words.c fs/export/synth/synth_words.h \
	fs/export/synth/synth_write.c fs/export/synth/synth_write.h
libsynth_a_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS) -ffp-contract=off

systemdsystemunit_DATA = fs/mount/tensorport-mount@.service
EXTRA_DIST += fs/mount/tensorport-mount@.service.in
CLEANFILES += fs/mount/tensorport-mount@.service
fs/mount/tensorport-mount@.service: fs/mount/tensorport-mount@.service.in Makefile
	$(AM_V_GEN)$(MKDIR_P) fs/mount && \
	sed 's|@bindir[@]|$(bindir)|g' $(srcdir)/fs/mount/tensorport-mount@.service.in >$@
