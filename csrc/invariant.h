/* What the essays say always holds, checked where it is relied upon.
 *
 * RW_ASSERT is in every build: a few instructions on values that the code has in hand anyway, and a
 * branch that is never taken. RW_ASSERT_SLOW reads more, and is in builds for tests only
 * (RW_SLOW_ASSERTS). A process that breaks an invariant ends at once, before it writes or confirms
 * anything more: it says what, and aborts. What comes then is what comes when a process is killed:
 * its successor believes shared memory and the disk, and too many deaths end the engine.
 *
 * Only words that the engine's own processes write are asserted on, never what a client writes: its
 * lane may hold anything (lane.h), and harms nobody but itself. In a client only its private words
 * are.
 *
 * Not assert.h: the system's header of that name would then be this one for whoever compiles with
 * -Icsrc. */
#ifndef RW_INVARIANT_H
#define RW_INVARIANT_H

/* "file:line: condition does not hold" on stderr, by calls that are safe anywhere; then SIGABRT. */
__attribute__((noreturn, cold)) void rw_broken(const char *file, int line, const char *condition);

#define RW_ASSERT(condition) \
    (__builtin_expect(!!(condition), 1) ? (void)0 : rw_broken(__FILE__, __LINE__, #condition))

#ifdef RW_SLOW_ASSERTS
#define RW_ASSERT_SLOW(condition) RW_ASSERT(condition)
#else
#define RW_ASSERT_SLOW(condition) ((void)sizeof(condition))
#endif

#endif
