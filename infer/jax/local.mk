# The kernels for JAX, in one shared object that XLA calls through its foreign function interface, and
# the Python package on top. `make` leaves the package, the object beside it, in infer/jax/python of
# the build folder, as pip installs it or PYTHONPATH names it.
xla_files = \
	infer/jax/attention.c \
	infer/jax/calls.c infer/jax/calls.h \
	infer/jax/experts.c \
	infer/jax/floats.c infer/jax/floats.h \
	infer/jax/frame.c infer/jax/frame.h \
	infer/jax/handlers.h \
	infer/jax/process.c infer/jax/process.h \
	infer/jax/products.c \
	infer/jax/quantization.c

JAX_PACKAGE = \
	infer/jax/python/README.md \
	infer/jax/python/pyproject.toml \
	infer/jax/python/tensorport/__init__.py \
	infer/jax/python/tensorport/_batching.py \
	infer/jax/python/tensorport/_ffi.py \
	infer/jax/python/tensorport/attention.py \
	infer/jax/python/tensorport/cache.py \
	infer/jax/python/tensorport/config.py \
	infer/jax/python/tensorport/dense.py \
	infer/jax/python/tensorport/generate.py \
	infer/jax/python/tensorport/gpt_oss.py \
	infer/jax/python/tensorport/manifest.py \
	infer/jax/python/tensorport/mounting.py \
	infer/jax/python/tensorport/mxfp4.py \
	infer/jax/python/tensorport/nnx.py \
	infer/jax/python/tensorport/rope.py \
	infer/jax/python/tensorport/sampling.py \
	infer/jax/python/tensorport/shards.py \
	infer/jax/python/tensorport/text.py \
	infer/jax/python/tensorport/view.py \
	infer/jax/python/tensorport/py.typed \
	infer/jax/python/setup.py

# The same for CUDA, on the plugin's kernels; device_cuda.c is the device's side of it, or what the
# tests have in its place.
xla_cuda_files = \
	cuda/arena.c \
	decode/dtype.c \
	decode/error.c \
	infer/jax/calls.c infer/jax/calls.h \
	infer/jax/cuda/attention.c \
	infer/jax/cuda/experts.c \
	infer/jax/cuda/gpu.c infer/jax/cuda/gpu.h \
	infer/jax/cuda/products.c \
	infer/jax/cuda/quantization.c \
	infer/jax/frame.c infer/jax/frame.h \
	infer/jax/handlers.h

EXTRA_DIST += $(JAX_PACKAGE) $(xla_files) $(xla_cuda_files)

# Out of the source tree; a build inside it has the files in place.
jax-package: $(JAX_PACKAGE)
	$(AM_V_GEN)for file in $(JAX_PACKAGE); do \
		test $$file -ef $(srcdir)/$$file && continue; \
		$(MKDIR_P) `dirname $$file` && cmp -s $(srcdir)/$$file $$file || cp -f $(srcdir)/$$file $$file || exit; \
	done
	$(AM_V_at)chmod u+w infer/jax/python infer/jax/python/tensorport
.PHONY: jax-package

# Where `make install` puts the library, for a package that has none beside it.
jax_installed = infer/jax/python/tensorport/_installed.py
$(jax_installed): Makefile
	$(AM_V_GEN)$(MKDIR_P) $(@D) && echo 'PKGLIBDIR = "$(pkglibdir)"' > $@
CLEANFILES += $(jax_installed)
all-local: jax-package $(jax_installed) $(jax_library)
clean-local:
	test infer/jax/python -ef $(srcdir)/infer/jax/python || rm -rf infer/jax/python

if BUILD_XLA
noinst_LIBRARIES += libxla.a
libxla_a_SOURCES = $(xla_files)
libxla_a_CPPFLAGS = $(AM_CPPFLAGS) $(XLA_CPPFLAGS)

xla_libraries = $(filter %.a,$(INFER_LIBS))
tensorport-xla.so: libxla.a $(xla_libraries)
	$(AM_V_CCLD)$(CC) -shared $(AM_CFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ -Wl,--whole-archive libxla.a \
		-Wl,--no-whole-archive $(xla_libraries) $(LZ4_LIBS) $(XXHASH_LIBS) -Wl,-z,defs $(LIBS)

jax_library = infer/jax/python/tensorport/tensorport-xla.so
$(jax_library): tensorport-xla.so
	$(AM_V_GEN)$(MKDIR_P) $(@D) && rm -f $@ && cp $< $@

xladir = $(pkglibdir)
xla_DATA = tensorport-xla.so
CLEANFILES += tensorport-xla.so $(jax_library)

if BUILD_CUDA
noinst_LIBRARIES += libxla_cuda.a
libxla_cuda_a_SOURCES = $(xla_cuda_files) cuda/device_cuda.c
libxla_cuda_a_CFLAGS = $(cuda_host_flags)
libxla_cuda_a_CPPFLAGS = $(AM_CPPFLAGS) $(XLA_CPPFLAGS) -isystem $(CUDA_HOME)/include

# Choosing tokens and measuring peaks are tpinfer's.
xla_cuda_objects = $(filter-out cuda/choose.% cuda/peaks.%,$(cuda_objects))
tensorport-xla-cuda.so: libxla_cuda.a $(xla_cuda_objects)
	$(AM_V_CCLD)$(CXX) -shared $(LDFLAGS) -o $@ $(xla_cuda_objects) -Wl,--whole-archive libxla_cuda.a \
		-Wl,--no-whole-archive -Wl,-z,defs $(cuda_libraries)

jax_cuda_library = infer/jax/python/tensorport/tensorport-xla-cuda.so
$(jax_cuda_library): tensorport-xla-cuda.so
	$(AM_V_GEN)$(MKDIR_P) $(@D) && rm -f $@ && cp $< $@
noinst_DATA = $(jax_cuda_library)

xla_DATA += tensorport-xla-cuda.so
CLEANFILES += tensorport-xla-cuda.so $(jax_cuda_library)
endif
endif
