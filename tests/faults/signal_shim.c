/* Preloaded into processes under test: signals that would end them interrupt them instead, whatever
 * system call they are in, and none is taken up again by the kernel. */
#define _GNU_SOURCE
#include <signal.h>
#include <stddef.h>

static void interrupt(int number) { (void)number; }

__attribute__((constructor)) static void attach(void)
{
    static const int numbers[] = {SIGUSR1, SIGUSR2, SIGALRM, SIGWINCH, SIGCHLD};
    struct sigaction action = {.sa_handler = interrupt};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaction(numbers[i], &action, NULL);
}
