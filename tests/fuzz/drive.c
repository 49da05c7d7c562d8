/* main() for a fuzz target where the compiler has no libFuzzer: mutates what it has, keeps what
 * reaches new code.
 *
 *   TARGET [-seed=N] [-runs=N] [-max_total_time=SECONDS] [-max_len=N] [-timeout=SECONDS]
 *          [-artifact_prefix=P] FILE|DIRECTORY...
 *
 * The flags are libFuzzer's, so that whoever runs a target need not know which of the two it has.
 * Files are run once each; with a directory its files are what mutation starts from. An input that
 * ends the program is left in P + "crash" and is named on stderr.
 */
#define _GNU_SOURCE
#include "fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <sanitizer/common_interface_defs.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { KEPT_MAX = 4096, REACHED = 1 << 16 };

typedef struct input {
    uint8_t *data;
    size_t size;
} input;

static struct {
    uint64_t seed, runs, seconds, max_length, timeout;
    const char *artifacts;
} o = {.seed = 1,
       .runs = UINT64_MAX,
       .seconds = UINT64_MAX,
       .max_length = 1 << 18,
       .timeout = 20,
       .artifacts = "./"};

static input kept[KEPT_MAX];
static uint32_t kept_count;
static fuzz_dice dice;
static input current;

/* ----------------------------------------------------------------------------- what was reached */

static uint8_t reached[REACHED];
static uint32_t news;

/* The compiler calls this in every block of the code under test (-fsanitize-coverage=trace-pc). */
void __sanitizer_cov_trace_pc(void);
void __sanitizer_cov_trace_pc(void)
{
    static uintptr_t last;
    uintptr_t here = (uintptr_t)__builtin_return_address(0);
    uint8_t *cell = &reached[(here ^ last >> 1) * 0x9e3779b97f4a7c15ull >> 48];
    last = here;
    news += *cell == 0;
    *cell = 1;
}

/* ------------------------------------------------------------------------------------- mutation */

static size_t change_bytes(uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    size_t at = fuzz_below(&dice, size);
    switch (fuzz_below(&dice, 4)) {
    case 0:
        data[at] ^= (uint8_t)(1u << fuzz_below(&dice, 8));
        break;
    case 1:
        data[at] = (uint8_t)fuzz_roll(&dice);
        break;
    case 2: {
        uint64_t value, width = 1ull << fuzz_below(&dice, 4);
        if (at + width > size)
            break;
        memcpy(&value, data + at, at + sizeof value <= size ? sizeof value : width);
        value = fuzz_edge(&dice, value);
        memcpy(data + at, &value, width);
        break;
    }
    default: {
        size_t from = fuzz_below(&dice, size), longest = size - (at > from ? at : from);
        memmove(data + at, data + from, fuzz_below(&dice, longest + 1));
    }
    }
    return size;
}

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max)
{
    for (uint64_t left = 1 + fuzz_below(&dice, 6); left > 0; left--) {
        uint64_t kind = fuzz_below(&dice, 8);
        size_t at = fuzz_below(&dice, size + 1), n = 1 + fuzz_below(&dice, 64);
        if (kind == 0 && size + n <= max) {
            memmove(data + at + n, data + at, size - at);
            for (size_t i = 0; i < n; i++)
                data[at + i] = (uint8_t)fuzz_roll(&dice);
            size += n;
        } else if (kind == 1 && at + n <= size && size > n) {
            memmove(data + at, data + at + n, size - at - n);
            size -= n;
        } else if (kind == 2) {
            const input *other = &kept[fuzz_below(&dice, kept_count)];
            size_t from = fuzz_below(&dice, other->size + 1), most = other->size - from;
            most = most < max - at ? most : max - at;
            memcpy(data + at, other->data + from, most);
            size = at + most > size ? at + most : size;
        } else {
            size = change_bytes(data, size);
        }
    }
    return size;
}

/* A target with no form of its own to keep. */
__attribute__((weak)) size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max,
                                                     unsigned seed)
{
    (void)seed;
    return LLVMFuzzerMutate(data, size, max);
}

/* ----------------------------------------------------------------------------------------- runs */

static void leave(void)
{
    static int once;
    if (current.data == NULL || once++)
        return;
    char path[4096];
    snprintf(path, sizeof path, "%scrash", o.artifacts);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd >= 0 && write(fd, current.data, current.size) == (ssize_t)current.size)
        fprintf(stderr, "the input is in %s\n", path);
    if (fd >= 0)
        close(fd);
}

static void on_signal(int number)
{
    fprintf(stderr, number == SIGALRM ? "ALARM: the input takes more than %lu s\n" : "ABORT\n",
            o.timeout);
    leave();
    _exit(77);
}

static void run(uint8_t *data, size_t size)
{
    current = (input){fuzz_copy(data, size), size};
    alarm((unsigned)o.timeout);
    LLVMFuzzerTestOneInput(current.data, size);
    alarm(0);
    free(current.data);
    current.data = NULL;
}

static void keep(const uint8_t *data, size_t size)
{
    uint32_t place = kept_count < KEPT_MAX ? kept_count++ : (uint32_t)fuzz_below(&dice, KEPT_MAX);
    free(kept[place].data);
    kept[place] = (input){fuzz_copy(data, size), size};
}

static int run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = fuzz_bytes(o.max_length);
    size_t size = file == NULL ? 0 : fread(data, 1, o.max_length, file);
    if (file != NULL) {
        fclose(file);
        run(data, size);
        keep(data, size);
    }
    free(data);
    return file != NULL;
}

static void run_directory(const char *path)
{
    struct dirent **names;
    int count = scandir(path, &names, NULL, alphasort);
    FUZZ_REQUIRE(count >= 0);
    for (int i = 0; i < count; i++) {
        char file[4096];
        snprintf(file, sizeof file, "%s/%s", path, names[i]->d_name);
        if (names[i]->d_name[0] != '.')
            run_file(file);
        free(names[i]);
    }
    free(names);
}

static void option(const char *flag)
{
    static const struct {
        const char *name;
        uint64_t *value;
    } numbers[] = {{"-seed=", &o.seed},
                   {"-runs=", &o.runs},
                   {"-max_total_time=", &o.seconds},
                   {"-max_len=", &o.max_length},
                   {"-timeout=", &o.timeout}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strncmp(flag, numbers[i].name, strlen(numbers[i].name)) == 0)
            *numbers[i].value = strtoull(flag + strlen(numbers[i].name), NULL, 10);
    if (strncmp(flag, "-artifact_prefix=", 17) == 0)
        o.artifacts = flag + 17;
}

int main(int argc, char **argv)
{
    int corpus = 0;
    uint64_t done = 0;
    for (int i = 1; i < argc; i++)
        if (argv[i][0] == '-')
            option(argv[i]);
    dice.state = o.seed;
    __sanitizer_set_death_callback(leave);
    signal(SIGABRT, on_signal);
    signal(SIGALRM, on_signal);
    for (int i = 1; i < argc; i++) {
        struct stat s;
        if (argv[i][0] == '-' || stat(argv[i], &s) != 0)
            continue;
        if (S_ISDIR(s.st_mode)) {
            corpus = 1;
            run_directory(argv[i]);
        } else {
            done += (uint64_t)run_file(argv[i]);
        }
    }
    uint8_t *data = fuzz_bytes(o.max_length);
    time_t began = time(NULL);
    while (corpus && kept_count > 0 && done < o.runs &&
           (uint64_t)(time(NULL) - began) < o.seconds) {
        const input *from = &kept[fuzz_below(&dice, kept_count)];
        size_t size = from->size < o.max_length ? from->size : o.max_length;
        memcpy(data, from->data, size);
        size = LLVMFuzzerCustomMutator(data, size, o.max_length, (unsigned)fuzz_roll(&dice));
        news = 0;
        run(data, size);
        done++;
        if (news != 0)
            keep(data, size);
    }
    free(data);
    for (uint32_t i = 0; i < kept_count; i++)
        free(kept[i].data);
    fprintf(stderr, "Done %lu runs in %ld second(s)\n", done, (long)(time(NULL) - began));
    return 0;
}
