/* Preloaded into an engine under test: notes every name that it makes below a directory, and every
 * directory that it syncs, in the order in which the calls returned, and dies when it has noted as
 * many as it is told. Some file systems sync a name along with its file; what relies on that shows
 * only where names that nobody synced are taken away. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static const char *root, *journal;
static int lines_left = -1;

__attribute__((constructor)) static void attach(void)
{
    root = getenv("RINGWAL_NAMES_ROOT");
    journal = getenv("RINGWAL_NAMES");
    const char *lines = getenv("RINGWAL_NAMES_LINES");
    if (lines != NULL)
        lines_left = atoi(lines);
}

static int ours(const char *path) { return root != NULL && strncmp(path, root, strlen(root)) == 0; }

/* The path that a call relative to an open directory means. */
static const char *whole(int at, const char *name, char *path)
{
    char link[64], base[PATH_MAX];
    if (at == AT_FDCWD || name[0] == '/')
        return name;
    snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    ssize_t n = readlink(link, base, sizeof base - 1);
    if (n <= 0)
        return name;
    base[n] = 0;
    if ((size_t)snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX)
        abort();
    return path;
}

/* Opened each time: the engine's children close what they do not know. One write each, so that the
 * lines of several processes do not mix. The caller's errno stays. */
static void note(char kind, const char *path)
{
    char line[PATH_MAX + 3];
    int error = errno;
    int n = snprintf(line, sizeof line, "%c %s\n", kind, path);
    int fd = REAL(open)(journal, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, line, (size_t)n) != n)
        abort();
    close(fd);
    if (--lines_left == 0)
        raise(SIGKILL);
    errno = error;
}

static int opened(int fd, const char *path, int known)
{
    if (fd >= 0 && !known)
        note('+', path);
    return fd;
}

#define DEFINE_OPEN(name)                                                         \
    int name(const char *path, int flags, ...)                                    \
    {                                                                             \
        va_list more;                                                             \
        va_start(more, flags);                                                    \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;   \
        va_end(more);                                                             \
        int known = !(flags & O_CREAT) || !ours(path) || access(path, F_OK) == 0; \
        return opened(REAL(name)(path, flags, mode), path, known);                \
    }

#define DEFINE_OPENAT(name)                                                        \
    int name(int at, const char *path, int flags, ...)                             \
    {                                                                              \
        char space[PATH_MAX];                                                      \
        va_list more;                                                              \
        va_start(more, flags);                                                     \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;    \
        va_end(more);                                                              \
        const char *full = whole(at, path, space);                                 \
        int known = !(flags & O_CREAT) || !ours(full) || access(full, F_OK) == 0;  \
        return opened(REAL(name)(at, path, flags, mode), full, known);             \
    }

DEFINE_OPEN(open)
DEFINE_OPEN(open64)
DEFINE_OPENAT(openat)
DEFINE_OPENAT(openat64)

static int made(int rc, const char *path)
{
    if (rc == 0 && ours(path))
        note('+', path);
    return rc;
}

static int removed(int rc, const char *path)
{
    if (rc == 0 && ours(path))
        note('-', path);
    return rc;
}

static int renamed(int rc, const char *from, const char *to)
{
    if (rc == 0 && ours(to)) {
        note('-', from);
        note('+', to);
    }
    return rc;
}

int mkdir(const char *path, mode_t mode) { return made(REAL(mkdir)(path, mode), path); }

int mkdirat(int at, const char *path, mode_t mode)
{
    char space[PATH_MAX];
    return made(REAL(mkdirat)(at, path, mode), whole(at, path, space));
}

int unlink(const char *path) { return removed(REAL(unlink)(path), path); }

int unlinkat(int at, const char *path, int flags)
{
    char space[PATH_MAX];
    return removed(REAL(unlinkat)(at, path, flags), whole(at, path, space));
}

int rename(const char *from, const char *to) { return renamed(REAL(rename)(from, to), from, to); }

int renameat(int old_at, const char *from, int new_at, const char *to)
{
    char old_space[PATH_MAX], new_space[PATH_MAX];
    int rc = REAL(renameat)(old_at, from, new_at, to);
    return renamed(rc, whole(old_at, from, old_space), whole(new_at, to, new_space));
}

int fsync(int fd)
{
    char link[64], path[PATH_MAX];
    struct stat st;
    int rc = REAL(fsync)(fd);
    if (rc != 0 || journal == NULL || fstat(fd, &st) != 0 || !S_ISDIR(st.st_mode))
        return rc;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n > 0) {
        path[n] = 0;
        note('s', path);
    }
    return rc;
}
