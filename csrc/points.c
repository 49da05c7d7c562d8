#include "points.h"

#ifdef RINGWAL_POINTS
#include "atomics.h"

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint32_t point_hits;

int rw_point(const char *name)
{
    const char *want = getenv("RINGWAL_POINT");
    if (want == NULL)
        return 0;
    char copy[256];
    snprintf(copy, sizeof copy, "%s", want);
    char *rest = copy;
    const char *point = strsep(&rest, ":"), *hit = strsep(&rest, ":"), *action = strsep(&rest, ":");
    long argument = rest ? atol(rest) : 0;
    if (action == NULL || strcmp(point, name) != 0)
        return 0;
    /* One shot for the whole engine, while this file exists: a test makes it when the load is running, and a replacement
     * process must not run into the same point again. Visits before it exists do not count. */
    const char *once = getenv("RINGWAL_POINT_ONCE");
    if (once != NULL && access(once, F_OK) != 0)
        return 0;
    uint32_t seen = rw_add32(&point_hits, 1) + 1;
    if (strcmp(hit, "*") != 0 && seen != (uint32_t)atoi(hit))
        return 0;
    if (once != NULL && unlink(once) != 0)
        return 0;
    if (strcmp(action, "kill") == 0)
        kill(getpid(), SIGKILL);
    else if (strcmp(action, "stop") == 0)
        kill(getpid(), SIGSTOP);
    else if (strcmp(action, "delay") == 0)
        nanosleep(&(struct timespec){argument / 1000, argument % 1000 * 1000000}, NULL);
    else if (strcmp(action, "errno") == 0)
        return (int)argument;
    return 0;
}
#else
typedef int rw_points_are_absent;
#endif
