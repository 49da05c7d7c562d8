#define _GNU_SOURCE
#include "contention.h"

#include <sched.h>
#include <stdlib.h>

bool rw_callers_open(rw_callers *k, rw_control *c)
{
    cpu_set_t mine;
    int processors = sched_getaffinity(0, sizeof mine, &mine) == 0 ? CPU_COUNT(&mine) : 1;
    *k = (rw_callers){.window = 1, .last = calloc(c->max_clients, sizeof *k->last)};
    rw_store32(&c->callers, 0);
    rw_store32(&c->contention, (uint32_t)processors * RW_CALLERS_PER_PROCESSOR);
    return k->last != NULL;
}

void rw_callers_close(rw_callers *k) { free(k->last); }

void rw_callers_publish(rw_callers *k, rw_control *c, uint64_t now_ns)
{
    uint32_t callers = k->now > k->before ? k->now : k->before;
    if (callers != rw_peek32(&c->callers))
        rw_store32(&c->callers, callers);
    if (now_ns < k->end_ns)
        return;
    k->before = now_ns - k->end_ns < RW_CALLERS_WINDOW_NS ? k->now : 0;
    k->now = 0;
    k->window++;
    k->end_ns = now_ns + RW_CALLERS_WINDOW_NS;
}
