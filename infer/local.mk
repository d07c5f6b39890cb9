# The companion that runs models: each part adds its files to libinfer.a.
noinst_LIBRARIES += libinfer.a
libinfer_a_SOURCES =
libinfer_a_CFLAGS = $(AM_CFLAGS) -ffp-contract=off
INFER_LIBS = libinfer.a

include infer/cpu/local.mk

INFER_LIBS += $(FS_LIBS)
