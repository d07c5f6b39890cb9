# TP_COMPILER_WARNINGS
# The warnings every file is held to. --enable-werror turns them into errors: for
# continuous integration, not for users whose compiler is newer than ours.
AC_DEFUN([TP_COMPILER_WARNINGS], [
  AC_ARG_ENABLE([werror], [AS_HELP_STRING([--enable-werror], [treat compiler warnings as errors])],
    [], [enable_werror=no])
  WARNING_CFLAGS="-Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wwrite-strings -Wformat=2"
  AS_IF([test "x$enable_werror" = xyes], [WARNING_CFLAGS="$WARNING_CFLAGS -Werror"])
  AC_SUBST([WARNING_CFLAGS])
])

# TP_INSTRUCTION_SETS
# Which vector variants of the codecs are built. Each lives in a library of its own
# that alone is compiled with the flags of its instruction set.
AC_DEFUN([TP_INSTRUCTION_SETS], [
  AC_CANONICAL_HOST
  x86=no
  arm=no
  AS_CASE([$host_cpu], [x86_64], [x86=yes], [aarch64*], [arm=yes])
  AM_CONDITIONAL([BUILD_X86], [test $x86 = yes])
  AM_CONDITIONAL([BUILD_NEON], [test $arm = yes])
])

# TP_SANITIZERS
# --enable-sanitizers=address,undefined or =thread: the daemon under the tests.
AC_DEFUN([TP_SANITIZERS], [
  AC_ARG_ENABLE([sanitizers],
    [AS_HELP_STRING([--enable-sanitizers=LIST], [build with -fsanitize=LIST])],
    [], [enable_sanitizers=no])
  SANITIZER_CFLAGS=
  AS_IF([test "x$enable_sanitizers" != xno],
    [SANITIZER_CFLAGS="-fsanitize=$enable_sanitizers -fno-omit-frame-pointer -fno-sanitize-recover=all"])
  AC_SUBST([SANITIZER_CFLAGS])
  AM_CONDITIONAL([SANITIZED], [test "x$enable_sanitizers" != xno])
])

# TP_SYSTEMD
# sd_notify is optional: everything works without systemd.
AC_DEFUN([TP_SYSTEMD], [
  AC_ARG_WITH([systemd], [AS_HELP_STRING([--with-systemd], [tell systemd when the mount is ready @<:@check@:>@])],
    [], [with_systemd=check])
  AS_IF([test "x$with_systemd" != xno],
    [PKG_CHECK_MODULES([SYSTEMD], [libsystemd],
      [AC_DEFINE([HAVE_SYSTEMD], [1], [Define when sd_notify is there.])],
      [AS_IF([test "x$with_systemd" = xyes], [AC_MSG_ERROR([libsystemd was asked for and not found])])])])
  AC_ARG_WITH([systemdsystemunitdir],
    [AS_HELP_STRING([--with-systemdsystemunitdir=DIR], [where the unit goes])],
    [], [with_systemdsystemunitdir='${prefix}/lib/systemd/system'])
  AC_SUBST([systemdsystemunitdir], [$with_systemdsystemunitdir])
])

# TP_COMPLETIONS
# Where bash looks for completions: what the package bash-completion says, but below our prefix.
AC_DEFUN([TP_COMPLETIONS], [
  AC_ARG_WITH([bashcompletiondir],
    [AS_HELP_STRING([--with-bashcompletiondir=DIR], [where completions for bash go])],
    [], [with_bashcompletiondir=`$PKG_CONFIG --define-variable=prefix='${prefix}' --variable=completionsdir bash-completion 2>/dev/null`])
  AS_CASE(["x$with_bashcompletiondir"], [x|xno|xyes],
    [with_bashcompletiondir='${datadir}/bash-completion/completions'])
  AC_SUBST([bashcompletiondir], [$with_bashcompletiondir])
])

# TP_TESTS
# What the tests need. A test that cannot run fails; leaving the Python half out is
# the user's decision, never the machine's.
AC_DEFUN([TP_TESTS], [
  AC_REQUIRE_AUX_FILE([tap-driver.sh])
  AC_PROG_AWK
  PKG_CHECK_MODULES([CRITERION], [criterion], [have_criterion=yes], [have_criterion=no])
  AM_CONDITIONAL([HAVE_CRITERION], [test $have_criterion = yes])
  AC_ARG_ENABLE([python-tests],
    [AS_HELP_STRING([--disable-python-tests], [leave out the tests that need numpy, jax and a mount])],
    [], [enable_python_tests=yes])
  AM_CONDITIONAL([PYTHON_TESTS], [test "x$enable_python_tests" = xyes])
  AC_ARG_VAR([PYTHON], [Python with the packages of tests/requirements.txt])
  AC_PATH_PROGS([PYTHON], [python3], [python3])
])

# TP_CUDA
# The GPU backend, a plugin: built where CUDA's compiler is found, 13 or later. DIR is where the
# toolkit is installed.
AC_DEFUN([TP_CUDA], [
  AC_ARG_WITH([cuda],
    [AS_HELP_STRING([--with-cuda=check|yes|no|DIR], [build the GPU backend with the CUDA toolkit @<:@check@:>@])],
    [], [with_cuda=check])
  AC_ARG_VAR([NVCC], [CUDA's compiler])
  AC_ARG_VAR([CUDA_ARCHITECTURES], [GPUs to make code for @<:@75 80 86 89 90a 100 120@:>@; the last one's PTX is for those to come])
  : ${CUDA_ARCHITECTURES="75 80 86 89 90a 100 120"}
  AS_IF([test "x$with_cuda" != xno], [
    AS_CASE(["$with_cuda"],
      [check|yes], [AC_PATH_PROG([NVCC], [nvcc], [], [$PATH$PATH_SEPARATOR/usr/local/cuda/bin])],
      [NVCC=$with_cuda/bin/nvcc])
    AC_MSG_CHECKING([for CUDA 13 or later])
    cuda_version=`"$NVCC" --version 2>/dev/null | sed -n 's/.*release \([[0-9]]*\).*/\1/p'`
    cuda_home=`dirname "$NVCC"`/..
    have_cuda=no
    AS_IF([test "0$cuda_version" -ge 13 && test -f "$cuda_home/lib64/libcudart_static.a"], [have_cuda=yes])
    AC_MSG_RESULT([$have_cuda${cuda_version:+, found $cuda_version}])
    AS_IF([test $have_cuda = no && test "x$with_cuda" != xcheck],
      [AC_MSG_ERROR([the CUDA toolkit was asked for and not found, or is older than 13])])
  ], [have_cuda=no])
  AM_CONDITIONAL([BUILD_CUDA], [test $have_cuda = yes])
  CUDA_CODE_FLAGS=
  for architecture in $CUDA_ARCHITECTURES; do
    CUDA_CODE_FLAGS="$CUDA_CODE_FLAGS -gencode arch=compute_$architecture,code=sm_$architecture"
  done
  CUDA_CODE_FLAGS="$CUDA_CODE_FLAGS -gencode arch=compute_$architecture,code=compute_$architecture"
  AC_SUBST([CUDA_HOME], [$cuda_home])
  AC_SUBST([CUDA_CODE_FLAGS])
])

# TP_XLA
# The kernels for JAX: built where the header of XLA's foreign function interface is found, which comes
# with jaxlib. DIR is what jax.ffi.include_dir() says.
AC_DEFUN([TP_XLA], [
  AC_ARG_WITH([xla],
    [AS_HELP_STRING([--with-xla=check|yes|no|DIR], [build the kernels for JAX with the header that jaxlib brings @<:@check@:>@])],
    [], [with_xla=check])
  xla_directory=
  AS_CASE(["$with_xla"],
    [no], [],
    [check|yes], [xla_directory=`"$PYTHON" -c 'import jax.ffi; print(jax.ffi.include_dir())' 2>/dev/null`],
    [xla_directory=$with_xla])
  AC_MSG_CHECKING([for xla/ffi/api/c_api.h])
  have_xla=no
  AS_IF([test -n "$xla_directory" && test -f "$xla_directory/xla/ffi/api/c_api.h"], [have_xla=yes])
  AC_MSG_RESULT([$have_xla${xla_directory:+, in $xla_directory}])
  AS_IF([test $have_xla = no && test "x$with_xla" != xcheck && test "x$with_xla" != xno],
    [AC_MSG_ERROR([XLA's header was asked for and not found: install jax for $PYTHON, or say --with-xla=DIR])])
  AM_CONDITIONAL([BUILD_XLA], [test $have_xla = yes])
  AC_SUBST([XLA_CPPFLAGS], ["-isystem $xla_directory"])
])
