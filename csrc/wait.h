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
 *
 * THE BELL
 *
 * A client whose event loop must not sleep in a futex has a descriptor for each of its lanes, which
 * its loop polls. The drain rings it, at most once per batch, and only while the client wants it:
 *
 *   client                                   drain
 *     1 bell_wanted = 1        (seq_cst)       1 fill the cells; confirmed_offset
 *     2 look at what it awaits                 2 bell_wanted?           (seq_cst)
 *     3 sleep in epoll on the bell             3 if so: ring
 *     4 take the ring, then look again
 *
 * Stores first and loads second on both sides, as above: either 1 comes before the drain's 2, which
 * rings, or the cell before the client's 2, which finds it. The bell keeps a ring until it is
 * taken, so there is no word to compare and 3 may come as late as it likes. It is taken before the
 * look: a ring that comes in between is for something that the look may miss.         PAIR: bell
 *
 * ITS TWO ENDS. The drain has an eventfd, the client an epoll descriptor that listens to it, for
 * edges. To ring is one write; to take the ring is one look (rw_take_bell), after which the
 * descriptor is silent until the next write. The eventfd is nobody's but the engine's: whether a
 * write may block is a flag of the open file, which all that have it share, so a client that had it
 * could make the drain sleep in the write, between any look of the drain's and the write itself. It
 * counts rings and is never read, which 2^64 of them would need. What a client does with its own
 * end, close it, keep it in a fork or never listen, is nothing to the drain. A pipe would not do:
 * who reads from it holds a lock against its writer while it copies to memory of its own choice.
 *
 * Who awaits a tail registers in the lane's table, then does 1, or finds it done; the drain loads
 * bell_wanted, then the table. So the later one of the client's two stores is its announcement, and
 * all it says is there to be seen by then.
 *
 * ROOM in a full lane, and a free number, need no ring of their own. Where a request finds no room,
 * there are claimed bytes at `head`: a request that is published, or that a thread of the same
 * process is about to publish. `head` moves beyond it when its block is sealed, before the block is
 * handed out to be written (a successor moves it before it writes anything); so its completion, an
 * offset or a refusal (a verdict is in a block, too), comes after its space. The client's look in 2
 * found `head` still below, so 1 came before the drain's 2 for that completion, and it rings. A
 * lane full of requests that nobody has taken yet is no exception: theirs are the completions to
 * come.
 *
 * What rings nothing: the refusal of a whole lane (rw_slot.fault), in which nothing is confirmed
 * any more; the end of an engine, which the socket tells; a drain that had no descriptor left for
 * the bell. So who awaits looks now and then, as a thread that sleeps wakes up after its slice.
 *
 * A successor rings when it gets the bell, if it is wanted: its predecessor may have died between
 * cell and ring. What is not released it delivers again, but a tail's offset it finds confirmed
 * (tests/model/test_bell.py).
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

/* Takes what an eventfd has counted. Never waits, though a client may have made it blocking. */
void rw_take_fd(int fd);

/* Takes the ring of a bell, at the client's end. 1: it was rung since it was taken last. */
int rw_take_bell(int fd);

/* Monotonic, and as people have it. */
uint64_t rw_now_ns(void);
uint64_t rw_wall_ns(void);

/* The half of a 64-bit word that changes first, as a futex word (little endian). */
static inline const uint32_t *rw_low_half(const uint64_t *word) { return (const uint32_t *)word; }

#endif
