#include "points.h"

#ifdef RINGWAL_POINTS
#include "atomics.h"

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint32_t point_hits;

/* The order in force: from the environment, or from the file that makes it a one-shot. */
static int order(char *text, size_t size, const char *once)
{
    const char *want = getenv("RINGWAL_POINT");
    if (want != NULL)
        return snprintf(text, size, "%s", want);
    int fd = once ? open(once, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n = fd >= 0 ? read(fd, text, size - 1) : -1;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0;
}

int rw_point(const char *name)
{
    /* One shot for the whole engine, while this file exists: a test makes it when the load is
     * running, and a replacement process must not run into the same point again. Visits before it
     * exists do not count. */
    const char *once = getenv("RINGWAL_POINT_ONCE");
    char copy[256];
    if ((once != NULL && access(once, F_OK) != 0) || !order(copy, sizeof copy, once))
        return 0;
    char *rest = copy;
    const char *point = strsep(&rest, ":"), *hit = strsep(&rest, ":"), *action = strsep(&rest, ":");
    long argument = rest ? atol(rest) : 0;
    if (action == NULL || strcmp(point, name) != 0)
        return 0;
    uint32_t seen = rw_add32(&point_hits, 1) + 1;
    if (strcmp(hit, "*") != 0 && seen != (uint32_t)atoi(hit))
        return 0;
    if (once != NULL && unlink(once) != 0)
        return 0;
    if (strcmp(action, "kill") == 0)
        kill(getpid(), SIGKILL);
    else if (strcmp(action, "stop") == 0)
        /* to this thread, or it might go on for a while before the others have stopped it */
        raise(SIGSTOP);
    else if (strcmp(action, "delay") == 0)
        nanosleep(&(struct timespec){argument / 1000, argument % 1000 * 1000000}, NULL);
    else if (strcmp(action, "errno") == 0)
        return (int)argument;
    return 0;
}
#else
typedef int rw_points_are_absent;
#endif
