noinst_LIBRARIES += libfs.a

# Everything but FUSE: what the mount and the exports share.
libfs_a_SOURCES = \
	fs/base/bytes.c fs/base/bytes.h \
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
	fs/export/artifact.c fs/export/artifact.h \
	fs/export/columns.c fs/export/columns.h \
	fs/export/command_convert.c \
	fs/export/command_doctor.c \
	fs/export/command_inspect.c \
	fs/export/command_mounts.c \
	fs/export/command_pack.c \
	fs/export/command_run.c \
	fs/export/command_umount.c \
	fs/export/command_verify.c \
	fs/export/commands.h \
	fs/export/container.c fs/export/container.h \
	fs/export/convert.c fs/export/convert.h \
	fs/export/differences.c fs/export/differences.h \
	fs/export/doctor.c fs/export/doctor.h \
	fs/export/doctor_memory.c \
	fs/export/doctor_model.c \
	fs/export/doctor_mounts.c \
	fs/export/doctor_system.c \
	fs/export/faults.c fs/export/faults.h \
	fs/export/files.c fs/export/files.h \
	fs/export/format_msgpack.c \
	fs/export/format_numpy.c \
	fs/export/format_pickle.c \
	fs/export/format_safetensors.c \
	fs/export/formats.c fs/export/formats.h \
	fs/export/hashes.c fs/export/hashes.h \
	fs/export/inventory.c fs/export/inventory.h \
	fs/export/journal.c fs/export/journal.h \
	fs/export/json_edit.c fs/export/json_edit.h \
	fs/export/keeper.c fs/export/keeper.h \
	fs/export/losses.c fs/export/losses.h \
	fs/export/main.c \
	fs/export/manifest_check.c \
	fs/export/manifest_read.c fs/export/manifest_read.h \
	fs/export/mount_probe.c fs/export/mount_probe.h \
	fs/export/mount_users.c fs/export/mount_users.h \
	fs/export/pack.c fs/export/pack.h \
	fs/export/pack_copy.c fs/export/pack_copy.h \
	fs/export/programs.c fs/export/programs.h \
	fs/export/statistics_print.c fs/export/statistics_print.h \
	fs/export/sums_read.c fs/export/sums_read.h \
	fs/export/tensor_statistics.c fs/export/tensor_statistics.h \
	fs/export/tile.c fs/export/tile.h \
	fs/export/transpose.c fs/export/transpose.h \
	fs/export/turns.c fs/export/turns.h \
	fs/export/unpack.c \
	fs/export/verify.c fs/export/verify.h \
	fs/export/verify_packed.c fs/export/verify_packed.h \
	fs/export/verify_read.c fs/export/verify_read.h \
	fs/export/verify_source.c fs/export/verify_source.h \
	fs/export/writer.c fs/export/writer.h \
	fs/export/writer_file.c fs/export/writer_file.h
tensorport_CPPFLAGS = $(AM_CPPFLAGS) -DTP_BINDIR='"$(bindir)"' -DTP_SBINDIR='"$(sbindir)"'
tensorport_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS) $(XXHASH_CFLAGS) $(CRYPTO_CFLAGS)
tensorport_LDADD = libsynth.a $(FS_LIBS) $(CRYPTO_LIBS)

noinst_LIBRARIES += libsynth.a
libsynth_a_SOURCES = \
	fs/export/command_synth.c \
	fs/export/json_print.c fs/export/json_print.h \
	fs/export/json_read.c fs/export/json_read.h \
	fs/export/output.c fs/export/output.h \
	fs/export/synth.c fs/export/synth.h \
	fs/export/synth_config.c fs/export/synth_config.h \
	fs/export/synth_fill.c fs/export/synth_fill.h \
	fs/export/synth_plan.c fs/export/synth_plan.h \
	fs/export/synth_random.c fs/export/synth_random.h \
	fs/export/synth_weights.c fs/export/synth_weights.h \
	fs/export/synth_write.c fs/export/synth_write.h
libsynth_a_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS) -ffp-contract=off

systemdsystemunit_DATA = fs/mount/tensorport-mount@.service
EXTRA_DIST += fs/mount/tensorport-mount@.service.in
CLEANFILES += fs/mount/tensorport-mount@.service
fs/mount/tensorport-mount@.service: fs/mount/tensorport-mount@.service.in Makefile
	$(AM_V_GEN)$(MKDIR_P) fs/mount && \
	sed 's|@bindir[@]|$(bindir)|g' $(srcdir)/fs/mount/tensorport-mount@.service.in >$@
