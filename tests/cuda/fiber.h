/* A stack of its own, and going over to it. */
#ifndef TENSORPORT_TESTS_CUDA_FIBER_H
#define TENSORPORT_TESTS_CUDA_FIBER_H

#include <stddef.h>
#include <ucontext.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>

/* The address sanitizer wants to see the change of stacks. */
class tp_fiber
{
    ucontext_t context;

  public:
    void prepare(void *stack, size_t bytes, void (*run)(void))
    {
        __asan_unpoison_memory_region(stack, bytes); /* what was left there never returned */
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = bytes;
        context.uc_link = NULL;
        makecontext(&context, run, 0);
    }

    void go_to(tp_fiber &other)
    {
        swapcontext(&context, &other.context);
    }

    void prefetch() const
    {
    }
};

#else

/* swapcontext() asks the kernel for the signal mask each time, a jump does not. */
class tp_fiber
{
    void *place[5];
    ucontext_t *beginning = NULL; /* until it has begun; lies on its stack */

    [[noreturn]] __attribute__((noinline)) void begin()
    {
        const ucontext_t *context = beginning;
        beginning = NULL;
        setcontext(context);
        __builtin_unreachable();
    }

  public:
    /* `run` on that stack when somebody goes there; it must not return. */
    void prepare(void *stack, size_t bytes, void (*run)(void))
    {
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
    __attribute__((noinline)) void go_to(tp_fiber &other)
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

#endif
