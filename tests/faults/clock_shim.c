/* Preloaded into processes under test: their wall clock is off by what the test says, from one
 * moment to the next. Theirs alone: the machine's own clock is not touched, so nothing has to be
 * put right again, whoever dies. RINGWAL_CLOCK names a shared file whose first word is the shift in
 * nanoseconds. */
#define _GNU_SOURCE
#include "atomics.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { SECOND = 1000000000 };

static const uint64_t *shift;

__attribute__((constructor)) static void attach(void)
{
    const char *path = getenv("RINGWAL_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED)
        shift = at;
}

static int is_wall(clockid_t id)
{
    return id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE || id == CLOCK_TAI;
}

int clock_gettime(clockid_t id, struct timespec *t)
{
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int rc = real(id, t);
    if (rc == 0 && shift != NULL && is_wall(id)) {
        int64_t ns = (int64_t)t->tv_sec * SECOND + t->tv_nsec + (int64_t)rw_load64(shift);
        t->tv_sec = ns / SECOND;
        t->tv_nsec = ns % SECOND;
    }
    return rc;
}

time_t time(time_t *out)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (out != NULL)
        *out = t.tv_sec;
    return t.tv_sec;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
    struct timespec t;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &t);
    out->tv_sec = t.tv_sec;
    out->tv_usec = t.tv_nsec / 1000;
    return 0;
}
