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
