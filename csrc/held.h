/* Descriptors that are held by an object of Python's from the moment they exist.  A signal handler,
 * or another thread, may end what Python does between any two of its steps. A descriptor that is
 * only a number there, or whose finalizer is ended, stays open for good. So what open and recvmsg
 * bring is in its object, which C closes, before Python is asked anything. One thread at a time
 * changes it. */
#ifndef RW_HELD_H
#define RW_HELD_H

#include <stdint.h>

#define RW_DESCRIPTORS_MAX 8

/* Zeroed: none. A place whose descriptor was taken or closed holds -1. */
typedef struct rw_descriptors {
    int32_t count;
    int32_t fd[RW_DESCRIPTORS_MAX];
} rw_descriptors;

/* open(2), close-on-exec; `at` as with openat, -1 for the current directory.
 * The place, or -errno. */
int32_t rw_descriptor_open(rw_descriptors *d, int32_t at, const char *path, int32_t flags);

/* The next packet's first `size` bytes; does not wait. The number of bytes, or -errno. What came
 * with it is added to `into`, close-on-exec; `flags` are recvmsg's, which tell whether there were
 * more bytes. */
int64_t rw_receive(int socket, uint8_t *data, uint64_t size, rw_descriptors *into, int32_t *flags);

/* The descriptor, which is the caller's from now on; -1 if there is none. */
int32_t rw_descriptor_take(rw_descriptors *d, int32_t place);

/* Makes it the other's, if it is there. */
void rw_descriptor_move(rw_descriptors *d, int32_t place, rw_descriptors *to);

/* Closes it, if it is there. */
void rw_descriptor_close(rw_descriptors *d, int32_t place);
/* All of them, and the places are free. */
void rw_descriptors_close(rw_descriptors *d);

#endif
