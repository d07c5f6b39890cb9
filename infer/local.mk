# The companion that runs models from the view. It knows the view's files, and of the code beside
# it only decode/ and fs/base.
noinst_LIBRARIES += libinfer.a

libinfer_a_SOURCES = \
	infer/model/config.c infer/model/config.h \
	infer/model/config_rope.c infer/model/config_rope.h \
	infer/model/faults.c infer/model/faults.h \
	infer/model/fields.c infer/model/fields.h \
	infer/model/memory.c infer/model/memory.h \
	infer/model/model.c infer/model/model.h \
	infer/model/rope.c infer/model/rope.h \
	infer/weights/load.c infer/weights/load.h \
	infer/weights/manifest.c infer/weights/manifest.h \
	infer/weights/mapping.c infer/weights/mapping.h \
	infer/weights/matrix.h \
	infer/weights/view.c infer/weights/view.h
# The frequencies of the rotary embedding are rounded as their reference does it.
libinfer_a_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS) -ffp-contract=off

INFER_LIBS = libinfer.a libfs.a $(DECODE_LIBS) $(CJSON_LIBS)
# The companion that runs models: each part adds its files to libinfer.a.
noinst_LIBRARIES += libinfer.a
libinfer_a_SOURCES =
libinfer_a_CFLAGS = $(AM_CFLAGS) -ffp-contract=off
INFER_LIBS = libinfer.a

include infer/cpu/local.mk

INFER_LIBS += $(FS_LIBS)
