#include "invariant.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        return; /* nobody listens; what counts is the end */
}

void rw_broken(const char *file, int line, const char *condition)
{
    char digits[16], *at = digits + sizeof digits;
    *--at = 0;
    do
        *--at = (char)('0' + line % 10);
    while ((line /= 10) != 0);
    say("ringwal: ");
    say(file);
    say(":");
    say(at);
    say(": ");
    say(condition);
    say(" does not hold; this process ends\n");
    abort();
}
