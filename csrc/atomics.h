/* All atomic access of the project, and the only place that names a memory order.
 *
 * Four kinds of access cover every shared word:
 *
 *   load / store            acquire and release: "what was written before the store is seen after
 *                           the load".
 *   load_seq / store_seq    sequentially consistent: for the store-then-look pairs of park and
 *                           wake, where each side stores its own word and then reads the other's.
 *                           Acquire and release alone let both sides miss each other there (the
 *                           store buffer of x86 is enough).
 *   peek                    relaxed: a hint that is checked again before anyone relies on it.
 *   cas / add               read-modify-write, sequentially consistent.
 *
 * Words are plain integers in the shared structs (layout.h), so that Python, tests and a debugger
 * can look at them; the GCC/Clang __atomic builtins have C11 semantics on plain objects.
 */
#ifndef RW_ATOMICS_H
#define RW_ATOMICS_H

#include <stdbool.h>
#include <stdint.h>

_Static_assert(__atomic_always_lock_free(1, 0), "the persisted byte needs a lock-free byte CAS");
_Static_assert(__atomic_always_lock_free(4, 0), "futex words need lock-free 32-bit access");
_Static_assert(__atomic_always_lock_free(8, 0), "positions need lock-free 64-bit access");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "the log format and the futex words are little endian");

static inline uint8_t rw_load8(const uint8_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint32_t rw_load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint64_t rw_load64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

static inline void rw_store32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void rw_store64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

static inline uint32_t rw_load32_seq(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
static inline uint64_t rw_load64_seq(const uint64_t *p)
{
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
static inline void rw_store32_seq(uint32_t *p, uint32_t v)
{
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);
}
static inline void rw_store64_seq(uint64_t *p, uint64_t v)
{
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);
}

static inline uint32_t rw_peek32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint64_t rw_peek64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }

/* A counter with one writing thread: no read-modify-write is needed, only a store that cannot tear.
 */
static inline void rw_count64(uint64_t *p, uint64_t n)
{
    __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

static inline bool rw_cas8(uint8_t *p, uint8_t from, uint8_t to)
{
    return __atomic_compare_exchange_n(p, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
}
static inline bool rw_cas32(uint32_t *p, uint32_t *from, uint32_t to)
{
    return __atomic_compare_exchange_n(p, from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
}
static inline bool rw_cas64(uint64_t *p, uint64_t *from, uint64_t to)
{
    return __atomic_compare_exchange_n(p, from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
}
static inline uint32_t rw_add32(uint32_t *p, uint32_t n)
{
    return __atomic_fetch_add(p, n, __ATOMIC_SEQ_CST);
}
static inline uint32_t rw_sub32(uint32_t *p, uint32_t n)
{
    return __atomic_fetch_sub(p, n, __ATOMIC_SEQ_CST);
}
static inline uint64_t rw_add64(uint64_t *p, uint64_t n)
{
    return __atomic_fetch_add(p, n, __ATOMIC_SEQ_CST);
}

static inline void rw_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
/* Orders a copy out of shared memory before the re-check that validates it. */
static inline void rw_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void rw_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }

#endif
