/* A stack of its own, and going over to it. */
#ifndef TENSORPORT_TESTS_CUDA_FIBER_H
#define TENSORPORT_TESTS_CUDA_FIBER_H

#include <stddef.h>
#include <ucontext.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

/* Jumps that the address sanitizer must not take for the end of all that is on a stack. */
#define TP_JUMPS __attribute__((noinline, no_sanitize("address")))

/* swapcontext() asks the kernel for the signal mask each time, a jump does not. */
class tp_fiber
{
    void *place[5];
    ucontext_t *beginning = NULL; /* until it has begun; lies on its stack */

    [[noreturn]] TP_JUMPS void begin()
    {
        const ucontext_t *context = beginning;
        beginning = NULL;
        setcontext(context);
        __builtin_unreachable();
    }

  public:
    /* `run` on that stack when somebody goes there; it must not return. What was left on the stack
     * is forgotten. */
    void prepare(void *stack, size_t bytes, void (*run)(void))
    {
        ASAN_UNPOISON_MEMORY_REGION(stack, bytes);
        ucontext_t *context = (ucontext_t *)stack;
        getcontext(context);
        context->uc_stack.ss_sp = context + 1;
        context->uc_stack.ss_size = bytes - sizeof *context;
        context->uc_link = NULL;
        makecontext(context, run, 0);
        beginning = context;
    }

    /* Leaves this one, the one that runs, until somebody comes back to it. The jump is no call, so
     * that the processor foresees the return: fibers mostly stop at the same place. */
    TP_JUMPS void go_to(tp_fiber &other)
    {
        if (__builtin_setjmp(place) != 0)
            return;
        if (other.beginning != NULL)
            other.begin();
        __builtin_longjmp(other.place, 1);
    }

    /* What is needed first when it goes on. */
    void prefetch() const
    {
        const char *top = (const char *)place[2]; /* of its stack */
        __builtin_prefetch(top);
        __builtin_prefetch(top + 64);
        __builtin_prefetch(top + 128);
    }
};

#endif
