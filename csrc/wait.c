#define _GNU_SOURCE
#include "wait.h"

#include "atomics.h"
#include "status.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

int rw_park(const uint32_t *word, uint32_t seen, uint64_t timeout_ns)
{
    if (timeout_ns == 0) /* a look: the kernel would sleep for a timer's slack, and hold a loop */
        return rw_load32_seq(word) == seen ? RW_PENDING : RW_OK;
    struct timespec t = {.tv_sec = (time_t)(timeout_ns / 1000000000u),
                         .tv_nsec = (long)(timeout_ns % 1000000000u)};
    if (syscall(SYS_futex, word, FUTEX_WAIT, seen, &t, NULL, 0) == 0 || errno == EAGAIN)
        return RW_OK;
    return errno == EINTR ? RW_INTERRUPTED : RW_PENDING;
}

void rw_unpark(const uint32_t *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
}

void rw_signal_fd(int fd)
{
    uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

void rw_take_fd(int fd)
{
    uint64_t rings;
    struct iovec into = {.iov_base = &rings, .iov_len = sizeof rings};
    if (preadv2(fd, &into, 1, -1, RWF_NOWAIT) < 0 && errno != EAGAIN) /* before Linux 5.8 */
        (void)!read(fd, &rings, sizeof rings);
}

int rw_take_bell(int fd)
{
    struct epoll_event rung;
    return epoll_wait(fd, &rung, 1, 0) == 1;
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t rw_now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }
uint64_t rw_wall_ns(void) { return clock_ns(CLOCK_REALTIME); }
