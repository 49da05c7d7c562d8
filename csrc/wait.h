/* Park and wake on a shared 32-bit word, and the clock for bounded spins.
 *
 * PARK AND WAKE, the one pattern used everywhere
 *
 *   sleeper                                  waker
 *     1 announce itself        (seq_cst)       1 change the word     (seq_cst)
 *     2 read the word          (seq_cst)       2 is anybody announced? (seq_cst)
 *     3 look again for work                    3 if so: wake
 *     4 sleep if the word still is as read
 *
 * Both sides store first and load second, sequentially consistent. In the total order of those four
 * accesses either the sleeper's announcement comes before the waker's look, and the waker wakes
 * (the kernel compares the word under its own lock, so a wake between 2 and 4 makes 4 return at
 * once), or the waker's change comes before the sleeper's step 2 or 3, and the sleeper finds the
 * work. With acquire and release alone both loads may pass both stores and the sleeper sleeps on
 * work that is there. tests/model checks this and shows the failure without the fence.
 */
#ifndef RW_WAIT_H
#define RW_WAIT_H

#include <stdint.h>

/* Sleeps while *word == seen, at most timeout_ns. RW_OK: woken or changed; RW_PENDING: time is
 * over; RW_INTERRUPTED: a signal came. Spurious RW_OK is allowed; the caller looks again. Works on
 * read-only mappings. */
int rw_park(const uint32_t *word, uint32_t seen, uint64_t timeout_ns);

/* Wakes up to `count` sleepers. */
void rw_unpark(const uint32_t *word, int count);

/* Adds 1 to an eventfd; a full or closed one is left alone (it is already signalled, or nobody is
 * there). */
void rw_signal_fd(int fd);

/* Monotonic, and as people have it. */
uint64_t rw_now_ns(void);
uint64_t rw_wall_ns(void);

/* The half of a 64-bit word that changes first, as a futex word (little endian). */
static inline const uint32_t *rw_low_half(const uint64_t *word) { return (const uint32_t *)word; }

#endif
